/**
 * A machine with several small disks whose points are committed through the real catalog, with a model of what every disk held at every point; and
 * upkeep over it, under a clock that the test moves.
 */
import { geometryOf, segmentBlocks, type Geometry } from '../../shared/blocks/geometry.js';
import { digestToText, hashBlockAt } from '../../shared/blocks/hash.js';
import type { Clock } from '../../shared/clock.js';
import { CHUNK_PLAIN_BYTES_MAX } from '../../shared/limits.js';
import { chunkBytesMax, decodeChunkHeader, encodeChunk, type ChunkExtent } from '../../shared/layer/chunk.js';
import { silentLogger } from '../../shared/log.js';
import { asDiskId, asSeriesId, MIB, type DiskId } from '../../shared/units.js';
import { contentAfterCommit, type DiskLayers } from '../../receiver/catalog/commit-content.js';
import { LayerWriter } from '../../receiver/catalog/layer-writer.js';
import { writeLayerList } from '../../receiver/catalog/manifest-io.js';
import type { LayerRef, Manifest, RecoveryPoint } from '../../receiver/catalog/manifest.js';
import { layerListName } from '../../receiver/catalog/names.js';
import { OwnedMachine, type CatalogDeps, type ManifestContent } from '../../receiver/catalog/owned-machine.js';
import { DEFAULT_RETENTION, type RetentionPolicy } from '../../receiver/catalog/policy.js';
import { MachineReader } from '../../receiver/catalog/reader.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { MachineUpkeep, type UpkeepDeps } from '../../receiver/upkeep/machine-upkeep.js';
import { unpaced } from '../../receiver/upkeep/pace.js';
import { LayerReader } from '../../receiver/volume/layer-reader.js';
import { planPoint } from '../../receiver/volume/plan-point.js';
import { verifyDisk } from '../../receiver/volume/verify.js';
import { MACHINE } from '../helpers/layers.js';
import { between, type Random } from '../helpers/random.js';

export const SERIES = asSeriesId('aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee');

/** Wall and monotonic time move together, by the test alone; nobody waits. */
export class TestClock implements Clock {
  ms = 1_700_000_000_000;
  nowMs = (): number => this.ms;
  monotonicMs = (): number => this.ms;
  sleep = (): Promise<void> => Promise.resolve();
}

/** A write: blocks with a value each (0: a block of zeroes as data), or a zero run. */
export type Write =
  | { readonly first: number; readonly values: readonly number[] }
  | { readonly first: number; readonly zeroCount: number };

export function blockOf(blockBytes: number, value: number): Buffer {
  const block = Buffer.alloc(blockBytes);
  // Half of it doesn't compress: sizes follow the number of blocks.
  let state = value >>> 0;
  if (value !== 0)
    for (let i = 0; i < blockBytes / 2; i += 4)
      block.writeUInt32LE((state = (Math.imul(state, 1664525) + 1013904223) >>> 0), i);
  return block;
}

export class TestDisk {
  geometry: Geometry;
  /** Value by block; what isn't here is zero. */
  readonly now = new Map<number, number>();
  isFirst = true;

  constructor(
    readonly id: DiskId,
    sizeBytes: number,
    blockBytes: number,
  ) {
    this.geometry = geometryOf(sizeBytes, blockBytes);
  }

  #digest = 0n;

  apply(writes: readonly Write[]): void {
    for (const write of writes) {
      if ('zeroCount' in write) {
        for (const block of [...this.now.keys()])
          if (block >= write.first && block < write.first + write.zeroCount) this.#set(block, 0);
      } else write.values.forEach((value, i) => this.#set(write.first + i, value));
    }
  }

  digest(): string {
    return digestToText(this.#digest);
  }

  #set(block: number, value: number): void {
    this.#digest ^= this.#hash(block, this.now.get(block) ?? 0) ^ this.#hash(block, value);
    if (value === 0) this.now.delete(block);
    else this.now.set(block, value);
  }

  #hash(block: number, value: number): bigint {
    const { blockBytes } = this.geometry;
    return value === 0 ? 0n : hashBlockAt(blockOf(blockBytes, value), 0, blockBytes, block);
  }
}

export class World {
  readonly disks: TestDisk[] = [];
  /** What each point is made of: digests by disk. */
  readonly digests = new Map<number, Map<DiskId, string>>();
  owned!: OwnedMachine;
  upkeep!: MachineUpkeep;
  policy: RetentionPolicy = DEFAULT_RETENTION;
  deletionDelayMs = 60_000;
  /** Other limits than the usual, for small worlds. */
  limits: Pick<UpkeepDeps, 'shortcuts' | 'bases'> = {};
  #ids = 0;

  constructor(
    readonly store: ObjectStore,
    readonly clock = new TestClock(),
  ) {}

  deps(store = this.store): CatalogDeps {
    return { store, clock: this.clock, randomId: () => `id-${++this.#ids}` };
  }

  upkeepDeps(store = this.store): UpkeepDeps {
    return {
      store,
      clock: this.clock,
      log: silentLogger(),
      pace: unpaced(this.clock),
      deletionDelayMs: this.deletionDelayMs,
      policyOf: () => Promise.resolve(this.policy),
      sortBytes: MIB / 2,
      ...this.limits,
    };
  }

  /** A new owner, as a session or another receiver would be. */
  async takeOver(store = this.store): Promise<void> {
    this.owned = await OwnedMachine.takeOver(this.deps(store), MACHINE, (previous) =>
      Promise.resolve(previous === null ? EMPTY : contentOf(previous)),
    );
    this.upkeep = new MachineUpkeep(this.upkeepDeps(store));
  }

  addDisk(id: string, sizeBytes: number, blockBytes: number): TestDisk {
    const disk = new TestDisk(asDiskId(id), sizeBytes, blockBytes);
    this.disks.push(disk);
    return disk;
  }

  /** Commits a point with these writes on these disks (in order; `parts`: over how many layers), and what must be true of it. */
  async point(
    writes: ReadonlyMap<TestDisk, readonly Write[]>,
    options: { readonly parts?: number; readonly cutAtMs?: number; readonly without?: readonly DiskId[] } = {},
  ): Promise<number> {
    const { owned, clock } = this;
    const number = owned.manifest.lastPoint + 1;
    this.#newBases.length = 0;
    const layers = new Map<string, DiskLayers>();
    const sizes = new Map<string, number>();
    for (const [disk, list] of writes) {
      layers.set(disk.id, await this.#layersOf(disk, list, number, options.parts ?? 1));
      sizes.set(disk.id, disk.geometry.sizeBytes);
    }
    const disks = [...writes.keys()];
    const digests = new Map(disks.map((disk) => [disk.id, disk.digest()]));
    const said = {
      type: 'commit' as const,
      cycle: `cycle-${number}`,
      cutAtMs: options.cutAtMs ?? clock.nowMs(),
      consistency: 'crash' as const,
      reason: 'test',
      ...(options.without === undefined ? {} : { without: [...options.without] }),
      disks: disks.map(({ id }) => ({ disk: id, series: SERIES, digest: digests.get(id) ?? '' })),
      lastSequence: 0,
      stats: { passes: 1, cutMs: 1, freezeMs: 0, changedBytes: 0 },
    };
    await owned.commit((current) => {
      const known = withEntries(current, disks);
      return contentAfterCommit(known, said, layers, sizes, clock.nowMs()).content;
    });
    owned.landed(this.#newBases);
    this.digests.set(number, digests);
    return number;
  }

  /** Layers that went into lists with the point that is being made. */
  readonly #newBases: LayerRef[] = [];

  async #layersOf(disk: TestDisk, writes: readonly Write[], number: number, parts: number): Promise<DiskLayers> {
    const { blockBytes, segmentCount } = disk.geometry;
    const entry = entryOf(disk);
    let bases = null;
    if (disk.isFirst) {
      // A first copy: bases of what is there, the writes are its catch-up.
      const own: LayerRef[] = [];
      for (let segment = 0; segment < segmentCount; segment++) {
        const { first, count } = segmentBlocks(disk.geometry, segment);
        const inside = [...disk.now].filter(([b]) => b >= first && b < first + count).sort(([a], [b]) => a - b);
        if (inside.length === 0) continue;
        const what = { kind: 'base' as const, segment, firstPoint: 0, lastPoint: 0 };
        own.push(
          await this.layer(
            disk,
            what,
            inside.map(([b, value]) => ({ first: b, values: [value] })),
          ),
        );
      }
      const name = layerListName(MACHINE, disk.id, this.owned.epoch, this.owned.nextSequence());
      bases = await writeLayerList(this.store, name, own);
      this.#newBases.push(...own);
      disk.isFirst = false;
    }
    disk.apply(writes);
    const deltas: LayerRef[] = [];
    const per = Math.ceil(writes.length / parts);
    const what = { kind: 'delta' as const, segment: null, firstPoint: number, lastPoint: number };
    for (let i = 0; i < writes.length; i += per) deltas.push(await this.layer(disk, what, writes.slice(i, i + per)));
    return { entry: { ...entry, sizeBytes: disk.geometry.sizeBytes, blockBytes }, bases, deltas, storedBytes: 0 };
  }

  async layer(
    disk: TestDisk,
    what: Pick<LayerRef, 'kind' | 'segment' | 'firstPoint' | 'lastPoint'>,
    writes: readonly Write[],
  ): Promise<LayerRef> {
    const { blockBytes } = disk.geometry;
    const writer = await LayerWriter.open(this.store, {
      ...what,
      blockBytes,
      epoch: this.owned.epoch,
      sequence: this.owned.nextSequence(),
      machineId: MACHINE,
      diskId: disk.id,
      seriesId: SERIES,
    });
    for (const chunk of chunksOf(writes, blockBytes)) await writer.append(chunk, decodeChunkHeader(chunk));
    return writer.finish();
  }

  /** Numbers of the listed points. */
  async listed(): Promise<number[]> {
    const numbers: number[] = [];
    for await (const point of (await MachineReader.open(this.store, MACHINE)).points()) numbers.push(point.number);
    return numbers;
  }

  /** Proves every listed point on every disk against the model. Resolves to their numbers. */
  async proveAll(): Promise<number[]> {
    const view = await MachineReader.open(this.store, MACHINE);
    const points: RecoveryPoint[] = [];
    for await (const point of view.points()) points.push(point);
    for (const point of points) await this.#prove(view, point);
    return points.map((point) => point.number);
  }

  /** One point. */
  async prove(number: number): Promise<void> {
    const view = await MachineReader.open(this.store, MACHINE);
    await this.#prove(view, await view.findPoint({ by: 'number', number }));
  }

  async #prove(view: MachineReader, point: RecoveryPoint): Promise<void> {
    const model = this.digests.get(point.number);
    for (const at of point.disks) {
      if (model?.get(at.disk) !== at.digest) throw new Error(`point ${point.number} lists another digest than it had`);
      const reader = new LayerReader(this.store, { machine: MACHINE, disk: at.disk, blockBytes: at.blockBytes });
      const plan = await planPoint(reader, at, await view.layersFor(at.disk, point.number));
      await verifyDisk({ reader, plan, point: point.number, disk: at });
    }
    if (model?.size !== point.disks.length) throw new Error(`point ${point.number} lost a disk`);
  }
}

const EMPTY: ManifestContent = {
  generation: 1,
  machine: { id: MACHINE, name: 'web1', description: null },
  lastPoint: 0,
  disks: [],
  pages: [],
  tail: { points: [], deltas: [] },
};

const contentOf = ({ generation, machine, lastPoint, disks, pages, tail }: Manifest): ManifestContent => ({
  generation,
  machine,
  lastPoint,
  disks,
  pages,
  tail,
});

const entryOf = (disk: TestDisk): Manifest['disks'][number] => ({
  id: disk.id,
  device: `/dev/${disk.id}`,
  sizeBytes: disk.geometry.sizeBytes,
  blockBytes: disk.geometry.blockBytes,
  series: SERIES,
  bases: null,
  staged: null,
  lastPoint: 0,
});

function withEntries(manifest: Manifest, disks: readonly TestDisk[]): Manifest {
  const added = disks.filter((disk) => !manifest.disks.some((entry) => entry.id === disk.id)).map(entryOf);
  return { ...manifest, disks: [...manifest.disks, ...added] };
}

/** Chunks as a cycle sends them: in order, of at most so many blocks, with small neighbours together. */
function* chunksOf(writes: readonly Write[], blockBytes: number): Generator<Buffer> {
  const most = CHUNK_PLAIN_BYTES_MAX / blockBytes;
  for (const write of writes) {
    if ('zeroCount' in write) {
      yield chunkOf([{ first: write.first, count: write.zeroCount, zero: true }], [], blockBytes);
      continue;
    }
    for (let i = 0; i < write.values.length; i += most) {
      const values = write.values.slice(i, i + most);
      yield chunkOf([{ first: write.first + i, count: values.length, zero: false }], values, blockBytes);
    }
  }
}

function chunkOf(extents: readonly ChunkExtent[], values: readonly number[], blockBytes: number): Buffer {
  const plain = Buffer.concat(values.map((value) => blockOf(blockBytes, value)));
  const first = extents[0]?.first ?? 0;
  const hashes = BigUint64Array.from(values, (_, i) => hashBlockAt(plain, i * blockBytes, blockBytes, first + i));
  const target = Buffer.alloc(chunkBytesMax(extents.length, hashes.length, plain.length));
  return target.subarray(0, encodeChunk(target, blockBytes, extents, hashes, plain));
}

/** Random writes: half of them where others were, some at the disk's end, some zero runs, some runs that fill whole chunks. */
export function randomWrites(disk: TestDisk, random: Random): Write[] {
  const { blockCount } = disk.geometry;
  const writes: Write[] = [];
  for (let i = between(random, 0, 6); i > 0; i--) {
    const where = random();
    const first =
      where < 0.5
        ? between(random, 0, 200)
        : where < 0.65
          ? blockCount - 1 - between(random, 0, 3)
          : between(random, 0, blockCount);
    if (random() < 0.25) {
      const wish = random() < 0.2 ? between(random, 1, 20_000) : between(random, 1, 50);
      writes.push({ first, zeroCount: Math.min(wish, blockCount - first) });
      continue;
    }
    const count = Math.min(random() < 0.2 ? between(random, 32, 130) : between(random, 1, 20), blockCount - first);
    writes.push({
      first,
      values: Array.from({ length: count }, () => (random() < 0.05 ? 0 : between(random, 1, 2 ** 31))),
    });
  }
  return writes;
}
