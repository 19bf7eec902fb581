/**
 * Where an XFS filesystem writes next: the head of its log. Mounting it for writing writes there, even when nothing else changes (not even the
 * superblock). Each 512 bytes of the log begin with the number of the pass in which they were written; the head is where that number drops.
 */
import type { ReadAt } from './bytes.js';

export interface Range {
  readonly offset: number;
  readonly length: number;
}

const LOG_BLOCK_BYTES = 512;
/** A record's header has a magic number first, its pass second. */
const HEADER_MAGIC = 0xfeedbabe;
/** From the head on: more than the smallest record, so that any record that was added shows. And some before: the last that was written. */
const AFTER_BYTES = 64 * 1024;
const BEFORE_BYTES = 64 * 1024;

interface Geometry {
  readonly logOffset: number;
  readonly logBytes: number;
}

/** Null when the log lies elsewhere, or this is no superblock that we understand. */
function geometryOf(superblock: Buffer): Geometry | null {
  const blockBytes = superblock.readUInt32BE(4);
  const logStart = superblock.readBigUInt64BE(48);
  const agBlocks = superblock.readUInt32BE(84);
  const logBlocks = superblock.readUInt32BE(96);
  const agBlocksLog2 = superblock.readUInt8(124);
  if (logStart === 0n || blockBytes === 0 || logBlocks === 0) return null;
  const group = Number(logStart >> BigInt(agBlocksLog2));
  const block = Number(logStart & ((1n << BigInt(agBlocksLog2)) - 1n));
  return { logOffset: (group * agBlocks + block) * blockBytes, logBytes: logBlocks * blockBytes };
}

/** The parts of the log that any further mount for writing changes; null when they can't be found. */
export function xfsLogRanges(read: ReadAt): Range[] | null {
  const geometry = geometryOf(read(0, LOG_BLOCK_BYTES));
  if (geometry === null) return null;
  const { logOffset, logBytes } = geometry;
  const count = Math.floor(logBytes / LOG_BLOCK_BYTES);
  const passOf = (block: number): number => {
    const bytes = read(logOffset + block * LOG_BLOCK_BYTES, LOG_BLOCK_BYTES);
    const first = bytes.readUInt32BE(0);
    return first === HEADER_MAGIC ? bytes.readUInt32BE(4) : first;
  };
  const newest = passOf(0);
  // The first block that is of an older pass; all of them are of one when the log was just filled to its end: then the head is its beginning.
  let [low, high] = [0, count];
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (passOf(middle) === newest) low = middle;
    else high = middle;
  }
  return around(high % count, count).map(({ offset, length }) => ({ offset: logOffset + offset, length }));
}

/** Blocks before and after the head, over the end of the log where need be. */
function around(head: number, count: number): Range[] {
  const size = count * LOG_BLOCK_BYTES;
  const start = head * LOG_BLOCK_BYTES - BEFORE_BYTES;
  const wanted = Math.min(size, BEFORE_BYTES + AFTER_BYTES);
  const from = ((start % size) + size) % size;
  const first = Math.min(wanted, size - from);
  const rest = wanted - first;
  return [{ offset: from, length: first }, ...(rest > 0 ? [{ offset: 0, length: rest }] : [])];
}
