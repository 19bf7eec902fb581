/**
 * Raising the generation: who held the right before can commit nothing more and is refused when it comes back; whoever is given it goes on.
 */
import { expect, test } from 'vitest';
import { CLOSE } from '../../shared/wire/close-codes.js';
import { raiseGeneration, resumeGeneration } from '../../receiver/catalog/generation.js';
import { MachineReader } from '../../receiver/catalog/reader.js';
import { createIdentity } from '../../receiver/session/identity.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { removeTempFolders } from '../helpers/folders.js';
import { randomOf } from '../helpers/random.js';
import {
  blockBytes,
  DISK,
  HELLO_DISK,
  helloOf,
  IDENTITY,
  MACHINE,
  SERIES,
  soundPoints,
  TestAgent,
} from '../session/ingest-fixture.js';
import { catalogDeps, newStore } from './replicate-fixture.js';

removeTempFolders();

const random = randomOf(7);

/** A machine with point 1, and its agent's session. */
async function connected(store: ObjectStore): Promise<TestAgent> {
  const agent = new TestAgent(store);
  await agent.hello();
  await agent.firstCopy(new Map([[3, blockBytes(random)]]));
  return agent;
}

const refusalOf = async (store: ObjectStore, hello = helloOf()) => {
  const agent = new TestAgent(store);
  agent.say(hello);
  const refused = await agent.transport.next('refused');
  await agent.done;
  return refused;
};

test('a live session can commit nothing more, and an agent of the old generation is refused', async () => {
  const store = await newStore();
  const agent = await connected(store);
  agent.begin();
  agent.data(new Map([[4, blockBytes(random)]]));
  const owned = await raiseGeneration(catalogDeps(store), MACHINE, 1);
  expect(owned.manifest).toMatchObject({ generation: 2, lastPoint: 1 });
  agent.say(agent.commitMessage());
  await agent.done;
  expect(agent.transport.end?.code).toBe(CLOSE.fenced.code);
  expect(await soundPoints(store)).toEqual([1]);
  expect((await refusalOf(store)).code).toBe(CLOSE.failedOver.code);
  // It was refused before anything was taken over: who owns the machine still does.
  const point = await owned.commit((m) => ({ ...m, machine: { ...m.machine, name: 'still mine' } }));
  expect(point.machine.name).toBe('still mine');
});

test('an agent that was enrolled again and has not said hello yet is of the older generation too', async () => {
  const store = await newStore();
  await (await connected(store)).end();
  await createIdentity(store, { ...IDENTITY, number: 1, generation: 4 });
  const owned = await raiseGeneration(catalogDeps(store), MACHINE, 1);
  expect(owned.manifest.generation).toBe(5);
  expect((await refusalOf(store, helloOf([HELLO_DISK], { generation: 4 }))).code).toBe(CLOSE.failedOver.code);
});

test('staged layers and series end with the generation; the points stay', async () => {
  const store = await newStore();
  const agent = await connected(store);
  await agent.end();
  const before = (await MachineReader.open(store, MACHINE)).manifest;
  expect(before.disks[0]?.series).toBe(SERIES);
  const half = new TestAgent(store, agent.model);
  await half.hello(helloOf([{ ...HELLO_DISK, committedPoint: 1, committedSeries: SERIES, series: null }]));
  half.data(new Map([[5, blockBytes(random)]]), 'sweep-delta', 0);
  half.endSegment(0, 'sweep-delta');
  while ((await half.transport.next('ack')).stagedSequence < 2);
  await half.end();
  const sweep = { kind: 'comparison' as const, nextSegment: 1, stagedLayers: 1 };
  const again = new TestAgent(store, agent.model);
  await again.hello(helloOf([{ ...HELLO_DISK, committedPoint: 1, committedSeries: SERIES, series: null, sweep }]));
  await again.end();
  expect((await MachineReader.open(store, MACHINE)).manifest.disks[0]?.staged).not.toBeNull();
  await raiseGeneration(catalogDeps(store), MACHINE, 1);
  const { manifest } = await MachineReader.open(store, MACHINE);
  expect(manifest.disks).toMatchObject([{ id: DISK, staged: null, series: null, lastPoint: 1, bases: { count: 1 } }]);
  expect(manifest.tail).toEqual(before.tail);
  expect(await soundPoints(store)).toEqual([1]);
});

test.each([
  [0, 'nothing'],
  [7, 'delta'],
])('going home with a series: the next hello, with %i changed blocks, is a %s', async (changedBlocks, verdict) => {
  const store = await newStore();
  await (await connected(store)).end();
  const home = 'aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeee9' as typeof SERIES;
  await raiseGeneration(catalogDeps(store), MACHINE, 1);
  const disk = { ...HELLO_DISK, series: home, committedPoint: 1, committedSeries: home, changedBlocks };
  await raiseGeneration(catalogDeps(store), MACHINE, 2, (content) => ({
    ...content,
    disks: content.disks.map((d) => ({ ...d, series: home })),
  }));
  const agent = new TestAgent(store);
  const welcome = await agent.hello(helloOf([disk], { generation: 3 }));
  expect(welcome.disks).toMatchObject([{ verdict }]);
  await agent.end();
});

test('decided upon another generation: fenced, nothing changed; the same goes for going on after a restart', async () => {
  const store = await newStore();
  await (await connected(store)).end();
  const deps = catalogDeps(store);
  const both = await Promise.allSettled([raiseGeneration(deps, MACHINE, 1), raiseGeneration(deps, MACHINE, 1)]);
  expect(both.map((r) => r.status).sort()).toEqual(['fulfilled', 'rejected']);
  const { number } = (await MachineReader.open(store, MACHINE)).manifest;
  const moved = { code: 'generation-moved', kind: 'fenced' };
  await expect(raiseGeneration(deps, MACHINE, 1)).rejects.toMatchObject(moved);
  await expect(resumeGeneration(deps, MACHINE, 1)).rejects.toMatchObject(moved);
  await expect(resumeGeneration(deps, MACHINE, 3)).rejects.toMatchObject(moved);
  expect((await MachineReader.open(store, MACHINE)).manifest.number).toBe(number);
  const first = await resumeGeneration(deps, MACHINE, 2);
  const second = await resumeGeneration(deps, MACHINE, 2);
  expect(second.epoch).toBe(first.epoch + 1);
  await expect(first.commit((m) => m)).rejects.toMatchObject({ kind: 'fenced' });
  const other = '99999999-2222-4333-8444-555555555555' as typeof MACHINE;
  await expect(raiseGeneration(deps, other, 1)).rejects.toMatchObject({ code: 'machine-empty' });
});
