/**
 * New hashes for scattered blocks, brought into order. Pure.
 */
import type { Geometry } from '../../../shared/blocks/geometry.js';
import { misuse } from './errors.js';
import { lanesOf } from './lanes.js';

/** Hashes of `length` blocks, in any order. Where a block stands twice, the later entry is the newer one and wins. */
export interface HashEntries {
  readonly blocks: Uint32Array;
  readonly hashes: BigUint64Array;
  readonly length: number;
}

/** Ascending, each block once. */
export interface OrderedEntries {
  readonly blocks: Uint32Array;
  readonly hashes: BigUint64Array;
}

const DIGIT_BITS = 10;
const DIGITS = 1 << DIGIT_BITS;
/** Three digits hold every block number (BLOCKS_PER_DISK_MAX is 2^29). */
const SHIFTS = [0, DIGIT_BITS, 2 * DIGIT_BITS];

/** Indexes that visit the blocks ascending, equal ones in their order; null when they are ascending already. Radix sort: 5 ms for 256k. */
export function ascendingOrder(blocks: Uint32Array, count: number): Uint32Array | null {
  let sorted = true;
  for (let i = 1; i < count && sorted; i++) sorted = (blocks[i - 1] ?? 0) <= (blocks[i] ?? 0);
  if (sorted) return null;
  let order = new Uint32Array(count);
  for (let i = 0; i < count; i++) order[i] = i;
  let next = new Uint32Array(count);
  const starts = new Uint32Array(DIGITS);
  for (const shift of SHIFTS) {
    starts.fill(0);
    for (let i = 0; i < count; i++) {
      const digit = ((blocks[i] ?? 0) >>> shift) & (DIGITS - 1);
      starts[digit] = (starts[digit] ?? 0) + 1;
    }
    let sum = 0;
    for (let digit = 0; digit < DIGITS; digit++) {
      const n = starts[digit] ?? 0;
      starts[digit] = sum;
      sum += n;
    }
    for (let i = 0; i < count; i++) {
      const index = order[i] ?? 0;
      const digit = ((blocks[index] ?? 0) >>> shift) & (DIGITS - 1);
      const at = starts[digit] ?? 0;
      starts[digit] = at + 1;
      next[at] = index;
    }
    [order, next] = [next, order];
  }
  return order;
}

/** Checks block numbers, orders them and keeps the newest hash of each block. The result is a copy. */
export function orderEntries(geometry: Geometry, entries: HashEntries): OrderedEntries {
  const { length } = entries;
  if (length > entries.blocks.length || length > entries.hashes.length) throw misuse('fewer entries than their length');
  const order = ascendingOrder(entries.blocks, length);
  const blocks = new Uint32Array(length);
  const hashes = new BigUint64Array(length);
  const source = lanesOf(entries.hashes);
  const target = lanesOf(hashes);
  let n = 0;
  for (let i = 0; i < length; i++) {
    const index = order === null ? i : (order[i] ?? 0);
    const block = entries.blocks[index] ?? 0;
    if (block >= geometry.blockCount) throw misuse(`block ${block} of a disk of ${geometry.blockCount} blocks`);
    if (n > 0 && blocks[n - 1] === block) n--;
    blocks[n] = block;
    target[n * 2] = source[index * 2] ?? 0;
    target[n * 2 + 1] = source[index * 2 + 1] ?? 0;
    n++;
  }
  return { blocks: blocks.subarray(0, n), hashes: hashes.subarray(0, n) };
}

/** Segments that ascending blocks lie in, ascending, and where in the list each begins (one more than segments, the last is the end). */
export function segmentRuns(geometry: Geometry, blocks: Uint32Array): { segments: Uint32Array; starts: Uint32Array } {
  const segments: number[] = [];
  const starts: number[] = [];
  let end = 0;
  for (let i = 0; i < blocks.length; i++) {
    const block = blocks[i] ?? 0;
    if (block < end) continue;
    const segment = Math.floor(block / geometry.blocksPerSegment);
    segments.push(segment);
    starts.push(i);
    end = (segment + 1) * geometry.blocksPerSegment;
  }
  starts.push(blocks.length);
  return { segments: Uint32Array.from(segments), starts: Uint32Array.from(starts) };
}
