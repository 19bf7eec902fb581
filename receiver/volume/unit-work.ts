/**
 * From a plan unit to work on chunks: which pieces of which chunks win, and which runs are zero. Pure.
 */
import type { Extent } from '../../shared/blocks/block-set.js';
import { segmentBlocks } from '../../shared/blocks/geometry.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import { freeRuns, type PlanUnit, type ReadPlan } from './read-plan.js';

/** A run of data blocks within one chunk. */
export interface Piece {
  readonly chunk: number;
  readonly first: number;
  readonly count: number;
  /** Of the first block: its position among the chunk's data blocks, and of its hash in the index. */
  readonly position: number;
  readonly hashAt: number;
}

export interface UnitWork {
  /** In the order of the chunks in the layer, ascending by block within a chunk. */
  readonly pieces: readonly Piece[];
  /** Runs (first, count) that are zero. */
  readonly zeroes: readonly (readonly [number, number])[];
}

const WHOLE_DISK: Extent = { first: 0, count: Number.MAX_SAFE_INTEGER };

/** Index of the first of `length` ascending things for which `isAfter` holds. */
function firstWhere(length: number, isAfter: (i: number) => boolean): number {
  let low = 0;
  let high = length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (isAfter(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** The runs of blocks that a unit stands for, ascending, as far as they lie within a range. */
export function* runsOf(plan: ReadPlan, unit: PlanUnit, within = WHOLE_DISK): Generator<readonly [number, number]> {
  const withinEnd = within.first + within.count;
  if (unit.kind !== 'delta') {
    const { first, count } = segmentBlocks(plan.geometry, unit.segment);
    const from = Math.max(first, within.first);
    const to = Math.min(first + count, withinEnd);
    if (to > from) yield* freeRuns(plan.claimed, from, to - from);
    return;
  }
  const { runs } = unit;
  const start = firstWhere(runs.length / 2, (i) => (runs[i * 2] ?? 0) + (runs[i * 2 + 1] ?? 0) > within.first);
  for (let i = start * 2; i + 1 < runs.length; i += 2) {
    const first = runs[i] ?? 0;
    if (first >= withinEnd) return;
    const from = Math.max(first, within.first);
    yield [from, Math.min(first + (runs[i + 1] ?? 0), withinEnd) - from];
  }
}

/** Work of a unit within a range; `index` is that of its layer, undefined for a zero unit. */
export function workOf(plan: ReadPlan, unit: PlanUnit, index: LayerIndex | undefined, within = WHOLE_DISK): UnitWork {
  const runs = runsOf(plan, unit, within);
  return index === undefined ? { pieces: [], zeroes: [...runs] } : workOfRuns(index, runs);
}

/** Work of runs (first, count) that a layer has, ascending. */
export function workOfRuns(index: LayerIndex, runs: Iterable<readonly [number, number]>): UnitWork {
  const pieces: Piece[] = [];
  const zeroes: (readonly [number, number])[] = [];
  let entry = -1;
  for (const run of runs) {
    if (entry < 0) entry = firstWhere(index.first.length, (i) => entryEnd(index, i) > run[0]);
    entry = resolveRun(index, entry, run, pieces, zeroes);
  }
  pieces.sort((a, b) => offsetOf(index, a) - offsetOf(index, b) || a.first - b.first);
  return { pieces, zeroes };
}

/** Splits a run along the index's entries from `entry` on; returns the entry to go on from. */
function resolveRun(
  index: LayerIndex,
  entry: number,
  [first, count]: readonly [number, number],
  pieces: Piece[],
  zeroes: (readonly [number, number])[],
): number {
  const end = first + count;
  let at = first;
  let e = entry;
  while (e < index.first.length && entryEnd(index, e) <= first) e++;
  for (; at < end; e++) {
    const start = index.first[e] ?? Infinity;
    // What no entry has is zero: in a base; a delta's runs are made of its entries.
    if (start > at) zeroes.push([at, Math.min(start, end) - at]);
    if (start >= end) break;
    at = Math.max(at, start);
    const partEnd = Math.min(end, entryEnd(index, e));
    if (index.zero[e] === 1) zeroes.push([at, partEnd - at]);
    else pieces.push(pieceOf(index, e, at, partEnd - at));
    at = partEnd;
    // The next run may go on within this entry.
    if (at === end) break;
  }
  return Math.min(e, index.first.length);
}

const entryEnd = (index: LayerIndex, entry: number): number => (index.first[entry] ?? 0) + (index.count[entry] ?? 0);

const offsetOf = (index: LayerIndex, piece: Piece): number => index.chunks[piece.chunk]?.offset ?? 0;

function pieceOf(index: LayerIndex, entry: number, first: number, count: number): Piece {
  const skip = first - (index.first[entry] ?? 0);
  return {
    chunk: index.chunk[entry] ?? 0,
    first,
    count,
    position: (index.position[entry] ?? 0) + skip,
    hashAt: (index.hashAt[entry] ?? 0) + skip,
  };
}

/** Pieces grouped by chunk, in their order. */
export function byChunk(pieces: readonly Piece[]): Map<number, Piece[]> {
  const groups = new Map<number, Piece[]>();
  for (const piece of pieces) {
    const group = groups.get(piece.chunk);
    if (group === undefined) groups.set(piece.chunk, [piece]);
    else group.push(piece);
  }
  return groups;
}
