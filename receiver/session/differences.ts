/**
 * What one disk held at one point, as an agent that restores it asks: which blocks may differ from a point that it had before, and their hashes.
 * From indexes alone. Answers "not known" rather than less than all: a block that is left out here is never looked at by the agent.
 * Memory: the plan of the point and a bit per block that changed in between; nothing outlives the goal that it was made for.
 */
import { newBitmap, setBit, bitsOf, hasBit } from '../../shared/blocks/bitmap.js';
import { BlockSet } from '../../shared/blocks/block-set.js';
import { geometryOf, segmentBlocks, type Geometry } from '../../shared/blocks/geometry.js';
import { digestToText } from '../../shared/blocks/hash.js';
import type { DiskId, SegmentNumber } from '../../shared/units.js';
import type { BasePoint } from '../../shared/wire/messages.js';
import type { RecoveryPoint } from '../catalog/manifest.js';
import type { LayersAtPoint, MachineReader, PointDisk } from '../catalog/reader.js';
import type { ObjectStore } from '../store/store.js';
import { hashesOfSegment } from '../volume/block-hashes.js';
import type { IndexCache } from '../volume/index-cache.js';
import { LayerReader } from '../volume/layer-reader.js';
import { planPoint } from '../volume/plan-point.js';
import type { ReadPlan } from '../volume/read-plan.js';

export type Changes =
  { readonly known: true; readonly blocks: BlockSet } | { readonly known: false; readonly reason: string };

/**
 * Why the layers between two points don't tell all that changed between them; null when they do: whatever the later point holds and the earlier
 * doesn't must then stand in a delta of a point after the earlier one. Pure.
 */
export function whyUnknown(
  base: BasePoint,
  before: PointDisk | undefined,
  at: PointDisk,
  point: number,
  bases: LayersAtPoint['bases'],
): string | null {
  if (base.point > point) return `point ${base.point} is newer than point ${point}`;
  if (before === undefined) return `point ${base.point} is not listed any more`;
  if (before.digest !== base.digest) return `point ${base.point} is not what this disk had: another digest`;
  if (before.sizeBytes !== at.sizeBytes || before.blockBytes !== at.blockBytes) {
    return `the disk was resized after point ${base.point}`;
  }
  // Deltas below such a base may have been collected.
  if (bases.some((layer) => layer.lastPoint > base.point)) {
    return `segments were written anew after point ${base.point}`;
  }
  return null;
}

export class PointSource {
  readonly geometry: Geometry;
  readonly reader: LayerReader;
  readonly plan: ReadPlan;
  readonly #view: MachineReader;
  readonly #layers: LayersAtPoint;
  readonly disk: PointDisk;
  readonly #point: number;
  #changes: { readonly key: string; readonly changes: Changes } | null = null;

  private constructor(
    view: MachineReader,
    layers: LayersAtPoint,
    reader: LayerReader,
    plan: ReadPlan,
    disk: PointDisk,
    point: number,
  ) {
    this.#view = view;
    this.#layers = layers;
    this.reader = reader;
    this.plan = plan;
    this.disk = disk;
    this.#point = point;
    this.geometry = geometryOf(disk.sizeBytes, disk.blockBytes);
  }

  static async open(
    store: ObjectStore,
    view: MachineReader,
    point: RecoveryPoint,
    disk: DiskId,
    cache: IndexCache,
  ): Promise<PointSource> {
    const at = view.diskOf(point, disk);
    const owner = { machine: view.manifest.machine.id, disk, blockBytes: at.blockBytes };
    const reader = new LayerReader(store, owner, cache);
    const layers = await view.layersFor(disk, point.number);
    return new PointSource(view, layers, reader, await planPoint(reader, at, layers), at, point.number);
  }

  /** Segments that hold a block that may differ, or why that isn't known. */
  async changedSegments(base: BasePoint): Promise<{ segments: Uint8Array<ArrayBuffer> | null; reason: string }> {
    const changes = await this.#changesSince(base);
    if (!changes.known) return { segments: null, reason: changes.reason };
    const segments = newBitmap(this.geometry.segmentCount);
    for (const { first, count } of changes.blocks.extents()) {
      const last = Math.floor((first + count - 1) / this.geometry.blocksPerSegment);
      for (let s = Math.floor(first / this.geometry.blocksPerSegment); s <= last; s++) setBit(segments, s);
    }
    return { segments, reason: `${changes.blocks.size} blocks changed after point ${base.point}` };
  }

  /** Candidates in a segment and their hashes; a base whose changes aren't known is as none. */
  async differences(
    segment: SegmentNumber,
    base: BasePoint | null,
    also: Uint8Array | null,
    digest: string | null,
  ): Promise<{ candidates: Uint8Array<ArrayBuffer>; hashes: BigUint64Array<ArrayBuffer> }> {
    const { first, count } = segmentBlocks(this.geometry, segment);
    const all = await hashesOfSegment(this.reader, this.plan, segment);
    const candidates = newBitmap(count);
    const changes = base === null ? null : await this.#changesSince(base);
    if (changes?.known === true) {
      for (const block of changes.blocks.blocksIn(first, count)) setBit(candidates, block - first);
      for (let i = 0; i < count; i++) if (also !== null && hasBit(also, i)) setBit(candidates, i);
    } else if (digest === null || digest !== digestToText(all.reduce((sum, hash) => sum ^ hash, 0n))) {
      for (let i = 0; i < count; i++) setBit(candidates, i);
    }
    return { candidates, hashes: BigUint64Array.from([...bitsOf(candidates)], (i) => all[i] ?? 0n) };
  }

  async #changesSince(base: BasePoint): Promise<Changes> {
    const key = `${base.point} ${base.digest}`;
    if (this.#changes?.key === key) return this.#changes.changes;
    const changes = await this.#find(base);
    this.#changes = { key, changes };
    return changes;
  }

  async #find(base: BasePoint): Promise<Changes> {
    const before = await this.#diskAt(base.point);
    const reason = whyUnknown(base, before, this.disk, this.#point, this.#layers.bases);
    if (reason !== null) return { known: false, reason };
    const blocks = new BlockSet();
    for (const layer of this.#layers.deltas) {
      if (layer.lastPoint <= base.point) continue;
      const index = await this.reader.index(layer);
      for (let i = 0; i < index.first.length; i++) {
        const first = index.first[i] ?? 0;
        const end = Math.min(first + (index.count[i] ?? 0), this.geometry.blockCount);
        if (end > first) blocks.addRange(first, end - first);
      }
    }
    return { known: true, blocks };
  }

  async #diskAt(number: number): Promise<PointDisk | undefined> {
    for await (const point of this.#view.pointsNewestFirst()) {
      if (point.number === number) return point.disks.find((d) => d.disk === this.disk.disk);
      if (point.number < number) return undefined;
    }
    return undefined;
  }
}
