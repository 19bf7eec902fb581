/** Compares a store with what it should be. */
import { expect } from 'vitest';
import { UntrustedSegmentsError, type HashStore } from '../../agent/cycle/hash-store/store.js';
import { geometry, seenOf, seenOfStore, segmentHashes, type Model } from './model.js';
import type { Random } from './random.js';

/** Much faster than `toEqual`. */
export const sameHashes = (a: BigUint64Array, b: BigUint64Array): boolean =>
  Buffer.from(a.buffer, a.byteOffset, a.byteLength).equals(Buffer.from(b.buffer, b.byteOffset, b.byteLength));

/** Reads everything. Returns the known segments that the store doesn't believe; what it does return must be right. */
export async function checkHashes(store: HashStore, model: Model, random: Random): Promise<number[]> {
  const untrusted: number[] = [];
  for (let segment = 0; segment < geometry.segmentCount; segment++) {
    try {
      const hashes = await store.readSegment(segment);
      expect(sameHashes(hashes, segmentHashes(model, segment)), `hashes of segment ${segment}`).toBe(true);
      expect(model.unknown.has(segment)).toBe(false);
    } catch (error) {
      if (!(error instanceof UntrustedSegmentsError)) throw error;
      if (!model.unknown.has(segment)) untrusted.push(segment);
    }
  }
  await checkLookup(store, model, random);
  return untrusted;
}

async function checkLookup(store: HashStore, model: Model, random: Random): Promise<void> {
  const count = 1 + random.below(50);
  const blocks = Uint32Array.from({ length: count + 2 }, () => random.below(geometry.blockCount));
  if (random.chance(0.5)) blocks.subarray(0, count).sort();
  const out = new BigUint64Array(count + 1).fill(7n);
  try {
    await store.lookup(blocks, count, out);
  } catch (error) {
    if (!(error instanceof UntrustedSegmentsError)) throw error;
    return;
  }
  for (let i = 0; i < count; i++) expect(out[i]).toBe(model.hashes[blocks[i] ?? 0]);
  expect(out[count]).toBe(7n);
}

/** Whether the store may be in this state, by all that it shows and believes. Without a digest, states look alike from outside. */
export async function isState(store: HashStore, model: Model): Promise<boolean> {
  if (seenOfStore(store) !== seenOf(model) || store.unknownSegments !== model.unknown.size) return false;
  for (let segment = 0; segment < geometry.segmentCount; segment++) {
    if (!(await store.verifySegment(segment))) continue;
    const same = sameHashes(await store.readSegment(segment), segmentHashes(model, segment));
    if (model.unknown.has(segment) || !same) return false;
  }
  return true;
}

/** After a kill: all of the state, and every hash. */
export async function checkSame(store: HashStore, model: Model, random: Random): Promise<void> {
  expect(seenOfStore(store)).toBe(seenOf(model));
  expect(await checkHashes(store, model, random)).toEqual([]);
}
