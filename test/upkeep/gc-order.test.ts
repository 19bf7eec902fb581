/**
 * What GC does around its plan: it deletes only while nobody else has the machine, the boundary stands before manifests below it go, and what can't be read
 * stops it.
 */
import { randomUUID } from 'node:crypto';
import { beforeEach, describe, expect, it } from 'vitest';
import { readBoundary } from '../../receiver/catalog/manifest-io.js';
import {
  boundaryPrefix,
  historyName,
  layerName,
  manifestPrefix,
  numberOfName,
  pinName,
} from '../../receiver/catalog/names.js';
import { OwnedMachine } from '../../receiver/catalog/owned-machine.js';
import { PIN_VERSION, type Pin } from '../../receiver/catalog/pins.js';
import { sealJson } from '../../receiver/catalog/sealed-json.js';
import { copyName } from '../../receiver/catalog/second-copies.js';
import { MachineUpkeep } from '../../receiver/upkeep/machine-upkeep.js';
import type { TaskResult } from '../../receiver/upkeep/task-result.js';
import { AfterimageError } from '../../shared/errors.js';
import { MANIFEST_TAIL_POINTS_MAX } from '../../shared/limits.js';
import { BOUNDARY_STEP, MANIFESTS_KEPT } from '../../shared/limits-upkeep.js';
import { MIB } from '../../shared/units.js';
import { MACHINE } from '../helpers/layers.js';
import { MemoryStore, storeThrough } from '../helpers/memory-store.js';
import { World, type TestDisk } from './world.js';

const DELAY_MS = 60_000;
/** Nobody wrote it, nothing names it. */
const ORPHAN = historyName(MACHINE, 1, 1, 0, 1);

let store: MemoryStore;
let world: World;
let disk: TestDisk;
beforeEach(async () => {
  store = new MemoryStore();
  world = new World(store);
  world.deletionDelayMs = DELAY_MS;
  world.policy = { tiers: [{ everyMs: 0, upToMs: 1e12 }], applicationTiers: [] };
  await world.takeOver();
  disk = world.addDisk('disk0', MIB, 4096);
});

async function points(count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    world.clock.ms += 5000;
    await world.point(new Map([[disk, [{ first: i % 200, values: [i + 1] }]]]));
  }
}

const gc = (): Promise<TaskResult[]> => world.upkeep.run(world.owned, new AbortController().signal, ['gc']);

/** The orphan was seen, and could be deleted now. */
async function withDueOrphan(): Promise<void> {
  await points(3);
  store.objects.set(ORPHAN, Buffer.from('x'));
  await gc();
  world.clock.ms += 2 * DELAY_MS;
}

it('the same with nothing in the way: it is deleted', async () => {
  await withDueOrphan();
  expect(await gc()).toMatchObject([{ deletedObjects: 1, problem: null }]);
  expect(store.objects.has(ORPHAN)).toBe(false);
});

it('what landed while it listed counts as unnamed from when it is: a pin that was set meanwhile keeps it', async () => {
  await points(3);
  let isDue = true;
  const through = storeThrough(store, async (what, work) => {
    if (isDue && what.startsWith('list ') && what.endsWith('/disks/')) {
      isDue = false;
      await points(1);
    }
    return work();
  });
  world.upkeep = new MachineUpkeep(world.upkeepDeps(through));
  await gc();
  const landed = world.owned.manifest.tail.deltas.at(-1)?.layer;
  const name = landed === undefined ? '' : layerName(MACHINE, disk.id, landed);
  expect([isDue, store.objects.has(name)]).toEqual([false, true]);
  const nowMs = world.clock.nowMs();
  const pin: Pin = {
    ...{ version: PIN_VERSION, id: randomUUID(), sequence: 1, point: 4, manifest: world.owned.manifest.number },
    ...{ holder: 'test', writtenAtMs: nowMs, ttlMs: 1e9, expiresAtMs: nowMs + 1e9 },
  };
  store.objects.set(pinName(MACHINE, pin.id, 1), sealJson(pin));
  // Its point stays, and it is merged with its neighbours.
  await points(2);
  world.policy = { tiers: [{ everyMs: 15_000, upToMs: 1e12 }], applicationTiers: [] };
  await world.upkeep.run(world.owned, new AbortController().signal, ['retention', 'merge']);
  expect(world.owned.manifest.tail.deltas.map(({ layer }) => layerName(MACHINE, disk.id, layer))).not.toContain(name);
  world.clock.ms += 2 * DELAY_MS;
  for (let i = 0; i < 2; i++) {
    await gc();
    expect(store.objects.has(name)).toBe(true);
    world.clock.ms += 2 * DELAY_MS;
  }
  store.objects.delete(pinName(MACHINE, pin.id, 1));
  await gc();
  expect(store.objects.has(name)).toBe(false);
});

it('an owner that was taken over, before or while it looked, deletes nothing', async () => {
  await withDueOrphan();
  let takes: (() => Promise<unknown>) | null = null;
  const through = storeThrough(store, async (what, work) => {
    const result = await work();
    // The last listing of what there is: the plan is made from it.
    if (takes !== null && what.startsWith('list ') && what.endsWith('/history/')) {
      const take = takes;
      takes = null;
      await take();
    }
    return result;
  });
  const mine = world.owned;
  world.upkeep = new MachineUpkeep(world.upkeepDeps(through));
  await gc();
  world.clock.ms += 2 * DELAY_MS;
  takes = () =>
    OwnedMachine.takeOver(world.deps(), MACHINE, (previous) => {
      if (previous === null) throw new Error('nothing there');
      return Promise.resolve(previous);
    });
  const names = [...store.objects.keys()];
  for (let i = 0; i < 2; i++) {
    await expect(world.upkeep.run(mine, new AbortController().signal, ['gc'])).rejects.toMatchObject({
      kind: 'fenced',
    });
    expect(names.filter((name) => !store.objects.has(name))).toEqual([]);
  }
});

it('the boundary stands before any manifest below it is deleted, also when nothing can be written', async () => {
  await points(MANIFESTS_KEPT + BOUNDARY_STEP + 5);
  let isFull = true;
  const through = storeThrough(store, async (what, work) => {
    if (what.startsWith('delete') && what.includes('/manifest/')) {
      const boundary = await readBoundary(store, MACHINE);
      const highest = Math.max(...what.split(' ').slice(1).map(numberOfName));
      expect(highest).toBeLessThanOrEqual(boundary);
    }
    if (isFull && what.startsWith(`create ${boundaryPrefix(MACHINE)}`))
      throw new AfterimageError('test: no room', { code: 'store-full', kind: 'io' });
    return work();
  });
  world.upkeep = new MachineUpkeep(world.upkeepDeps(through));
  const manifests = (): number => [...store.objects.keys()].filter((n) => n.startsWith(manifestPrefix(MACHINE))).length;
  const before = manifests();
  expect(await gc()).toMatchObject([{ deletedObjects: 0, problem: expect.stringContaining('no room') as string }]);
  expect(manifests()).toBe(before);
  isFull = false;
  expect(await gc()).toMatchObject([{ problem: null }]);
  expect(manifests()).toBeLessThan(before - 90);
});

describe('nothing is deleted while something can not be read', () => {
  it.each(['a history page', 'a pin', 'the holds'])('%s', async (what) => {
    await points(MANIFEST_TAIL_POINTS_MAX + 5);
    await withDueOrphan();
    const page = world.owned.manifest.pages[0]?.name ?? '';
    const broken = {
      'a history page': page,
      'a pin': `machines/${MACHINE}/pins/whose`,
      'the holds': `machines/${MACHINE}/holds/000000000001`,
    }[what];
    // With its second copy, where it has one.
    for (const name of [broken ?? '', copyName(broken ?? '')]) store.objects.set(name, Buffer.from('rubbish'));
    // What was read once is remembered: a process that begins now.
    world.upkeep = new MachineUpkeep(world.upkeepDeps());
    const names = [...store.objects.keys()];
    for (let i = 0; i < 3; i++) {
      const [result] = await gc();
      expect(result?.problem).not.toBeNull();
      world.clock.ms += 2 * DELAY_MS;
    }
    expect(names.filter((name) => !store.objects.has(name))).toEqual([]);
  });
});
