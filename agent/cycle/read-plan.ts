/**
 * From wanted blocks to reads: neighbours over small gaps share one read, large runs are cut. Pure.
 */
import type { Extent } from '../../shared/blocks/block-set.js';
import type { BlockNumber } from '../../shared/units.js';

/** One read of the disk, and the runs in it that are wanted. */
export interface PlannedRead {
  readonly first: BlockNumber;
  readonly count: number;
  readonly runs: readonly Extent[];
}

export interface ReadShape {
  /** Blocks of one read at most. */
  readonly blocksMax: number;
  /** Unwanted blocks between two runs that are read along rather than a new read begun. */
  readonly gapBlocksMax: number;
}

/** `extents` ascending and apart, as a BlockSet gives them. Reads come ascending as well. */
export function* planReads(extents: Iterable<Extent>, shape: ReadShape): Generator<PlannedRead> {
  let runs: Extent[] = [];
  let first = 0;
  let end = 0;
  for (const extent of extents) {
    let at = extent.first;
    const extentEnd = extent.first + extent.count;
    while (at < extentEnd) {
      const joins = runs.length > 0 && at - end <= shape.gapBlocksMax && at - first < shape.blocksMax;
      if (!joins) {
        if (runs.length > 0) yield { first, count: end - first, runs };
        runs = [];
        first = at;
      }
      const count = Math.min(extentEnd - at, first + shape.blocksMax - at);
      runs.push({ first: at, count });
      at += count;
      end = at;
    }
  }
  if (runs.length > 0) yield { first, count: end - first, runs };
}
