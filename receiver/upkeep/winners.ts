/**
 * Which of several layers has the newest copy of each block that any of them has: the union of their blocks, newest wins. Pure.
 * Zero runs are blocks like others: a discarded block must not come back. Blocks beyond the end of the disk are kept as well.
 */
import { BlockSet } from '../../shared/blocks/block-set.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import type { LayerRef } from '../catalog/manifest.js';
import { freeRuns } from '../volume/read-plan.js';
import { workOfRuns, type UnitWork } from '../volume/unit-work.js';

export interface IndexedLayer {
  readonly layer: LayerRef;
  readonly index: LayerIndex;
}

export interface Winner extends IndexedLayer {
  readonly work: UnitWork;
}

export interface BlockRange {
  readonly first: number;
  readonly count: number;
}

/** Whether a block range of a layer is needed; ranges never cross a segment. */
export type IsNeeded = (layer: LayerRef, segment: number) => boolean;

export interface WinnerOptions {
  /** Only these blocks; all unless given. */
  readonly within?: BlockRange;
  /** Blocks per segment, and which segments of which layer count; all unless given. */
  readonly needed?: { readonly blocksPerSegment: number; readonly isNeeded: IsNeeded };
}

/** `layers` oldest first. */
export function winnersOf(layers: readonly IndexedLayer[], options: WinnerOptions = {}): Winner[] {
  const claimed = new BlockSet();
  const winners: Winner[] = [];
  for (const { layer, index } of [...layers].reverse()) {
    const runs: (readonly [number, number])[] = [];
    for (let i = 0; i < index.first.length; i++) {
      const first = index.first[i] ?? 0;
      for (const [at, count] of partsOf(layer, first, index.count[i] ?? 0, options)) {
        for (const run of freeRuns(claimed, at, count)) runs.push(run);
        claimed.addRange(at, count);
      }
    }
    if (runs.length > 0) winners.push({ layer, index, work: workOfRuns(index, runs) });
  }
  return winners.reverse();
}

/** The parts of a run of blocks that count, ascending. */
function* partsOf(
  layer: LayerRef,
  first: number,
  count: number,
  { within, needed }: WinnerOptions,
): Generator<readonly [number, number]> {
  const from = Math.max(first, within?.first ?? 0);
  const end = Math.min(first + count, within === undefined ? Infinity : within.first + within.count);
  if (from >= end) return;
  if (needed === undefined) {
    yield [from, end - from];
    return;
  }
  const { blocksPerSegment, isNeeded } = needed;
  for (let at = from; at < end;) {
    const segment = Math.floor(at / blocksPerSegment);
    const partEnd = Math.min(end, (segment + 1) * blocksPerSegment);
    if (isNeeded(layer, segment)) yield [at, partEnd - at];
    at = partEnd;
  }
}

/** What a set of blocks amounts to: two that are equal hold the same data blocks with the same hashes, and as many zero blocks. */
export interface Sum {
  readonly xor: bigint;
  readonly dataBlocks: number;
  readonly zeroBlocks: number;
}

export function sumOfWinners(winners: readonly Winner[]): Sum {
  let xor = 0n;
  let dataBlocks = 0;
  let zeroBlocks = 0;
  for (const { index, work } of winners) {
    for (const { hashAt, count } of work.pieces) {
      for (let i = 0; i < count; i++) xor ^= index.hashes[hashAt + i] ?? 0n;
      dataBlocks += count;
    }
    for (const [, count] of work.zeroes) zeroBlocks += count;
  }
  return { xor, dataBlocks, zeroBlocks };
}

export function sumOfIndexes(indexes: readonly LayerIndex[]): Sum {
  let xor = 0n;
  let dataBlocks = 0;
  let zeroBlocks = 0;
  for (const index of indexes) {
    for (const hash of index.hashes) xor ^= hash;
    dataBlocks += index.hashes.length;
    for (let i = 0; i < index.first.length; i++) if (index.zero[i] === 1) zeroBlocks += index.count[i] ?? 0;
  }
  return { xor, dataBlocks, zeroBlocks };
}

export const sameSum = (a: Sum, b: Sum): boolean =>
  a.xor === b.xor && a.dataBlocks === b.dataBlocks && a.zeroBlocks === b.zeroBlocks;
