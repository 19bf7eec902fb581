/** A machine with several small disks and one point, copies of its disks in memory, and what a point restores to. */
import { randomUUID } from 'node:crypto';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { geometryOf, segmentBlocks, type Geometry } from '../../shared/blocks/geometry.js';
import { digestToText, hashBlockAt } from '../../shared/blocks/hash.js';
import { systemClock } from '../../shared/clock.js';
import { silentLogger } from '../../shared/log.js';
import { asDiskId, asMachineId, asSeriesId, KIB, MIB, type DiskId } from '../../shared/units.js';
import type { DiskEntry, LayerRef } from '../../receiver/catalog/manifest.js';
import { writeLayerList } from '../../receiver/catalog/manifest-io.js';
import { layerListName } from '../../receiver/catalog/names.js';
import { OwnedMachine, type CatalogDeps } from '../../receiver/catalog/owned-machine.js';
import { MachineReader } from '../../receiver/catalog/reader.js';
import { openStore } from '../../receiver/store/open.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { hashesOfSegment } from '../../receiver/volume/block-hashes.js';
import type { PointContent } from '../../receiver/volume/content.js';
import { DeltaWriter } from '../../receiver/volume/delta-writer.js';
import { VolumeReplicator, type ReplicatedVolume, type ReplicatorOptions } from '../../receiver/volume/replicate.js';
import { tempFolder } from '../helpers/folders.js';
import { MemoryCutSource } from '../helpers/memory-cut-source.js';
import type { Random } from '../helpers/random.js';
import { planOf, restoreTo } from '../helpers/restore.js';

export const MACHINE = asMachineId('11111111-2222-4333-8444-555555555555');
export const SERIES = asSeriesId('aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeee1');
export const INTERVAL_MS = 5;

/** Two disks: blocks of 4 KiB with a short last one, and blocks of 16 KiB. */
export const DISKS: ReadonlyMap<DiskId, Geometry> = new Map([
  [asDiskId('disk0'), geometryOf(2 * MIB + 512, 4 * KIB)],
  [asDiskId('disk1'), geometryOf(3 * MIB, 16 * KIB)],
]);

export const catalogDeps = (store: ObjectStore): CatalogDeps => ({ store, clock: systemClock, randomId: randomUUID });

export const newStore = async (): Promise<ObjectStore> =>
  openStore(`file:${join(await tempFolder('replicate'), 'store')}`, { create: true });

/** A block that says what it is; a number and a little else, so that it compresses. */
export function blockOf(geometry: Geometry, value: number): Buffer {
  const block = Buffer.alloc(geometry.blockBytes);
  if (value === 0) return block;
  for (let i = 0; i < 512; i += 8) block.writeDoubleLE(value, i);
  return block;
}

export function digestOf(geometry: Geometry, bytes: Buffer): string {
  let digest = 0n;
  for (let block = 0; block < geometry.blockCount; block++)
    digest ^= hashBlockAt(bytes, block * geometry.blockBytes, geometry.blockBytes, block);
  return digestToText(digest);
}

/** Point 1 of the machine: each disk with a third of its blocks, in a base layer. Resolves to what the disks hold. */
export async function newMachine(store: ObjectStore): Promise<Map<DiskId, Buffer>> {
  const contents = new Map<DiskId, Buffer>();
  const owned = await OwnedMachine.takeOver(catalogDeps(store), MACHINE, () =>
    Promise.resolve({
      generation: 1,
      machine: { id: MACHINE, name: 'web1', description: null },
      lastPoint: 0,
      disks: [],
      pages: [],
      tail: { points: [], deltas: [] },
    }),
  );
  const disks: DiskEntry[] = [];
  for (const [id, geometry] of DISKS) {
    const bytes = Buffer.alloc(geometry.blockCount * geometry.blockBytes);
    const writer = new DeltaWriter(store, geometry.blockBytes, () => ({
      kind: 'base',
      blockBytes: geometry.blockBytes,
      segment: 0,
      firstPoint: 0,
      lastPoint: 0,
      epoch: owned.epoch,
      sequence: owned.nextSequence(),
      machineId: MACHINE,
      diskId: id,
      seriesId: SERIES,
    }));
    for (let block = 0; block < segmentBlocks(geometry, 0).count; block += 3) {
      blockOf(geometry, block + 1).copy(bytes, block * geometry.blockBytes);
      const at = block * geometry.blockBytes;
      await writer.add(block, bytes, at, hashBlockAt(bytes, at, geometry.blockBytes, block));
    }
    const layers: LayerRef[] = await writer.finish();
    const bases = await writeLayerList(store, layerListName(MACHINE, id, owned.epoch, owned.nextSequence()), layers);
    contents.set(id, bytes);
    const { sizeBytes, blockBytes } = geometry;
    disks.push({ id, device: `/dev/${id}`, sizeBytes, blockBytes, series: SERIES, bases, staged: null, lastPoint: 1 });
  }
  await owned.commit((m) => ({
    generation: 1,
    machine: m.machine,
    lastPoint: 1,
    disks,
    pages: [],
    tail: {
      points: [
        {
          number: 1,
          cutAtMs: 1,
          committedAtMs: 1,
          generation: 1,
          cycle: randomUUID(),
          consistency: 'crash',
          reason: 'first copy',
          disks: disks.map(({ id, sizeBytes, blockBytes }) => {
            const digest = digestOf(geometryOf(sizeBytes, blockBytes), contents.get(id) ?? Buffer.alloc(0));
            return { disk: id, sizeBytes, blockBytes, digest };
          }),
          stats: { passes: 1, cutMs: 0, freezeMs: 0, changedBytes: 0, storedBytes: 0 },
        },
      ],
      deltas: [],
    },
  }));
  return contents;
}

/** The hashes of a disk at a point, read from the layers in the store. */
export async function referenceOf(store: ObjectStore, disk: DiskId, point: number): Promise<PointContent> {
  const { reader, plan } = await planOf(store, MACHINE, disk, point);
  const all = await hashesOfSegment(reader, plan, 0);
  const unused = (): Promise<never> => Promise.reject(new Error('replication needs hashes only'));
  return {
    geometry: plan.geometry,
    isNear: false,
    runs: unused,
    read: unused,
    hashes: (first, count) => Promise.resolve(all.slice(first, first + count)),
  };
}

/** Bytes that a disk at a point restores to (checked against its digest by the restore itself). */
export async function restored(store: ObjectStore, disk: DiskId, point: number): Promise<Buffer> {
  const path = join(await tempFolder('replicate-restored'), 'image');
  await restoreTo(await planOf(store, MACHINE, disk, point), { path });
  const bytes = await readFile(path);
  await rm(path);
  return bytes;
}

export const pointNumbers = async (store: ObjectStore): Promise<number[]> => {
  const numbers: number[] = [];
  for await (const point of (await MachineReader.open(store, MACHINE)).points()) numbers.push(point.number);
  return numbers;
};

export class Copy {
  readonly sources: MemoryCutSource[];
  replicator: VolumeReplicator;
  /** How often a reference was opened again. */
  reopened = 0;

  private constructor(sources: MemoryCutSource[], replicator: (copy: Copy) => VolumeReplicator) {
    this.sources = sources;
    this.replicator = replicator(this);
  }

  /** A running copy with these contents. `through`: the store as the replicator sees it; `view`: as references are read. */
  static async start(
    through: ObjectStore,
    owned: OwnedMachine,
    contents: ReadonlyMap<DiskId, Buffer>,
    more: Partial<ReplicatorOptions> & { readonly view?: ObjectStore } = {},
  ): Promise<Copy> {
    const { view = through, ...options } = more;
    const sources = [...DISKS].map(([id, geometry]) => new MemoryCutSource(id, geometry, contents.get(id)));
    const references = await Promise.all(sources.map((s) => referenceOf(view, s.disk, owned.manifest.lastPoint)));
    return new Copy(sources, (copy) => {
      const volumes = sources.map((source, i): ReplicatedVolume => ({
        source,
        reference: references[i] as PointContent,
        reopenReference: (point) => {
          copy.reopened++;
          return referenceOf(view, source.disk, point);
        },
        device: 'memory',
      }));
      const deps = { ...catalogDeps(through), log: silentLogger() };
      return new VolumeReplicator(deps, { owned, volumes, intervalMs: INTERVAL_MS, reason: 'test', ...options });
    });
  }

  source(disk: number): MemoryCutSource {
    const source = this.sources[disk];
    if (source === undefined) throw new Error(`no disk ${disk}`);
    return source;
  }

  /** Some random writes: new values, old ones, zeroes; half of them where others were before. */
  scribble(random: Random, writes: number): void {
    for (let i = 0; i < writes; i++) {
      const source = this.source(random() < 0.5 ? 0 : 1);
      const { geometry } = source;
      const block = Math.floor(random() * (random() < 0.5 ? 40 : geometry.blockCount));
      const kind = random();
      const value = kind < 0.2 ? 0 : kind < 0.4 ? block + 1 : Math.floor(random() * 1e9);
      source.set(random() < 0.1 ? geometry.blockCount - 1 : block, blockOf(geometry, value));
    }
  }

  /** Whether the newest point restores to what each disk held at its last cut. Resolves to what is wrong. */
  async wrongAt(store: ObjectStore, point: number, image = -1): Promise<string[]> {
    const wrong: string[] = [];
    for (const source of this.sources) {
      const want = source.images.at(image)?.subarray(0, source.geometry.sizeBytes);
      const found = await restored(store, source.disk, point);
      if (want === undefined || !found.equals(want)) wrong.push(`disk ${source.disk} at point ${point}`);
    }
    return wrong;
  }
}
