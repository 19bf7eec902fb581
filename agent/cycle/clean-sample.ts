/**
 * The tracker is distrusted: in each cycle a few random blocks that it claims to be clean are hashed and compared with what the receiver has.
 * A mismatch means that a write went unseen: the series ends and a comparison follows.
 */
import { CLEAN_SAMPLE_BLOCKS } from '../../shared/limits.js';
import type { BlockNumber } from '../../shared/units.js';
import { UNLIMITED, unpaced } from '../load/pace.js';
import type { ReceiverSession } from '../session/session.js';
import type { DiskCycle } from './disk-cycle.js';
import { ensureTrusted } from './known-hashes.js';
import type { OnBlocks } from './reader.js';

export interface CleanSample {
  readonly blocks: readonly BlockNumber[];
  readonly hashes: readonly bigint[];
}

/** Reads random blocks that no mark names so far. `random` gives numbers in [0, 1). */
export async function takeSample(cycle: DiskCycle, random: () => number, pace = UNLIMITED): Promise<CleanSample> {
  const { geometry, reader, cipher } = cycle.disk;
  const chosen = new Set<BlockNumber>();
  for (let i = 0; i < CLEAN_SAMPLE_BLOCKS; i++) {
    const block = Math.floor(random() * geometry.blockCount);
    if (!cycle.taken.has(block)) chosen.add(block);
  }
  const blocks: BlockNumber[] = [];
  const hashes: bigint[] = [];
  const extents = [...chosen].sort((a, b) => a - b).map((first) => ({ first, count: 1 }));
  const onBlocks: OnBlocks = (buffer, first, count) => {
    for (let i = 0; i < count; i++) {
      blocks.push(first + i);
      hashes.push(cipher.hash(buffer, i * geometry.blockBytes, geometry.blockBytes, first + i));
    }
  };
  await reader.readRuns(extents, onBlocks, { pace: unpaced(pace) });
  return { blocks, hashes };
}

/**
 * After the cut: the first block that differs although nothing marked it; null when the tracker kept its word.
 * `isMarkedSoon`: waits for the mark of a write that has landed and isn't complete yet.
 */
export async function findMismatch(
  cycle: DiskCycle,
  sample: CleanSample,
  session: ReceiverSession,
  isMarkedSoon: (block: BlockNumber) => Promise<boolean>,
): Promise<BlockNumber | null> {
  const { disk } = cycle;
  const numbers = Uint32Array.from(sample.blocks);
  const known = new BigUint64Array(numbers.length);
  for (const segment of await disk.store.untrustedAmong(numbers, numbers.length))
    await ensureTrusted(disk, session, segment, 'delta');
  await disk.store.lookup(numbers, numbers.length, known);
  for (let i = 0; i < numbers.length; i++) {
    const block = numbers[i] ?? 0;
    // Marked since: its content was allowed to change.
    if (cycle.taken.has(block) || disk.carry.has(block)) continue;
    disk.counters.cleanSamples++;
    if (sample.hashes[i] === known[i] || (await isMarkedSoon(block))) continue;
    disk.counters.cleanMismatches++;
    return block;
  }
  return null;
}
