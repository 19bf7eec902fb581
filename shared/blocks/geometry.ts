/**
 * Sizes of a disk in blocks and segments. Pure.
 */
import { usageError } from '../errors.js';
import {
  BLOCKS_PER_DISK_MAX,
  BLOCK_BYTES_MAX,
  BLOCK_BYTES_MIN,
  DISK_BYTES_MAX,
  DISK_BYTES_MIN,
  SEGMENT_BYTES,
} from '../limits.js';
import { formatBytes, type BlockNumber, type SegmentNumber } from '../units.js';

export interface Geometry {
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly blockCount: number;
  readonly segmentCount: number;
  readonly blocksPerSegment: number;
}

/** Smallest block (4 to 64 KiB) for which the disk's block count keeps its bound. */
export function chooseBlockBytes(sizeBytes: number): number {
  let blockBytes = BLOCK_BYTES_MIN;
  while (blockBytes < BLOCK_BYTES_MAX && Math.ceil(sizeBytes / blockBytes) > BLOCKS_PER_DISK_MAX) blockBytes *= 2;
  return blockBytes;
}

/** Geometry of a disk; the last block may be short (it is padded with zeroes for hashing). Throws on sizes out of bounds. */
export function geometryOf(sizeBytes: number, blockBytes: number): Geometry {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < DISK_BYTES_MIN || sizeBytes > DISK_BYTES_MAX || sizeBytes % 512) {
    throw usageError(
      `disk size ${sizeBytes} bytes is not supported (a multiple of 512 from ${formatBytes(DISK_BYTES_MIN)} to ${formatBytes(DISK_BYTES_MAX)})`,
    );
  }
  const power = Math.log2(blockBytes);
  if (!Number.isInteger(power) || blockBytes < BLOCK_BYTES_MIN || blockBytes > BLOCK_BYTES_MAX) {
    throw usageError(`block size ${blockBytes} is not a power of two from ${BLOCK_BYTES_MIN} to ${BLOCK_BYTES_MAX}`);
  }
  const blockCount = Math.ceil(sizeBytes / blockBytes);
  if (blockCount > BLOCKS_PER_DISK_MAX) {
    throw usageError(`disk of ${formatBytes(sizeBytes)} has too many blocks of ${blockBytes} bytes; use larger blocks`);
  }
  return {
    sizeBytes,
    blockBytes,
    blockCount,
    segmentCount: Math.ceil(sizeBytes / SEGMENT_BYTES),
    blocksPerSegment: SEGMENT_BYTES / blockBytes,
  };
}

export const segmentOf = (geometry: Geometry, block: BlockNumber): SegmentNumber =>
  Math.floor(block / geometry.blocksPerSegment);

/** First block and number of blocks of a segment (the last one may be short). */
export function segmentBlocks(geometry: Geometry, segment: SegmentNumber): { first: BlockNumber; count: number } {
  const first = segment * geometry.blocksPerSegment;
  return { first, count: Math.min(geometry.blocksPerSegment, geometry.blockCount - first) };
}

/** Bytes of a block that exist on the disk (less than a block at an odd end). */
export const bytesOfBlocks = (geometry: Geometry, first: BlockNumber, count: number): number =>
  Math.min((first + count) * geometry.blockBytes, geometry.sizeBytes) - first * geometry.blockBytes;
