/**
 * Changes on a device: runs of blocks overwritten with other content of the same kind. A seed gives the same change each time.
 */
import { closeSync, fsyncSync, openSync, readSync, writeSync } from 'node:fs';
import { sh } from './shell.js';

const BLOCK = 4096;

/** Small generator (xorshift32): the same numbers for the same seed. */
export function random(seed: number): () => number {
  let x = seed | 1;
  return () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) / 2 ** 32;
  };
}

export interface ChangeOptions {
  readonly device: string;
  /** Blocks are changed within [0, withinBytes). */
  readonly withinBytes: number;
  readonly bytes: number;
  readonly seed: number;
  /** Runs of 1 to so many blocks. */
  readonly runBlocksMax?: number;
  /** File that gets the changed blocks, one after the other. */
  readonly copyTo?: string;
}

/** Overwrites runs at random places with content from other places of `source`; returns the bytes changed. */
export function change(source: string, options: ChangeOptions): number {
  const { device, withinBytes, bytes, seed, runBlocksMax = 16, copyTo } = options;
  const next = random(seed);
  const blocks = Math.floor(withinBytes / BLOCK);
  const touched = new Set<number>();
  const from = openSync(source, 'r');
  const to = openSync(device, 'r+');
  const copy = copyTo === undefined ? null : openSync(copyTo, 'w');
  const buffer = Buffer.alloc(runBlocksMax * BLOCK);
  try {
    while (touched.size * BLOCK < bytes) {
      const count = 1 + Math.floor(next() * runBlocksMax);
      const first = Math.floor(next() * (blocks - count));
      if (Array.from({ length: count }, (_, i) => first + i).some((b) => touched.has(b))) continue;
      readSync(from, buffer, 0, count * BLOCK, Math.floor(next() * (blocks - count)) * BLOCK);
      // No two blocks alike, so that no peer finds them in what it has.
      for (let i = 0; i < count; i++) {
        buffer.writeUInt32LE(seed, i * BLOCK);
        buffer.writeUInt32LE(first + i, i * BLOCK + 64);
        touched.add(first + i);
      }
      writeSync(to, buffer, 0, count * BLOCK, first * BLOCK);
      if (copy !== null) writeSync(copy, buffer, 0, count * BLOCK);
    }
    fsyncSync(to);
  } finally {
    closeSync(from);
    closeSync(to);
    if (copy !== null) closeSync(copy);
  }
  return touched.size * BLOCK;
}

/** What `lz4 -1` makes of a file. */
export const lz4Bytes = (file: string): number => Number(sh(`lz4 -1 -c ${file} | wc -c`));
