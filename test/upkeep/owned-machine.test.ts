/**
 * One writer, whatever sleeps: owners and takers who were stalled while their manifest numbers were deleted, answers that were lost, commits of
 * several at once.
 */
import { randomUUID } from 'node:crypto';
import { expect, it } from 'vitest';
import { systemClock } from '../../shared/clock.js';
import { AfterimageError } from '../../shared/errors.js';
import {
  boundaryPrefix,
  layerListName,
  manifestName,
  manifestPrefix,
  numberOfName,
} from '../../receiver/catalog/names.js';
import { readHighestManifest, readManifest, writeLayerList } from '../../receiver/catalog/manifest-io.js';
import { OwnedMachine, type CatalogDeps, type ManifestContent } from '../../receiver/catalog/owned-machine.js';
import type { Manifest } from '../../receiver/catalog/manifest.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { MemoryStore, storeThrough, type Around } from '../helpers/memory-store.js';
import { DISK, MACHINE } from '../helpers/layers.js';

const depsOf = (store: ObjectStore): CatalogDeps => ({ store, clock: systemClock, randomId: randomUUID });

const contentOf = (previous: Manifest | null, name: string): ManifestContent => ({
  generation: 1,
  machine: { id: MACHINE, name, description: null },
  lastPoint: 0,
  disks: [],
  pages: previous?.pages ?? [],
  tail: { points: [], deltas: [] },
});

/** The name of the machine grows by what each change adds: so a lost or doubled change shows. */
const adds =
  (what: string) =>
  (current: Manifest): ManifestContent =>
    contentOf(current, `${current.machine.name}${what}`);

const takeOver = (store: ObjectStore, what: string): Promise<OwnedMachine> =>
  OwnedMachine.takeOver(depsOf(store), MACHINE, (previous) =>
    Promise.resolve(contentOf(previous, `${previous?.machine.name ?? ''}${what}`)),
  );

/** As GC does it: boundary first, then the manifests below it but for those that begin an epoch. */
async function deleteOldManifests(store: MemoryStore, head: number, keep = 100): Promise<void> {
  const boundary = head - keep;
  await store.createIfAbsent(`${boundaryPrefix(MACHINE)}${String(boundary).padStart(12, '0')}`, Buffer.from('{}'));
  for (const name of [...store.objects.keys()].filter((n) => n.startsWith(manifestPrefix(MACHINE)))) {
    const number = numberOfName(name);
    if (number > boundary) continue;
    const { epochStart } = await readManifest(store, MACHINE, number);
    if (epochStart !== number) store.objects.delete(name);
  }
}

/** A store whose requests that match wait until they are let go. */
function stalling(under: MemoryStore): { store: ObjectStore; stall: (what: RegExp) => Promise<() => void> } {
  let wanted: { what: RegExp; met: (go: () => void) => void } | null = null;
  const around: Around = async (what, work) => {
    const met = wanted;
    if (met?.what.test(what) === true) {
      wanted = null;
      await new Promise<void>((go) => met.met(go));
    }
    return work();
  };
  return {
    store: storeThrough(under, around),
    stall: (what) => new Promise((met) => (wanted = { what, met })),
  };
}

const CREATE_MANIFEST = /^create .*\/manifest\//;

it('an owner who sleeps in a commit while others go on and its number is deleted is fenced when it wakes up', async () => {
  const under = new MemoryStore();
  const a = stalling(under);
  const slept = await takeOver(a.store, 'A');
  const stalled = a.stall(CREATE_MANIFEST);
  const commit = slept.commit(adds('x')).catch((error: unknown) => error);
  const wake = await stalled;
  const b = await takeOver(under, 'B');
  for (let i = 0; i < 200; i++) await b.commit(adds('.'));
  await deleteOldManifests(under, b.manifest.number);
  expect(under.objects.has(manifestName(MACHINE, b.manifest.number - 150))).toBe(false);
  wake();
  expect(await commit).toMatchObject({ kind: 'fenced' });
  await expect(slept.commit(adds('y'))).rejects.toMatchObject({ kind: 'fenced' });
  const head = await readHighestManifest(under, MACHINE);
  expect(head?.machine.name).toBe(`AB${'.'.repeat(200)}`);
  await b.commit(adds('!'));
});

it('a taker who sleeps while the owner goes on and the number is deleted finds the boundary, and takes over from the head', async () => {
  const under = new MemoryStore();
  const owner = await takeOver(under, 'O');
  const a = stalling(under);
  const stalled = a.stall(CREATE_MANIFEST);
  const taking = takeOver(a.store, 'A');
  const wake = await stalled;
  for (let i = 0; i < 200; i++) await owner.commit(adds('.'));
  await deleteOldManifests(under, owner.manifest.number);
  expect(under.objects.has(manifestName(MACHINE, 2))).toBe(false);
  wake();
  const taker = await taking;
  expect(taker.manifest).toMatchObject({ number: 202, epochStart: 202, machine: { name: `O${'.'.repeat(200)}A` } });
  await expect(owner.commit(adds('x'))).rejects.toMatchObject({ kind: 'fenced' });
  await taker.commit(adds('!'));
  expect((await readHighestManifest(under, MACHINE))?.machine.name).toBe(`O${'.'.repeat(200)}A!`);
});

it('a commit whose answer was lost stands once, and the next is made from it', async () => {
  const under = new MemoryStore();
  let fails = 0;
  const store = storeThrough(under, async (what, work) => {
    const result = await work();
    if (CREATE_MANIFEST.test(what) && fails-- > 0)
      throw new AfterimageError('test: the answer is lost', { code: 'test-io', kind: 'io' });
    return result;
  });
  const owned = await takeOver(store, 'O');
  fails = 1;
  await expect(owned.commit(adds('1'))).rejects.toMatchObject({ code: 'test-io' });
  await owned.commit(adds('2'));
  expect((await readHighestManifest(under, MACHINE))?.machine.name).toBe('O12');
  expect(owned.manifest.number).toBe(3);
});

it('changes of several at once are all made, each from what the one before left', async () => {
  const under = new MemoryStore();
  const owned = await takeOver(under, '');
  await Promise.all(['a', 'b', 'c', 'd'].map((what) => owned.commit(async (current) => adds(what)(current))));
  expect((await readHighestManifest(under, MACHINE))?.machine.name).toBe('abcd');
});

it('a change that finds its inputs gone commits nothing and holds up nobody', async () => {
  const under = new MemoryStore();
  const owned = await takeOver(under, 'O');
  const gone = owned.commit(() => {
    throw new Error('its inputs are gone');
  });
  const next = owned.commit(adds('1'));
  await expect(gone).rejects.toThrow('its inputs are gone');
  await next;
  expect(owned.manifest).toMatchObject({ number: 2, machine: { name: 'O1' } });
});

it('what a dead taker left under the next epoch does not keep others out', async () => {
  const under = new MemoryStore();
  await takeOver(under, 'O');
  await writeLayerList(under, layerListName(MACHINE, DISK, 2, 1), []);
  const layer = { kind: 'base', firstPoint: 0, lastPoint: 0, segment: 0, epoch: 1, sequence: 1 } as const;
  const taken = await OwnedMachine.takeOver(depsOf(under), MACHINE, async (previous, epoch, nextSequence) => {
    const name = layerListName(MACHINE, DISK, epoch, nextSequence());
    await writeLayerList(under, name, [{ ...layer, sizeBytes: 1, indexChecksum: '0'.repeat(16) }]);
    return contentOf(previous, 'B');
  });
  expect(taken.manifest).toMatchObject({ number: 2, epoch: 3 });
});

it('objects are in flight from their number on until they landed', async () => {
  const owned = await takeOver(new MemoryStore(), 'O');
  expect(owned.isInFlight(1)).toBe(true);
  const sequence = owned.nextSequence();
  const layer = { kind: 'delta', firstPoint: 1, lastPoint: 1, segment: null, epoch: owned.epoch, sequence } as const;
  expect(owned.isInFlight(sequence)).toBe(true);
  await owned.commit((current) => ({
    ...contentOf(current, 'O'),
    tail: { points: [], deltas: [{ disk: DISK, layer: { ...layer, sizeBytes: 1, indexChecksum: '0'.repeat(16) } }] },
  }));
  expect(owned.isInFlight(sequence)).toBe(false);
  const other = owned.nextSequence();
  owned.landed([{ epoch: owned.epoch - 1, sequence: other }]);
  expect(owned.isInFlight(other)).toBe(true);
});
