/**
 * Hashes as pairs of 32-bit halves, low half first: XOR over many of them without making a BigInt for each (20 times faster, measured).
 * Files are little-endian and mapped onto typed arrays as they are, so the processor has to be, too.
 */
import { endianness } from 'node:os';
import { AfterimageError } from '../../../shared/errors.js';

export const HASH_BYTES = 8;

export function requireLittleEndian(): void {
  if (endianness() === 'LE') return;
  throw new AfterimageError('the hash store needs a little-endian processor', {
    code: 'hash-store-endianness',
    kind: 'unsupported',
  });
}

/** The same memory as halves. */
export const lanesOf = (hashes: BigUint64Array): Uint32Array =>
  new Uint32Array(hashes.buffer, hashes.byteOffset, hashes.length * 2);

/** The same memory as bytes. */
export const bytesOf = (array: Uint32Array | BigUint64Array): Uint8Array =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

export const joinLanes = (low: number, high: number): bigint => (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);

/** XOR of hashes [from, to). */
export function xorOf(hashes: BigUint64Array, from = 0, to = hashes.length): bigint {
  const lanes = lanesOf(hashes);
  let low = 0;
  let high = 0;
  for (let i = from * 2; i < to * 2; i += 2) {
    low ^= lanes[i] ?? 0;
    high ^= lanes[i + 1] ?? 0;
  }
  return joinLanes(low, high);
}
