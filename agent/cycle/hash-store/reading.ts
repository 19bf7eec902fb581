/** Reads hashes of scattered blocks out of a store's file, a slice of the event loop at a time. Owns nothing. */
import { HASH_BATCH_BLOCKS } from '../../../shared/limits.js';
import type { SegmentNumber } from '../../../shared/units.js';
import type { HashStoreCore } from './core.js';
import { ascendingOrder } from './entries.js';
import { misuse, UntrustedSegmentsError } from './errors.js';
import { lanesOf } from './lanes.js';
import { Pacer } from './pacer.js';

export async function demandTrust(core: HashStoreCore, segments: Iterable<SegmentNumber>): Promise<void> {
  const untrusted = await core.untrusted(segments);
  if (untrusted.length > 0) throw new UntrustedSegmentsError(untrusted);
}

/** Segments that the first `count` blocks lie in. */
export function segmentsOf(core: HashStoreCore, blocks: Uint32Array, count: number): Set<SegmentNumber> {
  const { blockCount, blocksPerSegment } = core.geometry;
  const segments = new Set<SegmentNumber>();
  for (let i = 0; i < count; i++) {
    const block = blocks[i] ?? blockCount;
    if (block >= blockCount) throw misuse(`block ${block} of a disk of ${blockCount} blocks`);
    segments.add(Math.floor(block / blocksPerSegment));
  }
  return segments;
}

/** Reads the hashes of ascending blocks, as halves. Their segments must be trusted. */
export async function gather(core: HashStoreCore, blocks: Uint32Array, out: Uint32Array): Promise<void> {
  const pacer = new Pacer(core.clock);
  for (let i = 0; i < blocks.length; i += HASH_BATCH_BLOCKS) {
    const end = Math.min(i + HASH_BATCH_BLOCKS, blocks.length);
    core.hashes.gather(blocks, i, end, out.subarray(i * 2, end * 2));
    await pacer.breathe();
  }
}

/** The same for blocks in any order; each hash goes to its block's place. */
export async function lookup(
  core: HashStoreCore,
  blocks: Uint32Array,
  count: number,
  out: BigUint64Array,
): Promise<void> {
  if (out.length < count) throw misuse(`room for ${out.length} of ${count} hashes`);
  await demandTrust(core, segmentsOf(core, blocks, count));
  const order = ascendingOrder(blocks, count);
  const target = lanesOf(out);
  if (order === null) return gather(core, blocks.subarray(0, count), target);
  const ascending = order.map((index) => blocks[index] ?? 0);
  const lanes = new Uint32Array(count * 2);
  await gather(core, ascending, lanes);
  for (let i = 0; i < count; i++) {
    const index = order[i] ?? 0;
    target[index * 2] = lanes[i * 2] ?? 0;
    target[index * 2 + 1] = lanes[i * 2 + 1] ?? 0;
  }
}
