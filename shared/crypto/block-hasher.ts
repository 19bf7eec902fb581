/**
 * How a block's hash is made: plainly (blocks/hash.ts), or under a key of the source: first 8 bytes of AES-256(key, hash ‖ block number ‖ tag of the disk).
 * A plain hash lets anybody who sees it test guesses of what a block holds; a keyed one lets nobody. Equal blocks at the same place of a disk
 * still have equal hashes, so comparisons and digests work as they are. Zero blocks keep hash 0: zero runs are in the clear anyway.
 */
import { createCipheriv, createHash, type Cipher } from 'node:crypto';
import { hashBlockAt, ZERO_HASH } from '../blocks/hash.js';

/** Hash of the block `blockNumber` whose bytes are [start, start + length) of a Buffer. */
export type BlockHasher = (buffer: Buffer, start: number, length: number, blockNumber: number) => bigint;

export const plainHasher: BlockHasher = hashBlockAt;

/** A keyed hash of one plain hash: a pseudo-random function of hash, block and disk. */
export function keyedHasher(key: Buffer, disk: string): BlockHasher {
  // One cipher for all calls: each block of ECB stands for itself.
  const cipher: Cipher = createCipheriv('aes-256-ecb', key, null);
  const input = Buffer.alloc(16);
  createHash('sha256').update(disk).digest().copy(input, 12, 0, 4);
  return (buffer, start, length, blockNumber) => {
    const plain = hashBlockAt(buffer, start, length, blockNumber);
    if (plain === ZERO_HASH) return ZERO_HASH;
    input.writeBigUInt64LE(plain, 0);
    input.writeUInt32LE(blockNumber, 8);
    const hash = cipher.update(input).readBigUInt64LE(0);
    return hash === ZERO_HASH ? 1n : hash;
  };
}
