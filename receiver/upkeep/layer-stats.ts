/**
 * How many stored bytes of each layer fall on each segment: what plans of bases, and of layers that bases hide, go by. From the indexes; remembered per
 * layer, which never changes, so an index is read once per process for it.
 */
import type { LayerIndex } from '../../shared/layer/layer.js';
import type { DiskId } from '../../shared/units.js';
import type { LayerRef } from '../catalog/manifest.js';
import { compareLayers } from '../volume/read-plan.js';
import type { SegmentLoad } from './base-plan.js';
import { layerKey } from './edit-history.js';

/** Stored bytes by segment. */
export type SegmentBytes = ReadonlyMap<number, number>;

/** A layer's bytes shared out over its data blocks; zero runs cost next to nothing. */
export function segmentBytesOf(layer: LayerRef, index: LayerIndex, blocksPerSegment: number): SegmentBytes {
  const blocks = new Map<number, number>();
  for (let i = 0; i < index.first.length; i++) {
    if (index.zero[i] === 1) continue;
    const end = (index.first[i] ?? 0) + (index.count[i] ?? 0);
    for (let at = index.first[i] ?? 0; at < end;) {
      const segment = Math.floor(at / blocksPerSegment);
      const partEnd = Math.min(end, (segment + 1) * blocksPerSegment);
      blocks.set(segment, (blocks.get(segment) ?? 0) + partEnd - at);
      at = partEnd;
    }
  }
  const perBlock = index.hashes.length === 0 ? 0 : layer.sizeBytes / index.hashes.length;
  return new Map([...blocks].map(([segment, count]) => [segment, count * perBlock]));
}

export class LayerStats {
  readonly #known = new Map<string, SegmentBytes>();

  has(disk: DiskId, layer: LayerRef): boolean {
    return this.#known.has(layerKey(disk, layer));
  }

  get(disk: DiskId, layer: LayerRef): SegmentBytes {
    return this.#known.get(layerKey(disk, layer)) ?? new Map();
  }

  note(disk: DiskId, layer: LayerRef, bytes: SegmentBytes): void {
    this.#known.set(layerKey(disk, layer), bytes);
  }

  /** Forgets what no manifest names any more. */
  retain(live: ReadonlySet<string>): void {
    for (const key of this.#known.keys()) if (!live.has(key)) this.#known.delete(key);
  }
}

/** Latest base of each segment among those at or before a point. */
export function basesAt(bases: readonly LayerRef[], point: number): Map<number, LayerRef> {
  const found = new Map<number, LayerRef>();
  for (const base of bases) {
    if (base.segment === null || base.lastPoint > point) continue;
    const known = found.get(base.segment);
    if (known === undefined || compareLayers(known, base) < 0) found.set(base.segment, base);
  }
  return found;
}

/** For each segment with anything over its base. `weight`: for how many layers one stands of which only a sample is known. */
export function segmentLoads(
  stats: LayerStats,
  disk: DiskId,
  deltas: readonly LayerRef[],
  bases: readonly LayerRef[],
  oldest: number,
  weight: (layer: LayerRef) => number = () => 1,
): SegmentLoad[] {
  const below = new Map<number, number>();
  const over = new Map<number, number>();
  const atOldest = basesAt(bases, oldest);
  const latest = basesAt(bases, Infinity);
  const add = (to: Map<number, number>, segment: number, bytes: number): void =>
    void to.set(segment, (to.get(segment) ?? 0) + bytes);
  for (const layer of deltas) {
    const times = weight(layer);
    for (const [segment, part] of stats.get(disk, layer)) {
      const bytes = part * times;
      if (layer.lastPoint <= oldest && counts(layer, atOldest.get(segment))) add(below, segment, bytes);
      if (counts(layer, latest.get(segment))) add(over, segment, bytes);
    }
  }
  return [...over.keys()]
    .sort((a, b) => a - b)
    .map((segment) => ({ segment, belowBytes: below.get(segment) ?? 0, overBytes: over.get(segment) ?? 0 }));
}

const counts = (layer: LayerRef, base: LayerRef | undefined): boolean =>
  base === undefined || compareLayers(layer, base) > 0;

/** Bytes of a layer at or below the oldest point that bases there hide. */
export function hiddenBytesOf(
  stats: LayerStats,
  disk: DiskId,
  layer: LayerRef,
  atOldest: ReadonlyMap<number, LayerRef>,
): number {
  let bytes = 0;
  for (const [segment, part] of stats.get(disk, layer)) if (!counts(layer, atOldest.get(segment))) bytes += part;
  return bytes;
}
