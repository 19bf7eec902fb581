/**
 * Room in a sparse file for ranges that are about to be written around the page cache, for all of them in one go: a reservation waits for the writes under
 * way and holds up those to come (ext4, XFS). One before each write would let a single write through at a time; so would none, as writes that have to find
 * room wait for each other (measured: a restore after a long history took 10 to 15 % longer either way).
 */
import { RESERVE_BYTES_MIN } from '../../../shared/limits.js';
import { reserveRange } from '../../../shared/native/libc.js';
import { targetError } from '../target-error.js';
import type { Outlet, Put } from './span-job.js';

export type Range = Pick<Put, 'offset' | 'lengthBytes'>;

/** Ranges of writes, those that touch joined. */
function* rangesOf(puts: Iterable<Range>): Generator<readonly [number, number]> {
  let start = 0;
  let end = 0;
  for (const { offset, lengthBytes } of puts) {
    if (offset !== end) {
      if (end > start) yield [start, end - start];
      start = offset;
    }
    end = offset + lengthBytes;
  }
  if (end > start) yield [start, end - start];
}

/** Blocks. Does nothing for a target that needs none, or can't. */
export function reserve(outlet: Outlet, puts: Iterable<Range>): void {
  const fd = outlet.cached ?? outlet.direct;
  if (!outlet.isSparse || outlet.direct === null || fd === null) return;
  for (const [offset, lengthBytes] of rangesOf(puts)) {
    if (lengthBytes < RESERVE_BYTES_MIN) continue;
    try {
      if (!reserveRange(fd, offset, lengthBytes)) return;
    } catch (error) {
      throw targetError(`writing to ${outlet.path} at byte ${offset}`, error);
    }
  }
}
