/**
 * Hashes of what the receiver has, from the local store; where the store is in doubt, from the receiver itself.
 */
import type { SegmentNumber } from '../../shared/units.js';
import { DisputedSegmentError } from './hash-store/errors.js';
import type { ReceiverSession } from '../session/session.js';
import type { ProtectedDisk } from './protected-disk.js';

/**
 * `delta`: what the receiver says must be what this agent committed; if it isn't, tracked changes alone would leave it with what the disk never held.
 * `sweep`: the segment is about to be read from end to end, so the receiver's word is enough.
 */
export type TrustRule = 'delta' | 'sweep';

/**
 * Makes a segment's hashes trustworthy: asks the receiver for them when the local ones are in doubt. False: it doesn't know either, as a layer is damaged;
 * with `delta` that is a dispute, as if it had others.
 */
export async function ensureTrusted(
  disk: ProtectedDisk,
  session: ReceiverSession,
  segment: SegmentNumber,
  rule: TrustRule,
): Promise<boolean> {
  if (await disk.store.verifySegment(segment)) return true;
  const hashes = await session.requestHashes(disk.id, segment);
  if (hashes.length === 0) {
    if (rule === 'delta') throw new DisputedSegmentError(segment);
    return false;
  }
  await disk.store.replaceSegment(segment, hashes, rule === 'delta' ? 'must-agree' : 'take');
  return true;
}

/** Hashes of one segment for a sweep, as the receiver has it; null when nobody knows. The array is the caller's. */
export async function knownSegment(
  disk: ProtectedDisk,
  session: ReceiverSession,
  segment: SegmentNumber,
): Promise<BigUint64Array | null> {
  return (await ensureTrusted(disk, session, segment, 'sweep')) ? disk.store.readSegment(segment) : null;
}

/**
 * Fills a store that lost its hashes with those of the receiver, without reading the disk: 0.2 % of its size over the wire. False: the receiver doesn't
 * know all of them.
 */
export async function refill(disk: ProtectedDisk, session: ReceiverSession): Promise<boolean> {
  for (let segment = 0; segment < disk.geometry.segmentCount; segment++)
    if (!(await ensureTrusted(disk, session, segment, 'sweep'))) return false;
  return true;
}
