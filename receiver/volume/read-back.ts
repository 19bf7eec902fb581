/**
 * Reads a restored target back from its disk and computes the digest of what is there: the proof that the target kept what it was given.
 */
import { bytesOfBlocks, type Geometry } from '../../shared/blocks/geometry.js';
import type { BlockHasher } from '../../shared/crypto/block-hasher.js';
import { READ_BYTES_MAX, READS_IN_FLIGHT } from '../../shared/limits.js';
import { giveBackAligned, takeAligned } from './aligned-pool.js';
import { cancelled } from './plan-point.js';
import type { Progress } from './progress.js';
import { targetError } from './target-error.js';
import type { RestoreTarget } from './target.js';

export async function readBackDigest(
  target: RestoreTarget,
  geometry: Geometry,
  hash: BlockHasher,
  progress: Progress,
  signal: AbortSignal,
): Promise<bigint> {
  await target.forgetCached();
  const ranges = dataRanges(target, geometry, progress);
  let digest = 0n;
  const worker = async (): Promise<void> => {
    const buffer = takeAligned();
    try {
      for (const [first, count] of ranges) {
        if (signal.aborted) throw cancelled('reading back');
        const part = await digestOf(target, geometry, hash, first, count, buffer);
        // Not `digest ^= await …`: that would read the sum before the other workers have added to it.
        digest ^= part;
        progress.add(bytesOfBlocks(geometry, first, count));
      }
    } finally {
      giveBackAligned(buffer);
    }
  };
  const results = await Promise.allSettled(Array.from({ length: READS_IN_FLIGHT }, worker));
  for (const result of results) if (result.status === 'rejected') throw result.reason;
  return digest;
}

/** Runs of blocks to be read; holes of a file are zero and left out. Shared by the workers, each takes the next one. */
function* dataRanges(target: RestoreTarget, geometry: Geometry, progress: Progress): Generator<[number, number]> {
  const { blockBytes, blockCount } = geometry;
  const step = READ_BYTES_MAX / blockBytes;
  let block = 0;
  while (block < blockCount) {
    const data = target.nextData(block * blockBytes);
    const start =
      data === null ? blockCount : data === undefined ? block : Math.max(block, Math.floor(data[0] / blockBytes));
    const end =
      data === null || data === undefined ? blockCount : Math.min(blockCount, Math.ceil(data[1] / blockBytes));
    if (start > block) progress.add(bytesOfBlocks(geometry, block, start - block));
    for (block = start; block < end; block += step) yield [block, Math.min(step, end - block)];
    block = Math.max(start, end);
  }
}

async function digestOf(
  target: RestoreTarget,
  geometry: Geometry,
  hash: BlockHasher,
  first: number,
  count: number,
  buffer: Buffer,
): Promise<bigint> {
  const { blockBytes } = geometry;
  const bytes = bytesOfBlocks(geometry, first, count);
  const got = await target.read(first * blockBytes, buffer.subarray(0, bytes));
  if (got !== bytes)
    throw targetError(`reading ${target.path}`, new Error(`it ends at byte ${first * blockBytes + got}`));
  buffer.fill(0, bytes, count * blockBytes);
  let digest = 0n;
  for (let i = 0; i < count; i++) digest ^= hash(buffer, i * blockBytes, blockBytes, first + i);
  return digest;
}
