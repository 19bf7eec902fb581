/**
 * Reads the changed blocks of a cut, ascending, in batches of at most one chunk's worth of bytes; the next batch is read while one is worked on.
 * Memory: two batches. When the consumer stops, no read is left under way: the cut may be given back at once.
 */
import type { BlockSet, Extent } from '../../shared/blocks/block-set.js';
import { CHUNK_PLAIN_BYTES_MAX } from '../../shared/limits.js';
import type { BlockNumber } from '../../shared/units.js';
import type { VolumeCut } from './cut.js';

/** `bytes` holds the blocks one after the other; valid until the next batch is asked for. */
export interface CutBatch {
  readonly blocks: readonly BlockNumber[];
  readonly bytes: Buffer;
}

/** Runs of a set, ascending, in groups of at most `blocksMax` blocks; long runs are split. */
export function* batchesOf(set: BlockSet, blocksMax: number): Generator<readonly Extent[]> {
  let runs: Extent[] = [];
  let room = blocksMax;
  for (const { first, count } of set.extents()) {
    for (let at = first; at < first + count;) {
      const n = Math.min(room, first + count - at);
      runs.push({ first: at, count: n });
      at += n;
      room -= n;
      if (room > 0) continue;
      yield runs;
      runs = [];
      room = blocksMax;
    }
  }
  if (runs.length > 0) yield runs;
}

async function readRuns(cut: VolumeCut, blockBytes: number, runs: readonly Extent[], into: Buffer): Promise<CutBatch> {
  const blocks: BlockNumber[] = [];
  const reads: Promise<void>[] = [];
  for (const { first, count } of runs) {
    const at = blocks.length * blockBytes;
    reads.push(cut.read(first, count, into.subarray(at, at + count * blockBytes)));
    for (let i = 0; i < count; i++) blocks.push(first + i);
  }
  // All must have ended before the buffer or the cut is given back, also when one has failed.
  const failed = (await Promise.allSettled(reads)).find((r) => r.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
  return { blocks, bytes: into.subarray(0, blocks.length * blockBytes) };
}

export async function* readCut(cut: VolumeCut, blockBytes: number): AsyncGenerator<CutBatch> {
  const batches = batchesOf(cut.changed, CHUNK_PLAIN_BYTES_MAX / blockBytes);
  let free = Buffer.allocUnsafe(CHUNK_PLAIN_BYTES_MAX);
  let next = Buffer.allocUnsafe(CHUNK_PLAIN_BYTES_MAX);
  const begin = (): Promise<CutBatch> | undefined => {
    const runs = batches.next();
    if (runs.done === true) return undefined;
    [free, next] = [next, free];
    return readRuns(cut, blockBytes, runs.value, free);
  };
  let ahead = begin();
  try {
    while (ahead !== undefined) {
      const batch = await ahead;
      ahead = begin();
      yield batch;
    }
  } finally {
    // The consumer's error counts, not that of a read which nobody waits for.
    await ahead?.catch(() => undefined);
  }
}
