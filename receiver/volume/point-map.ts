/**
 * Which layer has the newest copy of a block: a read plan in a form for random access. Pure.
 *
 * Runs of deltas are kept per segment, ascending, as one number each: first block within the segment (14 bits), count less one (14), layer (25).
 * What no run has falls to the segment's base, or is zero. A lookup is a binary search among the runs of one segment.
 * Memory: 8 bytes per run of a delta, 8 bytes per segment, whatever the size of the disk. The plan itself need not be kept.
 */
import { segmentOf, type Geometry } from '../../shared/blocks/geometry.js';
import { BLOCK_BYTES_MIN, SEGMENT_BYTES } from '../../shared/limits.js';
import type { BlockNumber } from '../../shared/units.js';
import type { LayerRef } from '../catalog/manifest.js';
import type { ReadPlan } from './read-plan.js';

/** No layer: the blocks are zero. */
export const NO_LAYER = -1;

/** Blocks of one layer (a number in `layers`), or of none. */
export interface MapRun {
  readonly first: BlockNumber;
  readonly count: number;
  readonly layer: number;
}

/** Blocks per segment at most: first and count of a run take 14 bits each, so that a run is exact in a double. */
const SPAN = SEGMENT_BYTES / BLOCK_BYTES_MIN;
const LAYERS_MAX = 2 ** 25;

const pack = (first: number, count: number, layer: number): number => (first * SPAN + count - 1) * LAYERS_MAX + layer;
const firstOf = (run: number): number => Math.floor(run / (LAYERS_MAX * SPAN));
const countOf = (run: number): number => (Math.floor(run / LAYERS_MAX) % SPAN) + 1;
const layerOf = (run: number): number => run % LAYERS_MAX;

export class PointMap {
  readonly geometry: Geometry;
  /** Layers by their number in this map. */
  readonly layers: readonly LayerRef[];
  readonly #runs: Float64Array;
  /** Runs of segment s are those from #starts[s] to #starts[s + 1]. */
  readonly #starts: Uint32Array;
  /** Layer of each segment's base. */
  readonly #bases: Int32Array;

  constructor(plan: ReadPlan) {
    this.geometry = plan.geometry;
    const { segmentCount } = plan.geometry;
    const layers: LayerRef[] = [];
    this.#bases = new Int32Array(segmentCount).fill(NO_LAYER);
    this.#starts = new Uint32Array(segmentCount + 1);
    for (const [segment] of deltaParts(plan)) this.#starts[segment + 1] = (this.#starts[segment + 1] ?? 0) + 1;
    for (let s = 0; s < segmentCount; s++) this.#starts[s + 1] = (this.#starts[s + 1] ?? 0) + (this.#starts[s] ?? 0);
    this.#runs = new Float64Array(this.#starts[segmentCount] ?? 0);
    const next = this.#starts.slice();
    for (const unit of plan.units) if (unit.kind === 'delta') layers.push(unit.layer);
    for (const [segment, first, count, layer] of deltaParts(plan)) {
      const at = next[segment] ?? 0;
      this.#runs[at] = pack(first, count, layer);
      next[segment] = at + 1;
    }
    // A run's first block is its highest part, so the order of numbers is the order of blocks.
    for (let s = 0; s < segmentCount; s++) this.#runs.subarray(this.#starts[s], this.#starts[s + 1]).sort();
    for (const unit of plan.units) {
      if (unit.kind !== 'base') continue;
      this.#bases[unit.segment] = layers.length;
      layers.push(unit.layer);
    }
    this.layers = layers;
  }

  /** Bytes of its tables. */
  get tableBytes(): number {
    return this.#runs.byteLength + this.#starts.byteLength + this.#bases.byteLength;
  }

  /** Who has the blocks [first, first + count), ascending. */
  *runs(first: BlockNumber, count: number): Generator<MapRun> {
    const { geometry } = this;
    const end = first + count;
    for (let at = first; at < end;) {
      const segment = segmentOf(geometry, at);
      const start = segment * geometry.blocksPerSegment;
      const partEnd = Math.min(end, start + geometry.blocksPerSegment);
      yield* this.#inSegment(segment, start, at, partEnd);
      at = partEnd;
    }
  }

  *#inSegment(segment: number, start: BlockNumber, from: BlockNumber, end: BlockNumber): Generator<MapRun> {
    const base = this.#bases[segment] ?? NO_LAYER;
    const runsEnd = this.#starts[segment + 1] ?? 0;
    let at = from;
    for (let i = this.#firstEndingAfter(segment, from - start); i < runsEnd && at < end; i++) {
      const run = this.#runs[i] ?? 0;
      const runFirst = start + firstOf(run);
      if (runFirst >= end) break;
      if (runFirst > at) yield { first: at, count: runFirst - at, layer: base };
      at = Math.max(at, runFirst);
      const runEnd = Math.min(end, runFirst + countOf(run));
      yield { first: at, count: runEnd - at, layer: layerOf(run) };
      at = runEnd;
    }
    if (at < end) yield { first: at, count: end - at, layer: base };
  }

  /** The first run of a segment that ends after a block of it. */
  #firstEndingAfter(segment: number, block: number): number {
    let low = this.#starts[segment] ?? 0;
    let high = this.#starts[segment + 1] ?? 0;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const run = this.#runs[middle] ?? 0;
      if (firstOf(run) + countOf(run) > block) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}

/** Pairs (first, count), ascending. */
export type Runs = (readonly [first: number, count: number])[];

/** Runs of a range by the layer that has them; NO_LAYER for what is zero. */
export function byLayer(map: PointMap, first: BlockNumber, count: number): Map<number, Runs> {
  const found = new Map<number, Runs>();
  for (const run of map.runs(first, count)) {
    const runs = found.get(run.layer);
    if (runs === undefined) found.set(run.layer, [[run.first, run.count]]);
    else runs.push([run.first, run.count]);
  }
  return found;
}

/** Runs of deltas cut at the borders of segments: segment, first block in it, count, layer. */
function* deltaParts(plan: ReadPlan): Generator<readonly [number, number, number, number]> {
  const { blocksPerSegment } = plan.geometry;
  let layer = -1;
  for (const unit of plan.units) {
    if (unit.kind !== 'delta') continue;
    layer++;
    for (let i = 0; i + 1 < unit.runs.length; i += 2) {
      const first = unit.runs[i] ?? 0;
      const end = first + (unit.runs[i + 1] ?? 0);
      for (let at = first; at < end;) {
        const segment = Math.floor(at / blocksPerSegment);
        const start = segment * blocksPerSegment;
        const partEnd = Math.min(end, start + blocksPerSegment);
        yield [segment, at - start, partEnd - at, layer];
        at = partEnd;
      }
    }
  }
}
