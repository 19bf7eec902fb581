/**
 * Small bitmaps as they go over the wire: one bit per block of a segment or per segment of a disk, bit 0 of byte 0 first. Pure.
 */
import type { Extent } from './block-set.js';

export const bitmapBytes = (count: number): number => Math.ceil(count / 8);

export const newBitmap = (count: number): Uint8Array<ArrayBuffer> => new Uint8Array(bitmapBytes(count));

export const hasBit = (bits: Uint8Array, i: number): boolean => ((bits[i >>> 3] ?? 0) & (1 << (i & 7))) !== 0;

export function setBit(bits: Uint8Array, i: number): void {
  bits[i >>> 3] = (bits[i >>> 3] ?? 0) | (1 << (i & 7));
}

export function countBits(bits: Uint8Array): number {
  let n = 0;
  for (let byte of bits) for (; byte !== 0; byte &= byte - 1) n++;
  return n;
}

/** Set bits, ascending. */
export function* bitsOf(bits: Uint8Array): Generator<number> {
  for (let at = 0; at < bits.length; at++) {
    for (let byte = bits[at] ?? 0; byte !== 0; byte &= byte - 1) yield at * 8 + 31 - Math.clz32(byte & -byte);
  }
}

/** Runs of set bits, ascending. */
export function* bitRuns(bits: Uint8Array): Generator<Extent> {
  let first = -1;
  let next = -1;
  for (const i of bitsOf(bits)) {
    if (i !== next) {
      if (first >= 0) yield { first, count: next - first };
      first = i;
    }
    next = i + 1;
  }
  if (first >= 0) yield { first, count: next - first };
}

/** Whether a bitmap that came from outside is one of `count` bits: the length fits, and no bit stands beyond the end. */
export function isBitmapOf(bits: Uint8Array, count: number): boolean {
  if (bits.length !== bitmapBytes(count)) return false;
  const spare = bits.length * 8 - count;
  return spare === 0 || (bits[bits.length - 1] ?? 0) >>> (8 - spare) === 0;
}
