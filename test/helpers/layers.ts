/**
 * Synthetic machines for tests: writes layers and manifests into a store as a receiver would, and keeps a model of what each point holds.
 */
import { createHash } from 'node:crypto';
import { geometryOf, segmentBlocks, type Geometry } from '../../shared/blocks/geometry.js';
import { digestToText, hashBlockAt } from '../../shared/blocks/hash.js';
import { CHUNK_PLAIN_BYTES_MAX } from '../../shared/limits.js';
import { chunkBytesMax, decodeChunkHeader, encodeChunk, type ChunkExtent } from '../../shared/layer/chunk.js';
import {
  decodeFooter,
  encodeLayerHeader,
  LAYER_FOOTER_BYTES,
  LayerIndexBuilder,
  type LayerIdentity,
} from '../../shared/layer/layer.js';
import { asDiskId, asMachineId, asSeriesId, type DiskId, type MachineId } from '../../shared/units.js';
import { writeHistoryPage, writeLayerList } from '../../receiver/catalog/manifest-io.js';
import type { DiskDelta, LayerRef, Manifest, PageRef, RecoveryPoint } from '../../receiver/catalog/manifest.js';
import { historyName, layerListName, layerName, manifestName } from '../../receiver/catalog/names.js';
import { sealJson } from '../../receiver/catalog/sealed-json.js';
import type { ObjectStore } from '../../receiver/store/store.js';

export const MACHINE: MachineId = asMachineId('11111111-2222-4333-8444-555555555555');
export const DISK: DiskId = asDiskId('disk0');
const SERIES = asSeriesId('aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee');

/** One write of a cycle: blocks with bytes, or a zero run. In the order in which they are sent. */
export type Change =
  | { readonly first: number; readonly blocks: readonly Buffer[] }
  | { readonly first: number; readonly zeroCount: number };

/** What a disk holds: blocks that are not here are zero. */
export type Model = ReadonlyMap<number, Buffer>;

function encodeChange(change: Change, blockBytes: number): Buffer {
  const extents: ChunkExtent[] =
    'zeroCount' in change
      ? [{ first: change.first, count: change.zeroCount, zero: true }]
      : [{ first: change.first, count: change.blocks.length, zero: false }];
  const plain = 'zeroCount' in change ? Buffer.alloc(0) : Buffer.concat(change.blocks);
  const hashes = new BigUint64Array(plain.length / blockBytes);
  for (let i = 0; i < hashes.length; i++) hashes[i] = hashBlockAt(plain, i * blockBytes, blockBytes, change.first + i);
  const target = Buffer.alloc(chunkBytesMax(extents.length, hashes.length, plain.length));
  return target.subarray(0, encodeChunk(target, blockBytes, extents, hashes, plain));
}

/** A layer's bytes, and what a manifest says of it. */
export function buildLayer(identity: LayerIdentity, chunks: readonly Buffer[]): { bytes: Buffer; ref: LayerRef } {
  const index = new LayerIndexBuilder();
  for (const chunk of chunks) index.append(chunk, decodeChunkHeader(chunk));
  const tail = index.finish();
  const bytes = Buffer.concat([encodeLayerHeader(identity), ...chunks, tail]);
  const footer = decodeFooter(tail.subarray(tail.length - LAYER_FOOTER_BYTES), bytes.length, 'test');
  const { kind, firstPoint, lastPoint, segment, epoch, sequence } = identity;
  const indexChecksum = digestToText(footer.indexChecksum);
  return {
    bytes,
    ref: { kind, firstPoint, lastPoint, segment, epoch, sequence, sizeBytes: bytes.length, indexChecksum },
  };
}

/** Changes cut so that no chunk is larger than allowed. */
function* cut(changes: readonly Change[], blockBytes: number): Generator<Change> {
  const max = CHUNK_PLAIN_BYTES_MAX / blockBytes;
  for (const change of changes) {
    if ('zeroCount' in change) yield change;
    else {
      for (let i = 0; i < change.blocks.length; i += max) {
        yield { first: change.first + i, blocks: change.blocks.slice(i, i + max) };
      }
    }
  }
}

export interface ChainOptions {
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly machine?: MachineId;
  readonly disk?: DiskId;
  readonly name?: string;
}

export class Chain {
  readonly machine: MachineId;
  readonly disk: DiskId;
  readonly geometry: Geometry;
  readonly bases: LayerRef[] = [];
  readonly deltas: LayerRef[] = [];
  readonly points: RecoveryPoint[] = [];
  /** What each delta was made of. */
  readonly changes = new Map<LayerRef, readonly Change[]>();
  /** Content at each point. */
  readonly models = new Map<number, Model>();
  readonly #store: ObjectStore;
  readonly #name: string;
  readonly #now = new Map<number, Buffer>();
  #sequence = 0;
  #manifests = 0;

  constructor(store: ObjectStore, options: ChainOptions) {
    this.#store = store;
    this.machine = options.machine ?? MACHINE;
    this.disk = options.disk ?? DISK;
    this.#name = options.name ?? 'web1';
    this.geometry = geometryOf(options.sizeBytes, options.blockBytes);
  }

  get owner(): { machine: MachineId; disk: DiskId; blockBytes: number } {
    return { machine: this.machine, disk: this.disk, blockBytes: this.geometry.blockBytes };
  }

  get current(): Model {
    return this.#now;
  }

  /** A block of bytes that depend on a seed; `random` ones don't compress. The short last block is padded. */
  block(number: number, seed: string, compressible = true): Buffer {
    const b = Buffer.alloc(this.geometry.blockBytes);
    const unit = createHash('sha256').update(`${number} ${seed}`).digest();
    for (let i = 0; i < b.length; i += 32) {
      (compressible ? unit : createHash('sha256').update(unit).update(String(i)).digest()).copy(b, i);
    }
    const end = this.geometry.sizeBytes - number * this.geometry.blockBytes;
    if (end < b.length) b.fill(0, end);
    return b;
  }

  /** Applies changes to the disk without storing them. */
  apply(changes: readonly Change[]): void {
    for (const change of changes) {
      if ('zeroCount' in change) {
        const end = change.first + change.zeroCount;
        for (const block of this.#now.keys()) if (block >= change.first && block < end) this.#now.delete(block);
      } else change.blocks.forEach((bytes, i) => this.#now.set(change.first + i, bytes));
    }
  }

  /** Stores a delta from `firstPoint` to `lastPoint` with these changes. */
  async delta(
    firstPoint: number,
    lastPoint: number,
    changes: readonly Change[],
    segment: number | null = null,
  ): Promise<LayerRef> {
    const ref = await this.#layer({ kind: 'delta', firstPoint, lastPoint, segment }, changes);
    this.deltas.push(ref);
    this.changes.set(ref, changes);
    return ref;
  }

  /** Stores a segment as it is in `model`, said to be at `point`. */
  async base(segment: number, point: number, model: Model = this.#now): Promise<LayerRef> {
    const { first, count } = segmentBlocks(this.geometry, segment);
    const inside = [...model.keys()].filter((b) => b >= first && b < first + count).sort((a, b) => a - b);
    const changes = inside.map((b): Change => ({ first: b, blocks: [model.get(b) ?? Buffer.alloc(0)] }));
    const ref = await this.#layer({ kind: 'base', firstPoint: point, lastPoint: point, segment }, join(changes));
    this.bases.push(ref);
    return ref;
  }

  /** Commits what the disk holds now as point `number` (in memory; see publish). */
  point(number: number, details: Partial<RecoveryPoint> = {}): RecoveryPoint {
    const model = new Map(this.#now);
    this.models.set(number, model);
    const { sizeBytes, blockBytes } = this.geometry;
    const point: RecoveryPoint = {
      number,
      cutAtMs: 1_700_000_000_000 + number * 60_000,
      committedAtMs: 1_700_000_000_500 + number * 60_000,
      generation: 1,
      cycle: `cycle-${number}`,
      consistency: 'crash',
      reason: 'interval',
      disks: [{ disk: this.disk, sizeBytes, blockBytes, digest: digestToText(this.digestOf(model)) }],
      stats: { passes: 1, cutMs: 1, freezeMs: 0, changedBytes: 4096, storedBytes: 1024 },
      ...details,
    };
    this.points.push(point);
    return point;
  }

  digestOf(model: Model): bigint {
    let digest = 0n;
    for (const [number, bytes] of model) digest ^= hashBlockAt(bytes, 0, bytes.length, number);
    return digest;
  }

  /** Writes a manifest with everything so far; points up to `pagesUpTo` go into history pages of `perPage`. */
  async publish(pagesUpTo = 0, perPage = 3): Promise<Manifest> {
    const number = ++this.#manifests;
    const paged = this.points.filter((p) => p.number <= pagesUpTo);
    const pages: PageRef[] = [];
    const entries: DiskDelta[] = this.deltas.map((layer) => ({ disk: this.disk, layer }));
    let before = 0;
    for (let i = 0; i < paged.length; i += perPage) {
      const points = paged.slice(i, i + perPage);
      const last = points.at(-1)?.number ?? 0;
      const deltas = entries.filter((d) => d.layer.lastPoint > before && d.layer.lastPoint <= last);
      const name = historyName(this.machine, points[0]?.number ?? 0, last, 1, ++this.#sequence);
      pages.push(await writeHistoryPage(this.#store, name, { points, deltas }));
      before = last;
    }
    const bases =
      this.bases.length === 0
        ? null
        : await writeLayerList(this.#store, layerListName(this.machine, this.disk, 1, ++this.#sequence), this.bases);
    const { sizeBytes, blockBytes } = this.geometry;
    const lastPoint = this.points.at(-1)?.number ?? 0;
    const manifest: Manifest = {
      version: 1,
      number,
      writeId: `write-${number}`,
      writtenAtMs: 1_700_000_000_000,
      epoch: 1,
      epochStart: 1,
      generation: 1,
      machine: { id: this.machine, name: this.#name, description: null },
      owner: null,
      lastPoint,
      disks: [
        { id: this.disk, device: '/dev/vda', sizeBytes, blockBytes, series: SERIES, bases, staged: null, lastPoint },
      ],
      pages,
      tail: {
        points: this.points.filter((p) => p.number > before),
        deltas: entries.filter((d) => d.layer.lastPoint > before),
      },
    };
    await this.#store.createIfAbsent(manifestName(this.machine, number), sealJson(manifest));
    return manifest;
  }

  async #layer(
    what: Pick<LayerRef, 'kind' | 'firstPoint' | 'lastPoint' | 'segment'>,
    changes: readonly Change[],
  ): Promise<LayerRef> {
    const { blockBytes } = this.geometry;
    const identity: LayerIdentity = {
      ...what,
      blockBytes,
      epoch: 1,
      sequence: ++this.#sequence,
      machineId: this.machine,
      diskId: this.disk,
      seriesId: SERIES,
    };
    const chunks = [...cut(changes, blockBytes)].map((change) => encodeChange(change, blockBytes));
    const { bytes, ref } = buildLayer(identity, chunks);
    await this.#store.createIfAbsent(layerName(this.machine, this.disk, ref), bytes);
    return ref;
  }
}

/** Joins blocks that follow each other. */
function join(changes: readonly Change[]): Change[] {
  const joined: { first: number; blocks: Buffer[] }[] = [];
  for (const change of changes) {
    if ('zeroCount' in change) continue;
    const last = joined.at(-1);
    if (last !== undefined && last.first + last.blocks.length === change.first) last.blocks.push(...change.blocks);
    else joined.push({ first: change.first, blocks: [...change.blocks] });
  }
  return joined;
}
