/**
 * The read plan of one disk at one point: which layer has the newest copy of each block. Pure: no I/O, no clock.
 *
 * All layers stand in one order: (last point, epoch, sequence). Of two layers with a block, the later one has it. A base is authoritative for
 * its whole segment: it hides everything before it there, and a block that it lacks was zero. A block in no layer is zero.
 * The order alone decides, so a delta of the same point as a base counts if it was written later (the catch-up after a first copy), and a
 * merged delta that reaches back behind a base counts as well: for each of its blocks it has the value at its last point.
 *
 * The plan's units have disjoint blocks that together are the whole disk, so they can be worked on in any order and their digests are XORed.
 * Memory follows the distinct blocks in deltas: one bit each, and their runs.
 */
import { BlockSet } from '../../shared/blocks/block-set.js';
import { segmentBlocks, type Geometry } from '../../shared/blocks/geometry.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import type { SegmentNumber } from '../../shared/units.js';
import type { LayerRef } from '../catalog/manifest.js';

/** Layers of one disk that may matter at a point; in any order. */
export interface PointLayers {
  /** At most one per segment is used: the latest. */
  readonly bases: readonly LayerRef[];
  readonly deltas: readonly LayerRef[];
}

/** Winning blocks of one delta: runs as pairs (first, count), ascending. */
export interface DeltaUnit {
  readonly kind: 'delta';
  readonly layer: LayerRef;
  readonly runs: Uint32Array;
  readonly blocks: number;
}

/** A segment's base, less the blocks that deltas have. */
export interface BaseUnit {
  readonly kind: 'base';
  readonly layer: LayerRef;
  readonly segment: SegmentNumber;
  readonly blocks: number;
}

/** A segment without a base, less the blocks that deltas have: all zero. */
export interface ZeroUnit {
  readonly kind: 'zero';
  readonly segment: SegmentNumber;
  readonly blocks: number;
}

export type PlanUnit = DeltaUnit | BaseUnit | ZeroUnit;

export interface ReadPlan {
  readonly geometry: Geometry;
  readonly units: readonly PlanUnit[];
  /** Blocks that some delta unit has. */
  readonly claimed: BlockSet;
}

/** Order of layers, oldest first. */
export const compareLayers = (a: LayerRef, b: LayerRef): number =>
  a.lastPoint - b.lastPoint || a.epoch - b.epoch || a.sequence - b.sequence;

/** Blocks looked at in one go when runs are split: a page of a BlockSet. */
const WINDOW_BLOCKS = 1 << 15;

/** Runs within [first, first + count) that are not in `claimed`, ascending. */
export function* freeRuns(claimed: BlockSet, first: number, count: number): Generator<readonly [number, number]> {
  const end = first + count;
  let free = first;
  for (let window = first; window < end;) {
    const windowEnd = Math.min(end, (Math.floor(window / WINDOW_BLOCKS) + 1) * WINDOW_BLOCKS);
    for (const block of claimed.blocksIn(window, windowEnd - window)) {
      if (block > free) yield [free, block - free];
      free = block + 1;
    }
    window = windowEnd;
  }
  if (end > free) yield [free, end - free];
}

/** Pairs (first, count) that grow; adjacent runs are joined. */
class RunList {
  #pairs = new Uint32Array(16);
  #length = 0;
  blocks = 0;

  add(first: number, count: number): void {
    this.blocks += count;
    const last = this.#length - 2;
    const lastFirst = this.#pairs[last];
    const lastCount = this.#pairs[last + 1];
    if (lastFirst !== undefined && lastCount !== undefined && lastFirst + lastCount === first) {
      this.#pairs[last + 1] = lastCount + count;
      return;
    }
    if (this.#length === this.#pairs.length) {
      const larger = new Uint32Array(this.#pairs.length * 2);
      larger.set(this.#pairs);
      this.#pairs = larger;
    }
    this.#pairs[this.#length] = first;
    this.#pairs[this.#length + 1] = count;
    this.#length += 2;
  }

  finish(): Uint32Array {
    return this.#pairs.slice(0, this.#length);
  }
}

export class ReadPlanner {
  readonly #geometry: Geometry;
  readonly #bases = new Map<SegmentNumber, LayerRef>();
  readonly #claimed = new BlockSet();
  readonly #units: PlanUnit[] = [];
  #last: LayerRef | undefined;

  /** `bases`: of each segment the latest is used. */
  constructor(geometry: Geometry, bases: readonly LayerRef[]) {
    this.#geometry = geometry;
    for (const base of bases) {
      const segment = base.segment;
      // A base beyond the end is of a time when the disk was larger.
      if (segment === null || segment >= geometry.segmentCount) continue;
      const known = this.#bases.get(segment);
      if (known === undefined || compareLayers(known, base) < 0) this.#bases.set(segment, base);
    }
  }

  /** The deltas that can have a block of this plan, newest first: the order in which addDelta() wants them. */
  relevant(deltas: readonly LayerRef[]): LayerRef[] {
    let oldest: LayerRef | undefined;
    if (this.#bases.size === this.#geometry.segmentCount) {
      for (const base of this.#bases.values()) {
        if (oldest === undefined || compareLayers(base, oldest) < 0) oldest = base;
      }
    }
    return deltas
      .filter((d) => oldest === undefined || compareLayers(d, oldest) > 0)
      .filter((d) => d.segment === null || this.#counts(d, d.segment))
      .sort((a, b) => compareLayers(b, a));
  }

  /** Adds a delta that is older than all before it. */
  addDelta(layer: LayerRef, index: LayerIndex): void {
    if (this.#last !== undefined && compareLayers(this.#last, layer) <= 0) {
      throw new Error(
        `layers must come newest first, each once (point ${layer.lastPoint}, sequence ${layer.sequence})`,
      );
    }
    this.#last = layer;
    const runs = new RunList();
    for (let i = 0; i < index.first.length; i++) {
      const first = index.first[i] ?? 0;
      const end = Math.min(first + (index.count[i] ?? 0), this.#geometry.blockCount);
      this.#claim(layer, first, end, runs);
    }
    if (runs.blocks === 0) return;
    this.#units.push({ kind: 'delta', layer, runs: runs.finish(), blocks: runs.blocks });
  }

  finish(): ReadPlan {
    const { segmentCount } = this.#geometry;
    for (let segment = 0; segment < segmentCount; segment++) {
      const { first, count } = segmentBlocks(this.#geometry, segment);
      const blocks = count - this.#claimed.countIn(first, count);
      if (blocks === 0) continue;
      const layer = this.#bases.get(segment);
      this.#units.push(
        layer === undefined ? { kind: 'zero', segment, blocks } : { kind: 'base', layer, segment, blocks },
      );
    }
    return { geometry: this.#geometry, units: this.#units, claimed: this.#claimed };
  }

  /** Whether a delta is later than the base of a segment. */
  #counts(layer: LayerRef, segment: SegmentNumber): boolean {
    const base = this.#bases.get(segment);
    return base === undefined || compareLayers(layer, base) > 0;
  }

  #claim(layer: LayerRef, start: number, end: number, runs: RunList): void {
    const { blocksPerSegment } = this.#geometry;
    for (let at = start; at < end;) {
      const segment = Math.floor(at / blocksPerSegment);
      const partEnd = Math.min(end, (segment + 1) * blocksPerSegment);
      if (this.#counts(layer, segment)) {
        for (const [first, count] of freeRuns(this.#claimed, at, partEnd - at)) runs.add(first, count);
        this.#claimed.addRange(at, partEnd - at);
      }
      at = partEnd;
    }
  }
}
