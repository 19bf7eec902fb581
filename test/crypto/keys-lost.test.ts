/**
 * The keys object of a machine that its receiver encrypts is lost or damaged: nothing makes new keys in the place of the old, and what can be put back is.
 * Proven to be able to fail: with the second copy not read, with the witness of the scrub not asked, with nothing put back, with writers that take what
 * readers get, and with staged layers kept whatever they were encrypted with.
 */
import { describe, expect, it } from 'vitest';
import { LayerWriter } from '../../receiver/catalog/layer-writer.js';
import { readHighestManifest, sealManifest } from '../../receiver/catalog/manifest-io.js';
import { loadKeys } from '../../receiver/catalog/keys-io.js';
import { keysName } from '../../receiver/catalog/names.js';
import { copyName } from '../../receiver/catalog/second-copies.js';
import { ensureFormat } from '../../receiver/store/format.js';
import type { MachineKeys } from '../../receiver/keys/machine-keys.js';
import { MemoryStore } from '../helpers/memory-store.js';
import { ManualClock } from '../helpers/manual-clock.js';
import { KEYS_RECHECK_MS } from '../../shared/limits-keys.js';
import { scrub } from '../scrub/finished-store.js';
import { BLOCK_BYTES, DISK, MACHINE, SERIES, soundPoints } from '../session/ingest-fixture.js';
import { noise } from './fixture.js';
import { KeyedAgent, keysFor, MemoryProvider, seenBy } from './world.js';

const FIRST = keysName(MACHINE, 1);
const SECOND = keysName(MACHINE, 2);

async function encrypted() {
  const store = new MemoryStore();
  await ensureFormat(store, true);
  const provider = new MemoryProvider();
  const clock = new ManualClock();
  const keys = keysFor(store, { provider, clock });
  return { store, provider, clock, keys, agent: new KeyedAgent(store, null) };
}

const blocks = new Map([[10, noise(BLOCK_BYTES, 'ten')]]);

const remove = (store: MemoryStore, ...names: string[]): void => {
  for (const name of names) {
    expect(store.objects.has(name), name).toBe(true);
    store.objects.delete(name);
  }
};

/** What a receiver that was started just now says to the agent. */
async function answerTo(store: MemoryStore, provider: MemoryProvider) {
  const fresh = seenBy(store, { provider });
  const agent = new KeyedAgent(fresh, null);
  agent.say(agent.helloMessage());
  const said = await Promise.race([agent.transport.next('welcome'), agent.transport.next('refused')]);
  return { said, fresh };
}

describe('a receiver that was started anew', () => {
  it.each([
    ['removed', (store: MemoryStore) => remove(store, FIRST)],
    ['damaged', (store: MemoryStore) => store.objects.set(FIRST, Buffer.from('{}'))],
  ])('goes on with the second copy of keys that are %s', async (_, damage) => {
    const { store, provider, agent } = await encrypted();
    await agent.hello(agent.helloMessage());
    await agent.firstCopy(blocks);
    await agent.end();
    const before = await loadKeys(store, MACHINE);
    damage(store);
    expect(await loadKeys(store, MACHINE)).toEqual(before);
    const { said, fresh } = await answerTo(store, provider);
    expect(said.type).toBe('welcome');
    expect(await loadKeys(fresh, MACHINE)).toEqual(before);
    expect(fresh.objects.has(SECOND)).toBe(false);
  });

  it('refuses by name when both are gone and a point is encrypted', async () => {
    const { store, provider, agent } = await encrypted();
    await agent.hello(agent.helloMessage());
    await agent.firstCopy(blocks);
    await agent.end();
    remove(store, FIRST, copyName(FIRST));
    const { said, fresh } = await answerTo(store, provider);
    expect(said).toMatchObject({ type: 'refused', reason: expect.stringContaining('keys') as string });
    expect([...fresh.objects.keys()].filter((name) => name.includes('keys/'))).toEqual([]);
  });

  it('refuses when both are gone and nothing but a scrub has seen them: no point is there yet', async () => {
    const { store, provider, agent } = await encrypted();
    await agent.hello(agent.helloMessage());
    await agent.end();
    await scrub(store, MACHINE);
    remove(store, FIRST, copyName(FIRST));
    const { said, fresh } = await answerTo(store, provider);
    expect(said).toMatchObject({ type: 'refused', reason: expect.stringContaining('an earlier scrub') as string });
    expect([...fresh.objects.keys()].filter((name) => name.includes('keys/'))).toEqual([]);
  });

  it('does not take older keys for the newest', async () => {
    const { store, provider, keys, agent } = await encrypted();
    await agent.hello(agent.helloMessage());
    await agent.firstCopy(blocks);
    await keys.rotate(MACHINE);
    await agent.end();
    await scrub(store, MACHINE);
    remove(store, SECOND, copyName(SECOND));
    const { said, fresh } = await answerTo(store, provider);
    expect(said).toMatchObject({ type: 'refused', reason: expect.stringContaining(SECOND) as string });
    const other = keysFor(fresh, { provider });
    await expect(other.rotate(MACHINE)).rejects.toMatchObject({ code: 'key-missing' });
    expect(fresh.objects.has(SECOND)).toBe(false);
  });
});

describe('whatever writes in a process that began after keys and second copy were lost', () => {
  const identity = {
    ...{ kind: 'delta' as const, firstPoint: 3, lastPoint: 3, segment: null, epoch: 9, sequence: 1 },
    ...{ blockBytes: BLOCK_BYTES, machineId: MACHINE, diskId: DISK, seriesId: SERIES },
  };

  async function lost(prepare: (agent: KeyedAgent, store: MemoryStore) => Promise<unknown>) {
    const { store, provider, keys, agent } = await encrypted();
    await agent.hello(agent.helloMessage());
    await prepare(agent, store);
    await agent.end();
    const recoveryFile = await keys.exportKeys(MACHINE);
    remove(store, FIRST, copyName(FIRST));
    return { provider, recoveryFile, store };
  }

  it.each([
    ['a point tells of it', (agent: KeyedAgent) => agent.firstCopy(blocks)],
    ['a scrub tells of it', (_: KeyedAgent, store: MemoryStore) => scrub(store, MACHINE)],
  ])('is refused, with a recovery key file as without: %s', async (_, prepare) => {
    const { store, recoveryFile } = await lost(prepare);
    for (const files of [[], [recoveryFile]]) {
      const fresh = seenBy(store, { files });
      const before = [...fresh.objects.keys()];
      await expect(LayerWriter.open(fresh, identity)).rejects.toMatchObject({ code: 'key-missing' });
      expect([...fresh.objects.keys()]).toEqual(before);
    }
  });

  it('is refused a manifest that shows a digest; one whose digests are all hidden may be written', async () => {
    const { store, recoveryFile } = await lost((agent) => agent.firstCopy(blocks));
    const reading = seenBy(store, { files: [recoveryFile] });
    const shown = await readHighestManifest(reading, MACHINE);
    const hidden = await readHighestManifest(seenBy(store), MACHINE);
    if (shown === null || hidden === null) throw new Error('a manifest was there');
    await expect(sealManifest(reading, shown)).rejects.toMatchObject({ code: 'key-missing' });
    expect((await sealManifest(reading, hidden)).length).toBeGreaterThan(0);
  });

  it('leaves reading alone: the recovery key file opens every point', async () => {
    const { store, recoveryFile } = await lost((agent) => agent.firstCopy(blocks));
    expect(await soundPoints(seenBy(store, { files: [recoveryFile] }))).toEqual([1]);
  });

  it('is let through for a machine that was never encrypted', async () => {
    const store = new MemoryStore();
    keysFor(store);
    const agent = new KeyedAgent(store, null);
    await agent.hello(agent.helloMessage());
    await agent.firstCopy(blocks);
    await agent.end();
    const fresh = seenBy(store, { provider: new MemoryProvider(), atRest: false });
    await (await LayerWriter.open(fresh, identity)).abort();
  });
});

it('a first copy whose keys were lost before its first point begins again: no point stands on layers that nobody opens', async () => {
  const { store, provider, agent } = await encrypted();
  await agent.hello(agent.helloMessage());
  agent.data(blocks, 'sweep-base', 0);
  agent.endSegment(0, 'sweep-base');
  while ((await agent.transport.next('ack')).stagedSequence < 2);
  await agent.end();
  remove(store, FIRST, copyName(FIRST));

  const fresh = seenBy(store, { provider });
  const again = new KeyedAgent(fresh, null, agent.model);
  const sweep = { kind: 'first-copy' as const, nextSegment: 1, stagedLayers: 1 };
  const welcome = await again.hello(again.helloMessage({ sweep }));
  expect(welcome.disks).toMatchObject([{ verdict: 'full', stagedLayers: 0 }]);
  await again.firstCopy(blocks);
  await again.end();
  expect(await soundPoints(seenBy(fresh, { provider }))).toEqual([1]);
});

it.each([
  ['keys', 'is looked up', (keys: MachineKeys) => keys.cipherOf(MACHINE)],
  ['manifest', 'is asked for by a writer', (keys: MachineKeys) => keys.cipherForWriting(MACHINE)],
])(
  'keys that are made while %s are looked at are not forgotten: a machine that %s in that moment',
  async (kind, _, ask) => {
    const { store, keys, agent } = await encrypted();
    const { list } = store;
    let goOn = (): void => undefined;
    const held = new Promise<void>((resolve) => (goOn = resolve));
    let isHeld = false;
    store.list = async function* (prefix, options) {
      const found = [];
      for await (const object of list.call(store, prefix, options)) found.push(object);
      if (!isHeld && prefix.includes(`/${kind}/`)) {
        isHeld = true;
        await held;
      }
      yield* found;
    };
    const asked = ask(keys);
    while (!isHeld) await new Promise((resolve) => setImmediate(resolve));
    await agent.hello(agent.helloMessage());
    goOn();
    await asked;
    expect((await keys.cipherOf(MACHINE)).writesAs).toBe('receiver');
    expect((await keys.cipherForWriting(MACHINE)).writesAs).toBe('receiver');
    await agent.end();
  },
);

describe('a receiver that runs', () => {
  it('puts keys back that are gone', async () => {
    const { store, clock, keys, agent } = await encrypted();
    await agent.hello(agent.helloMessage());
    await agent.firstCopy(blocks);
    const bytes = store.objects.get(FIRST);
    remove(store, FIRST, copyName(FIRST));
    await clock.pass(KEYS_RECHECK_MS + 1);
    const cipher = await keys.cipherOf(MACHINE);
    expect(cipher.writesAs).toBe('receiver');
    expect(store.objects.get(FIRST)).toEqual(bytes);
    expect(store.objects.get(copyName(FIRST))).toEqual(bytes);
    await agent.end();
  });

  it('writes what it knows under the next number when neither can be read', async () => {
    const { store, clock, keys, agent } = await encrypted();
    await agent.hello(agent.helloMessage());
    await agent.firstCopy(blocks);
    const before = await loadKeys(store, MACHINE);
    for (const name of [FIRST, copyName(FIRST)]) store.objects.set(name, Buffer.from('{}'));
    await clock.pass(KEYS_RECHECK_MS + 1);
    await keys.cipherOf(MACHINE);
    expect(await loadKeys(store, MACHINE)).toMatchObject({ number: 2, receiver: before?.receiver });
    await agent.end();
  });
});
