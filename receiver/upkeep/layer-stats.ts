/**
 * What plans of bases, and of layers that bases hide, go by: how many stored bytes of each layer fall on each segment, which of them are read together, and
 * a sample of the blocks. From the indexes; remembered per layer, which never changes, so an index is read once per process for it. Memory: some
 * 30 bytes for each segment that a layer touches, and 4 for each sampled block.
 */
import type { LayerIndex } from '../../shared/layer/layer.js';
import { SAMPLED_BLOCKS_PER_SEGMENT } from '../../shared/limits-upkeep.js';
import type { DiskId } from '../../shared/units.js';
import type { LayerRef } from '../catalog/manifest.js';
import { compareLayers } from '../volume/read-plan.js';
import { layerKey } from './edit-history.js';

export interface LayerShape {
  /** Segments that the layer has data in, ascending, and the stored bytes of each. */
  readonly segments: Uint32Array;
  readonly bytes: Float64Array;
  /** Its chunks, those together that lie in the same segments: the first and the last of these, and their stored bytes. */
  readonly spans: { readonly first: Uint32Array; readonly last: Uint32Array; readonly bytes: Float64Array };
  /** Blocks of the sample that the layer has data of, ascending. Of all layers the same blocks are sampled. */
  readonly sample: Uint32Array;
  /** Runs of zeroes as pairs (first, count), ascending. */
  readonly zeroes: Uint32Array;
}

const NOTHING: LayerShape = {
  segments: new Uint32Array(0),
  bytes: new Float64Array(0),
  spans: { first: new Uint32Array(0), last: new Uint32Array(0), bytes: new Float64Array(0) },
  sample: new Uint32Array(0),
  zeroes: new Uint32Array(0),
};

/** The same blocks in all layers, and no pattern of writes that favours or avoids them. */
export function isSampled(block: number, blocksPerSegment: number): boolean {
  const oneIn = blocksPerSegment / SAMPLED_BLOCKS_PER_SEGMENT;
  return oneIn <= 1 || Math.imul(block, 0x9e3779b1) >>> 0 < 2 ** 32 / oneIn;
}

/** A layer's bytes shared out over its data blocks; zero runs cost next to nothing. */
export function shapeOf(layer: LayerRef, index: LayerIndex, blocksPerSegment: number): LayerShape {
  const blocks = new Map<number, number>();
  const sample: number[] = [];
  const zeroes: number[] = [];
  for (let i = 0; i < index.first.length; i++) {
    const first = index.first[i] ?? 0;
    const end = first + (index.count[i] ?? 0);
    if (index.zero[i] === 1) {
      zeroes.push(first, end - first);
      continue;
    }
    for (let at = first; at < end;) {
      const segment = Math.floor(at / blocksPerSegment);
      const partEnd = Math.min(end, (segment + 1) * blocksPerSegment);
      blocks.set(segment, (blocks.get(segment) ?? 0) + partEnd - at);
      for (; at < partEnd; at++) if (isSampled(at, blocksPerSegment)) sample.push(at);
    }
  }
  const perBlock = index.hashes.length === 0 ? 0 : layer.sizeBytes / index.hashes.length;
  const bySegment = [...blocks].sort((a, b) => a[0] - b[0]);
  return {
    segments: Uint32Array.from(bySegment, ([segment]) => segment),
    bytes: Float64Array.from(bySegment, ([, count]) => count * perBlock),
    spans: spansOf(index, blocksPerSegment),
    sample: Uint32Array.from(sample),
    zeroes: Uint32Array.from(zeroes),
  };
}

function spansOf(index: LayerIndex, blocksPerSegment: number): LayerShape['spans'] {
  const ends = index.chunks.map(() => ({ first: Infinity, last: -1 }));
  for (let i = 0; i < index.first.length; i++) {
    const of = ends[index.chunk[i] ?? 0];
    if (of === undefined || index.zero[i] === 1) continue;
    const first = index.first[i] ?? 0;
    of.first = Math.min(of.first, Math.floor(first / blocksPerSegment));
    of.last = Math.max(of.last, Math.floor((first + (index.count[i] ?? 1) - 1) / blocksPerSegment));
  }
  const spans = new Map<string, { readonly first: number; readonly last: number; bytes: number }>();
  ends.forEach(({ first, last }, i) => {
    if (last < 0) return;
    const bytes = index.chunks[i]?.lengthBytes ?? 0;
    const span = spans.get(`${first}-${last}`);
    if (span === undefined) spans.set(`${first}-${last}`, { first, last, bytes });
    else span.bytes += bytes;
  });
  const all = [...spans.values()];
  return {
    first: Uint32Array.from(all, (span) => span.first),
    last: Uint32Array.from(all, (span) => span.last),
    bytes: Float64Array.from(all, (span) => span.bytes),
  };
}

/** Index of the first of ascending numbers (each `stride`-th of them) that is not below `value`. */
export function lowerBound(numbers: Uint32Array, value: number, stride = 1): number {
  let low = 0;
  let high = numbers.length / stride;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((numbers[middle * stride] ?? 0) < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

export const bytesIn = ({ segments, bytes }: LayerShape, segment: number): number => {
  const at = lowerBound(segments, segment);
  return segments[at] === segment ? (bytes[at] ?? 0) : 0;
};

export class LayerStats {
  readonly #known = new Map<string, LayerShape>();

  has(disk: DiskId, layer: LayerRef): boolean {
    return this.#known.has(layerKey(disk, layer));
  }

  get(disk: DiskId, layer: LayerRef): LayerShape {
    return this.#known.get(layerKey(disk, layer)) ?? NOTHING;
  }

  note(disk: DiskId, layer: LayerRef, shape: LayerShape): void {
    this.#known.set(layerKey(disk, layer), shape);
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

/** Stored bytes of layers over their segment's base, by segment. `weight`: for how many layers one stands of which only a sample is known. */
export function bytesOver(
  stats: LayerStats,
  disk: DiskId,
  layers: readonly LayerRef[],
  bases: ReadonlyMap<number, LayerRef>,
  weight: (layer: LayerRef) => number = () => 1,
): Map<number, number> {
  const over = new Map<number, number>();
  for (const layer of layers) {
    const { segments, bytes } = stats.get(disk, layer);
    const times = weight(layer);
    for (let i = 0; i < segments.length; i++) {
      const segment = segments[i] ?? 0;
      if (counts(layer, bases.get(segment))) over.set(segment, (over.get(segment) ?? 0) + (bytes[i] ?? 0) * times);
    }
  }
  return over;
}

/** Whether a base leaves a layer's blocks in its segment in sight. */
export const counts = (layer: LayerRef, base: LayerRef | undefined): boolean =>
  base === undefined || compareLayers(layer, base) > 0;

/** Bytes of a layer at or below the oldest point that bases there hide. */
export function hiddenBytesOf(
  stats: LayerStats,
  disk: DiskId,
  layer: LayerRef,
  atOldest: ReadonlyMap<number, LayerRef>,
): number {
  const { segments, bytes } = stats.get(disk, layer);
  let hidden = 0;
  for (let i = 0; i < segments.length; i++) if (!counts(layer, atOldest.get(segments[i] ?? 0))) hidden += bytes[i] ?? 0;
  return hidden;
}
