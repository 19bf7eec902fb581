/**
 * Shortcuts: what a reader takes in place of many small layers, which runs get one, and that every point reads as before, with and without them.
 */
import { describe, expect, it } from 'vitest';
import { MIB } from '../../shared/units.js';
import { updateDamage } from '../../receiver/catalog/damage-io.js';
import { withFinding } from '../../receiver/catalog/damage.js';
import { readHighestManifest } from '../../receiver/catalog/manifest-io.js';
import type { LayerRef, Manifest } from '../../receiver/catalog/manifest.js';
import { layerName } from '../../receiver/catalog/names.js';
import { MachineReader } from '../../receiver/catalog/reader.js';
import { throughShortcuts } from '../../receiver/catalog/shortcuts.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { CatalogCache, loadHistory } from '../../receiver/upkeep/history.js';
import { repairMachine } from '../../receiver/upkeep/scrub-repair.js';
import { shortcutPlan, SHORTCUT_LIMITS, type ShortcutInput } from '../../receiver/upkeep/shortcut-plan.js';
import { unpaced } from '../../receiver/upkeep/pace.js';
import { silentLogger } from '../../shared/log.js';
import { DISK, MACHINE } from '../helpers/layers.js';
import { MemoryStore, storeThrough } from '../helpers/memory-store.js';
import { World, type TestDisk } from './world.js';

const layer = (lastPoint: number, more: Partial<LayerRef> = {}): LayerRef => ({
  kind: 'delta',
  firstPoint: lastPoint,
  lastPoint,
  segment: null,
  epoch: 1,
  sequence: lastPoint,
  sizeBytes: 1000,
  indexChecksum: '0'.repeat(16),
  ...more,
});
const layers = (from: number, to: number, more: Partial<LayerRef> = {}): LayerRef[] =>
  Array.from({ length: to - from + 1 }, (_, i) => layer(from + i, more));

describe('what is read', () => {
  const read = (point: number, deltas: readonly LayerRef[], ...shortcuts: LayerRef[]): string[] =>
    throughShortcuts(
      deltas.filter((delta) => delta.lastPoint <= point),
      shortcuts,
      point,
    )
      .map(({ firstPoint, lastPoint }) => (firstPoint === lastPoint ? `${lastPoint}` : `${firstPoint}-${lastPoint}`))
      .sort();
  const shortcut = (firstPoint: number, lastPoint: number, more: Partial<LayerRef> = {}): LayerRef =>
    layer(lastPoint, { firstPoint, sequence: 99, ...more });

  it('a shortcut in place of all that it stands for, from its end on', () => {
    expect(read(6, layers(1, 6), shortcut(2, 5))).toEqual(['1', '2-5', '6']);
    expect(read(5, layers(1, 5), shortcut(2, 5))).toEqual(['1', '2-5']);
    expect(read(4, layers(1, 4), shortcut(2, 5))).toEqual(['1', '2', '3', '4']);
    expect(read(9, layers(1, 9), shortcut(2, 4), shortcut(5, 8))).toEqual(['1', '2-4', '5-8', '9']);
  });

  it('what was merged since counts as far as it lies within', () => {
    const merged = [layer(1), layer(3, { firstPoint: 2 }), layer(5, { firstPoint: 4, sequence: 120 }), layer(6)];
    expect(read(6, merged, shortcut(2, 5))).toEqual(['1', '2-5', '6']);
    // One that reaches over an end is read as well.
    const over = [layer(1), layer(3, { firstPoint: 1, sequence: 120 }), layer(4), layer(5)];
    expect(read(5, over, shortcut(2, 5))).toEqual(['1', '1-3', '2-5']);
  });

  it('not one that spares nothing, nor some parts of one', () => {
    expect(read(5, [layer(1), layer(5, { firstPoint: 2 })], shortcut(2, 5))).toEqual(['1', '2-5']);
    expect(throughShortcuts([layer(3)], [shortcut(2, 5)], 9)).toEqual([layer(3)]);
    const parts = [shortcut(2, 5), shortcut(2, 5, { sequence: 100 })];
    expect(read(5, layers(2, 3), ...parts)).toEqual(['2', '3']);
    expect(read(5, layers(2, 5), ...parts)).toEqual(['2-5', '2-5']);
  });
});

describe('which runs get one', () => {
  const planned = (more: Partial<ShortcutInput>): { built: string[]; retired: number[] } => {
    const { steps, retired } = shortcutPlan({
      ...{ disk: DISK, deltas: [], shortcuts: [], oldest: 0, storedBytes: 1e9 },
      limits: { ...SHORTCUT_LIMITS, layersMin: 4, coveredMin: 3 },
      ...more,
    });
    return {
      built: steps.map((s) => `${s.firstPoint}-${s.lastPoint} of ${s.inputs.length}`),
      retired: retired.map((l) => l.lastPoint),
    };
  };

  it('many small layers in a row above the oldest point, none that has one', () => {
    expect(planned({ deltas: layers(1, 4) }).built).toEqual(['1-4 of 4']);
    expect(planned({ deltas: layers(1, 3) }).built).toEqual([]);
    expect(planned({ deltas: layers(1, 9), oldest: 3 }).built).toEqual(['4-9 of 6']);
    const known = layer(5, { firstPoint: 1, sequence: 99 });
    expect(planned({ deltas: layers(1, 8), shortcuts: [known] }).built).toEqual([]);
    expect(planned({ deltas: layers(1, 9), shortcuts: [known] })).toEqual({ built: ['6-9 of 4'], retired: [] });
  });

  it('never over a layer that is large, and tiny ones apart from larger', () => {
    const large = layer(6, { sizeBytes: 10 * MIB });
    expect(planned({ deltas: [...layers(1, 5), large, ...layers(7, 11)] }).built).toEqual(['1-5 of 5', '7-11 of 5']);
    const mixed = [...layers(1, 5, { sizeBytes: 100_000 }), ...layers(6, 10)];
    expect(planned({ deltas: mixed }).built).toEqual(['6-10 of 5', '1-5 of 5']);
  });

  it('as far as they are a small share of what is stored, the cheapest first', () => {
    const mixed = [...layers(1, 5, { sizeBytes: 100_000 }), ...layers(6, 10)];
    expect(planned({ deltas: mixed, storedBytes: 500_000 / 0.03 }).built).toEqual(['6-10 of 5']);
    expect(planned({ deltas: mixed, storedBytes: 1000 }).built).toEqual([]);
  });

  it('one goes when what it stood for was merged, lies below the oldest point, or outgrows its share', () => {
    const one = layer(10, { firstPoint: 1, sequence: 99 });
    const deltas = layers(1, 10);
    expect(planned({ deltas, shortcuts: [one] }).retired).toEqual([]);
    expect(planned({ deltas: [layer(10, { firstPoint: 1 })], shortcuts: [one] }).retired).toEqual([10]);
    expect(planned({ deltas, shortcuts: [one], oldest: 10 }).retired).toEqual([10]);
    expect(planned({ deltas, shortcuts: [one], storedBytes: 1000 }).retired).toEqual([10]);
    // With one part all of them go.
    const parts = [one, { ...one, sequence: 100, sizeBytes: 20 * MIB }];
    expect(planned({ deltas, shortcuts: parts, storedBytes: 100 * MIB }).retired).toEqual([10, 10]);
  });
});

const signal = new AbortController().signal;

/** A machine with a base of 6 MiB and so many points of a few blocks each. */
async function machine(points: number, store: ObjectStore = new MemoryStore()): Promise<[World, TestDisk]> {
  const world = new World(store);
  world.limits = { shortcuts: { ...SHORTCUT_LIMITS, shareMax: 0.5 } };
  await world.takeOver();
  const disk = world.addDisk('disk0', 80 * MIB, 4096);
  disk.apply([{ first: 0, values: Array.from({ length: 1500 }, (_, b) => b + 1) }]);
  for (let i = 0; i < points; i++) await smallPoint(world, disk, i);
  return [world, disk];
}

async function smallPoint(world: World, disk: TestDisk, i: number): Promise<void> {
  world.clock.ms += 5_000;
  const first = (i * 37) % 1400;
  const write = i % 7 === 3 ? { first, zeroCount: 3 } : { first, values: [i + 2, i + 3] };
  await world.point(new Map([[disk, [write]]]));
}

const headOf = async (world: World): Promise<Manifest> => {
  const manifest = await readHighestManifest(world.store, MACHINE);
  if (manifest === null) throw new Error('no manifest');
  return manifest;
};

async function shortcutsOf(world: World): Promise<readonly LayerRef[]> {
  const history = await loadHistory(new CatalogCache(world.store), await headOf(world));
  return history.disks.get(DISK)?.shortcuts ?? [];
}

it('a restore of the newest point asks the store for a bounded number of small layers; every point reads as before', async () => {
  let reads = 0;
  const store = storeThrough(new MemoryStore(), (request, work) => {
    if (request.startsWith('read ')) reads++;
    return work();
  });
  const [world, disk] = await machine(200, store);
  const readsOfNewest = async (): Promise<number> => {
    reads = 0;
    await world.prove(world.owned.manifest.lastPoint);
    return reads;
  };
  const before = await readsOfNewest();
  await world.upkeep.run(world.owned, signal);
  const after = await readsOfNewest();
  // An index and a chunk of each layer, before; of one shortcut, the base and the oldest point, afterwards.
  expect(before).toBeGreaterThan(350);
  expect(after).toBeLessThan(20);
  expect(world.upkeep.reads[0]).toMatchObject({ disk: DISK, layers: 2 });
  // It is made anew only of what came since.
  for (let i = 0; i < 40; i++) await smallPoint(world, disk, 1000 + i);
  const [run] = (await world.upkeep.run(world.owned, signal)).filter((r) => r.task === 'shortcuts');
  expect(run).toMatchObject({ builtShortcuts: 1, commits: 1 });
  expect((await shortcutsOf(world)).map((l) => `${l.firstPoint}-${l.lastPoint}`)).toEqual(['2-200', '201-240']);
  expect(await world.proveAll()).toHaveLength(240);
});

it('a damaged shortcut costs no point: readers leave it out, and it goes', async () => {
  const [world] = await machine(60);
  await world.upkeep.run(world.owned, signal);
  const [shortcut] = await shortcutsOf(world);
  if (shortcut === undefined) throw new Error('no shortcut');
  const name = layerName(MACHINE, DISK, shortcut);
  const objects = (world.store as MemoryStore).objects;
  const bytes = Buffer.from(objects.get(name) ?? []);
  bytes[100] = (bytes[100] ?? 0) ^ 1;
  objects.set(name, bytes);
  await expect(world.prove(60)).rejects.toMatchObject({ kind: 'corrupt' });
  const finding = { object: name, kind: 'layer', code: 'layer-chunk', what: 'test', disk: DISK } as const;
  await updateDamage({ store: world.store, clock: world.clock }, MACHINE, (items, nowMs) =>
    withFinding(items, { ...finding, layer: shortcut, extents: null, points: [] }, nowMs),
  );
  await world.prove(60);
  const view = await MachineReader.open(world.store, MACHINE);
  expect((await view.findPoint({ by: 'latest', levels: ['crash'] })).number).toBe(60);
  await repairMachine({
    ...{
      store: world.store,
      beneath: world.store,
      clock: world.clock,
      log: silentLogger(),
      owned: world.owned,
      signal,
    },
    pace: unpaced(world.clock),
    ask: () => Promise.reject(new Error('nobody has to be asked')),
  });
  expect(await shortcutsOf(world)).toEqual([]);
  expect(await world.proveAll()).toHaveLength(60);
});

it('a list of shortcuts that can not be read costs speed, and is made anew', async () => {
  const [world] = await machine(60);
  await world.upkeep.run(world.owned, signal);
  const { disks } = await headOf(world);
  (world.store as MemoryStore).objects.set(disks[0]?.shortcuts?.name ?? '', Buffer.from('nonsense'));
  expect(await world.proveAll()).toHaveLength(60);
  await world.takeOver();
  await world.upkeep.run(world.owned, signal);
  expect(await shortcutsOf(world)).toHaveLength(1);
  expect(await world.proveAll()).toHaveLength(60);
});
