/** Works out patches: which hashes change, and what digests their segments have then. Reads the store, changes nothing. */
import { segmentBlocks } from '../../../shared/blocks/geometry.js';
import type { SegmentNumber } from '../../../shared/units.js';
import type { HashStoreCore } from './core.js';
import { orderEntries, segmentRuns, type HashEntries } from './entries.js';
import { HASH_BYTES, joinLanes, lanesOf, xorOf } from './lanes.js';
import { Pacer } from './pacer.js';
import { demandTrust, gather } from './reading.js';
import { segmentPatch, type Patch } from './records.js';
import { TRUSTED } from './segment-table.js';

/** Bytes per changed block in a record that doesn't hold a whole segment: hash and block number. */
const ENTRY_BYTES = 12;

/** All hashes of a segment, or, where that is less to write, those that differ. */
export function segmentChange(core: HashStoreCore, segment: SegmentNumber, hashes: BigUint64Array): Patch {
  const whole = segmentPatch(segment, hashes, xorOf(hashes));
  if (core.table.trust[segment] !== TRUSTED) return whole;
  const { first, count } = segmentBlocks(core.geometry, segment);
  const old = new BigUint64Array(count);
  core.hashes.readSegment(segment, old);
  const [a, b] = [lanesOf(old), lanesOf(hashes)];
  const changed: number[] = [];
  for (let i = 0; i < count; i++) if (a[i * 2] !== b[i * 2] || a[i * 2 + 1] !== b[i * 2 + 1]) changed.push(i);
  if (changed.length * ENTRY_BYTES >= count * HASH_BYTES) return whole;
  return {
    ...whole,
    blocks: Uint32Array.from(changed, (i) => first + i),
    hashes: BigUint64Array.from(changed, (i) => hashes[i] ?? 0n),
  };
}

/** A cycle's entries in order, and their segments' digests: the old hashes out, the new ones in. */
export async function cycleChange(core: HashStoreCore, entries: HashEntries): Promise<Patch> {
  const pacer = new Pacer(core.clock);
  const { blocks, hashes } = orderEntries(core.geometry, entries);
  await pacer.breathe();
  const { segments, starts } = segmentRuns(core.geometry, blocks);
  await demandTrust(core, segments);
  const old = new Uint32Array(blocks.length * 2);
  await gather(core, blocks, old);
  const lanes = lanesOf(hashes);
  const digests = new BigUint64Array(segments.length);
  for (let s = 0; s < segments.length; s++) {
    let low = 0;
    let high = 0;
    for (let i = (starts[s] ?? 0) * 2; i < (starts[s + 1] ?? 0) * 2; i += 2) {
      low ^= (old[i] ?? 0) ^ (lanes[i] ?? 0);
      high ^= (old[i + 1] ?? 0) ^ (lanes[i + 1] ?? 0);
    }
    digests[s] = (core.table.digests[segments[s] ?? 0] ?? 0n) ^ joinLanes(low, high);
  }
  await pacer.breathe();
  return { segments, digests, blocks, hashes };
}
