/**
 * A running copy whose chain is damaged in the store: what it has itself goes on into points that are whole, and it sends what is asked for once more.
 * Proven to be able to fail: with unknown hashes taken for zero, with blocks sent once more left out when they are the same, and with the guard against
 * comparing again and again left out.
 */
import { expect, test } from 'vitest';
import { systemClock, type Clock } from '../../shared/clock.js';
import { AfterimageError } from '../../shared/errors.js';
import { silentLogger } from '../../shared/log.js';
import { COMPARE_WHOLE_AGAIN_MS } from '../../shared/limits.js';
import { asDiskId } from '../../shared/units.js';
import { resumeGeneration } from '../../receiver/catalog/generation.js';
import type { LayerRef } from '../../receiver/catalog/manifest.js';
import { readLayerList } from '../../receiver/catalog/manifest-io.js';
import { layerName } from '../../receiver/catalog/names.js';
import type { OwnedMachine } from '../../receiver/catalog/owned-machine.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { openPointContent } from '../../receiver/volume/point-content.js';
import { VolumeReplicator, type ReplicatedVolume } from '../../receiver/volume/replicate.js';
import { IndexCache } from '../../receiver/volume/index-cache.js';
import { MachineReader } from '../../receiver/catalog/reader.js';
import { ManualClock } from '../helpers/manual-clock.js';
import { MemoryCutSource } from '../helpers/memory-cut-source.js';
import { MemoryStore, storeThrough } from '../helpers/memory-store.js';
import { blockOf, catalogDeps, DISKS, MACHINE, newMachine, restored } from './replicate-fixture.js';

const DISK = asDiskId('disk0');

interface World {
  readonly store: MemoryStore;
  readonly owned: OwnedMachine;
  readonly sources: readonly MemoryCutSource[];
  readonly source: MemoryCutSource;
  replicator: VolumeReplicator;
  /** The replicator of a process that begins now. */
  begin(hashesMax?: number): Promise<VolumeReplicator>;
}

/** The disk at a point; nothing of it is kept in memory. */
async function contentOf(store: ObjectStore, disk: typeof DISK, number: number) {
  const view = await MachineReader.open(store, MACHINE);
  const point = await view.findPoint({ by: 'number', number });
  return openPointContent(store, view, point, view.diskOf(point, disk), new IndexCache(0));
}

/** `through`: the store as the owner of the machine sees it. */
async function world(clock: Clock = systemClock, through?: (store: MemoryStore) => ObjectStore): Promise<World> {
  const store = new MemoryStore();
  const contents = await newMachine(store);
  const owned = await resumeGeneration(catalogDeps(through?.(store) ?? store), MACHINE, 1);
  const sources = [...DISKS].map(([id, geometry]) => new MemoryCutSource(id, geometry, contents.get(id)));
  const [source] = sources;
  if (source === undefined) throw new Error('no disk');
  const begin = async (hashesMax?: number): Promise<VolumeReplicator> => {
    const volumes = await Promise.all(
      sources.map(async (one): Promise<ReplicatedVolume> => {
        const open = (point: number) => contentOf(store, one.disk, point);
        const reference = await open(owned.manifest.lastPoint).catch(() => null);
        return { source: one, reference, reopenReference: open, device: 'memory' };
      }),
    );
    const deps = { ...catalogDeps(store), clock, log: silentLogger() };
    const bound = hashesMax === undefined ? {} : { hashesMax };
    return new VolumeReplicator(deps, { owned, volumes, intervalMs: 5, reason: 'test', ...bound });
  };
  return { store, owned, sources, source, replicator: await begin(), begin };
}

const nameOf = (layer: LayerRef): string => layerName(MACHINE, DISK, layer);

async function base({ store, owned }: World): Promise<string> {
  const list = owned.manifest.disks.find(({ id }) => id === DISK)?.bases;
  const [layer] = list == null ? [] : await readLayerList(store, list);
  if (layer === undefined) throw new Error('no base');
  return nameOf(layer);
}

function lastDelta({ owned }: World): string {
  const found = owned.manifest.tail.deltas.filter(({ disk }) => disk === DISK).at(-1);
  if (found === undefined) throw new Error('no delta');
  return nameOf(found.layer);
}

function damage({ store }: World, name: string, how: 'truncated' | 'gone' | 'chunk'): void {
  const bytes = Buffer.from(store.objects.get(name) ?? '');
  if (how === 'gone') store.objects.delete(name);
  else if (how === 'truncated') store.objects.set(name, bytes.subarray(0, bytes.length - 40));
  else {
    bytes[150] = (bytes[150] ?? 0) ^ 1;
    store.objects.set(name, bytes);
  }
}

const write = ({ source }: World, value: number, ...blocks: number[]): void => {
  for (const block of blocks) source.set(block, blockOf(source.geometry, value));
};

/** What each disk held at its last cut. */
async function mustHold(of: World, point: number): Promise<void> {
  for (const { disk, images, geometry } of of.sources) {
    const want = images.at(-1)?.subarray(0, geometry.sizeBytes);
    expect((await restored(of.store, disk, point)).equals(want ?? Buffer.alloc(0)), `${disk} at ${point}`).toBe(true);
  }
}

test.each(['truncated', 'gone'] as const)('a base that is %s: the next point is whole without it', async (how) => {
  const of = await world();
  const name = await base(of);
  const whole = Buffer.from(of.store.objects.get(name) ?? '');
  damage(of, name, how);
  write(of, 500, 3, 4);
  const point = await of.replicator.pointNow();
  // All blocks of the base that anything was in, and block 4; what the digest says of them is proven by the restore.
  expect(of.replicator.status).toMatchObject({ problem: null, pendingBytes: 0 });
  expect(of.replicator.status.sentBlocks).toBeGreaterThan(170);
  of.store.objects.set(name, whole);
  await mustHold(of, point.number);
  // And on: what was sent is known.
  damage(of, name, how);
  write(of, 501, 3, 9);
  const next = await of.replicator.pointNow();
  expect(next.stats.changedBytes).toBe(2 * 4096);
  of.store.objects.set(name, whole);
  await mustHold(of, next.number);
});

test('a delta that is gone when the process begins: the end of the chain is made anew from the disk', async () => {
  const of = await world();
  write(of, 600, 3, 4, 5);
  await of.replicator.pointNow();
  const name = lastDelta(of);
  const whole = Buffer.from(of.store.objects.get(name) ?? '');
  damage(of, name, 'gone');
  of.replicator = await of.begin();
  write(of, 601, 4);
  const point = await of.replicator.pointNow();
  of.store.objects.set(name, whole);
  await mustHold(of, point.number);
});

test('a disk that did not change is not compared for the damage of another', async () => {
  const of = await world();
  damage(of, await base(of), 'gone');
  const [, other] = of.sources;
  other?.set(1, blockOf(other.geometry, 9));
  const point = await of.replicator.pointNow();
  expect(point.stats.changedBytes).toBe(other?.geometry.blockBytes);
});

test('a copy that is not whole says so, keeps what changed, and goes on once the chain is mended', async () => {
  const of = await world();
  const name = await base(of);
  const whole = Buffer.from(of.store.objects.get(name) ?? '');
  damage(of, name, 'gone');
  of.source.away.add(7);
  write(of, 700, 3);
  const newest = of.owned.manifest.lastPoint;
  await expect(of.replicator.pointNow()).rejects.toMatchObject({ code: 'chain-damaged', kind: 'corrupt' });
  expect(of.replicator.status.problem).toMatch(/block 3 of disk disk0 .* is damaged there; the copy is not whole/);
  expect(of.owned.manifest.lastPoint).toBe(newest);
  expect(of.source.changedBlocks).toBe(1);
  of.store.objects.set(name, whole);
  const point = await of.replicator.pointNow();
  expect(point.stats.changedBytes).toBe(4096);
  await mustHold(of, point.number);
});

test('more than can be kept in memory: not sent again and again while the chain stays damaged', async () => {
  const clock = new ManualClock(1_700_000_000_000);
  const of = await world(clock);
  write(of, 800, 3, 4, 5);
  await of.replicator.pointNow();
  // Nothing of a point can be planned without a delta before it; a base would not be needed any more.
  const name = lastDelta(of);
  const whole = Buffer.from(of.store.objects.get(name) ?? '');
  damage(of, name, 'gone');
  of.replicator = await of.begin(20);
  write(of, 801, 3);
  expect((await of.replicator.pointNow()).stats.changedBytes).toBeGreaterThan(170 * 4096);
  write(of, 802, 12);
  await expect(of.replicator.pointNow()).rejects.toMatchObject({ code: 'chain-damaged' });
  expect(of.replicator.status.problem).toMatch(/all of it was sent just now/);
  await clock.pass(COMPARE_WHOLE_AGAIN_MS);
  const point = await of.replicator.pointNow();
  of.store.objects.set(name, whole);
  await mustHold(of, point.number);
});

test('blocks that are asked for are in the next point’s own layers, though nothing differs', async () => {
  const of = await world();
  const name = await base(of);
  damage(of, name, 'chunk');
  const point = await of.replicator.resend(DISK, [
    [0, 2],
    [3, 1],
  ]);
  expect(point.stats.changedBytes).toBe(3 * 4096);
  const layer = of.owned.manifest.tail.deltas.at(-1)?.layer;
  expect(layer?.lastPoint).toBe(point.number);
  // Not again with the one after it.
  write(of, 900, 6);
  expect((await of.replicator.pointNow()).stats.changedBytes).toBe(4096);
});

test('blocks that are asked for after a commit whose answer was lost are in the next point', async () => {
  let isAway = false;
  const fails = (): Promise<never> => Promise.reject(new AfterimageError('gone', { code: 'test-io', kind: 'io' }));
  let losesAnswer = false;
  const of = await world(systemClock, (store) =>
    storeThrough(store, async (what, work) => {
      if (isAway) return fails();
      const result = await work();
      if (!losesAnswer || !what.startsWith('create') || !what.includes('/manifest/')) return result;
      isAway = true;
      return fails();
    }),
  );
  write(of, 900, 6);
  losesAnswer = true;
  await expect(of.replicator.pointNow()).rejects.toMatchObject({ kind: 'io' });
  [losesAnswer, isAway] = [false, false];
  const point = await of.replicator.resend(DISK, [[0, 1]]);
  expect(point.number).toBe(3);
  expect(point.stats.changedBytes).toBe(4096);
});

test('blocks that the copy does not have are refused, and nothing is changed', async () => {
  const of = await world();
  const newest = of.owned.manifest.lastPoint;
  of.source.away.add(1);
  await expect(of.replicator.resend(DISK, [[0, 4]])).rejects.toMatchObject({ code: 'copy-lacks-blocks' });
  expect(of.source.changedBlocks).toBe(0);
  expect(of.owned.manifest.lastPoint).toBe(newest);
});
