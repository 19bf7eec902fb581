/**
 * Hashes of what the receiver has, from the local store; where the store is in doubt, from the receiver itself.
 */
import type { SegmentNumber } from '../../shared/units.js';
import type { ReceiverSession } from '../session/session.js';
import type { ProtectedDisk } from './protected-disk.js';

/**
 * `delta`: what the receiver says must be what this agent committed; if it isn't, tracked changes alone would leave it with what the disk never held.
 * `sweep`: the segment is about to be read from end to end, so the receiver's word is enough.
 */
export type TrustRule = 'delta' | 'sweep';

/** Makes a segment's hashes trustworthy: asks the receiver for them when the local ones are in doubt. */
export async function ensureTrusted(
  disk: ProtectedDisk,
  session: ReceiverSession,
  segment: SegmentNumber,
  rule: TrustRule,
): Promise<void> {
  if (await disk.store.verifySegment(segment)) return;
  const hashes = await session.requestHashes(disk.id, segment);
  await disk.store.replaceSegment(segment, hashes, rule === 'delta' ? 'must-agree' : 'take');
}

/** Hashes of one segment for a sweep, as the receiver has it. The array is the caller's. */
export async function knownSegment(
  disk: ProtectedDisk,
  session: ReceiverSession,
  segment: SegmentNumber,
): Promise<BigUint64Array> {
  await ensureTrusted(disk, session, segment, 'sweep');
  return disk.store.readSegment(segment);
}

/** Fills a store that lost its hashes with those of the receiver, without reading the disk: 0.2 % of its size over the wire. */
export async function refill(disk: ProtectedDisk, session: ReceiverSession): Promise<void> {
  for (let segment = 0; segment < disk.geometry.segmentCount; segment++)
    await ensureTrusted(disk, session, segment, 'sweep');
}
