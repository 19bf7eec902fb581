/**
 * A session of a machine that runs elsewhere: it answers what is pulled and can commit nothing, whatever the agent sends. And who gets one at all.
 */
import { randomUUID } from 'node:crypto';
import { beforeEach, describe, expect, it } from 'vitest';
import { raiseGeneration } from '../../receiver/catalog/generation.js';
import { readHighestManifest } from '../../receiver/catalog/manifest-io.js';
import { initialRecovery, type Recovery } from '../../receiver/catalog/recovery.js';
import { loadRecovery, writeRecovery } from '../../receiver/catalog/recovery-io.js';
import { whyUnknown } from '../../receiver/session/differences.js';
import { openStore } from '../../receiver/store/open.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { systemClock } from '../../shared/clock.js';
import type { AgentMessage } from '../../shared/wire/messages.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { DISK, HELLO_DISK, helloOf, MACHINE, TestAgent } from './ingest-fixture.js';

removeTempFolders();
let store: ObjectStore;
const deps = () => ({ store, clock: systemClock, randomId: randomUUID });

async function decide(home: Recovery['home']): Promise<void> {
  const before = await loadRecovery(store, MACHINE);
  await writeRecovery(deps(), before, { ...initialRecovery(MACHINE, 1), home });
}

beforeEach(async () => {
  store = await openStore(`file:${await tempFolder('restore-session')}/store`, { create: true });
  const agent = new TestAgent(store);
  await agent.hello();
  await agent.firstCopy(new Map([[1, Buffer.alloc(4096, 7)]]));
  await agent.end();
});

const committed = { ...HELLO_DISK, committedPoint: 1, hashStore: 'valid' as const };

describe('a restoring session', () => {
  const forbidden: readonly [string, (agent: TestAgent) => void][] = [
    ['a commit', (a) => a.say(a.commitMessage())],
    ['a cycle', (a) => a.begin()],
    ['data', (a) => a.data(new Map([[3, Buffer.alloc(4096, 9)]]))],
    ['the end of a segment', (a) => a.endSegment(0, 'sweep-delta')],
    ['a second hello', (a) => a.say(helloOf([committed]))],
    ['blocks without a goal', (a) => a.say(blocksRequest)],
  ];
  const blocksRequest: AgentMessage = {
    type: 'blocks-request',
    request: 1,
    disk: DISK,
    point: 1,
    segment: 0,
    blocks: new Uint8Array(2048),
  };

  it.each(forbidden)('ends on %s; the chain stays as it was', async (_name, send) => {
    await decide({ mode: 'restore', reason: 'failback' });
    const before = await readHighestManifest(store, MACHINE);
    const agent = new TestAgent(store);
    const welcome = await agent.hello(helloOf([committed]));
    expect(welcome).toMatchObject({ mode: 'restore', generation: 1, disks: [] });
    send(agent);
    await agent.done;
    expect(agent.transport.end?.code).toBe(4400);
    expect(await readHighestManifest(store, MACHINE)).toEqual(before);
  });

  it('a clone gets none, and is told so', async () => {
    await decide({ mode: 'restore', reason: 'failback' });
    const agent = new TestAgent(store);
    agent.say(helloOf([committed], { hardwareId: 'hardware-2' }));
    expect(await agent.transport.next('refused')).toMatchObject({ code: 4411 });
    await agent.done;
  });

  it('a source that comes back is refused with 4410 and told why', async () => {
    await decide({ mode: 'refused', reason: 'failed over to point 1' });
    const agent = new TestAgent(store);
    agent.say(helloOf([committed]));
    expect(await agent.transport.next('refused')).toMatchObject({ code: 4410, reason: 'failed over to point 1' });
    await agent.done;
  });
});

describe('a generation', () => {
  it('is granted to the machine that came home, and to no copy of it', async () => {
    const owned = await raiseGeneration(deps(), MACHINE, 1);
    await decide({ mode: 'replicate', generation: owned.manifest.generation });
    const clone = new TestAgent(store);
    clone.say(helloOf([committed], { hardwareId: 'hardware-2' }));
    expect(await clone.transport.next('refused')).toMatchObject({ code: 4411 });
    await clone.done;
    expect((await readHighestManifest(store, MACHINE))?.epoch).toBe(owned.epoch);
    const agent = new TestAgent(store);
    expect(await agent.hello(helloOf([committed]))).toMatchObject({ mode: 'replicate', generation: 2 });
    await agent.end();
  });

  it('is not granted while manifest and decision differ', async () => {
    await decide({ mode: 'replicate', generation: 1 });
    await raiseGeneration(deps(), MACHINE, 1);
    const agent = new TestAgent(store);
    agent.say(helloOf([committed]));
    expect(await agent.transport.next('refused')).toMatchObject({ code: 4410 });
    await agent.done;
  });
});

describe('whether the layers tell all that changed', () => {
  const at = { disk: DISK, sizeBytes: 2 ** 27, blockBytes: 4096, digest: 'b'.repeat(16) };
  const before = { ...at, digest: 'a'.repeat(16) };
  const base = { point: 3, digest: before.digest };
  const layer = (lastPoint: number) => ({
    kind: 'base' as const,
    firstPoint: lastPoint,
    lastPoint,
    segment: 0,
    epoch: 1,
    sequence: 1,
    sizeBytes: 1,
    indexChecksum: '0'.repeat(16),
  });
  it.each([
    ['they do', base, before, [layer(0), layer(3)], null],
    ['the base is newer', { ...base, point: 9 }, before, [], /newer/],
    ['the base is gone', base, undefined, [], /not listed/],
    ['another point of that number', { ...base, digest: 'c'.repeat(16) }, before, [], /another digest/],
    ['resized', base, { ...before, sizeBytes: 2 ** 26 }, [], /resized/],
    ['a base layer in between', base, before, [layer(0), layer(5)], /written anew/],
  ])('%s', (_name, asked, known, bases, expected) => {
    const why = whyUnknown(asked, known, at, 7, bases);
    if (expected === null) expect(why).toBeNull();
    else expect(why).toMatch(expected);
  });
});
