/**
 * Hash of a block and digest of a disk.
 *
 * Block hash: XXH64 of the plain block (short last block padded with zeroes), seeded with the block's number, so that
 * a block that stands at the wrong place doesn't match. A block of zeroes has hash 0; a hash that comes out as 0 is stored as 1.
 * Digest: XOR of all block hashes of the disk; updated in proportion to the change. (XXH64: github.com/Cyan4973/xxHash, doc/xxhash_spec.md.)
 *
 * libxxhash through the FFI that is needed anyway: it hashes where the bytes are (a third less CPU per block, measured). xxhash-wasm, which copies
 * them first, where the library is missing.
 */
import koffi from 'koffi';
import { AfterimageError } from '../errors.js';

export type Xxh64 = (bytes: Uint8Array, seed: bigint) => bigint;

function loadLibrary(): Xxh64 | undefined {
  try {
    const lib = koffi.load('libxxhash.so.0');
    // Small results come back as numbers.
    const xxh64 = lib.func('uint64_t XXH64(const void *input, size_t length, uint64_t seed)') as unknown as (
      input: Uint8Array,
      length: number,
      seed: bigint,
    ) => bigint | number;
    return (bytes, seed) => BigInt(xxh64(bytes, bytes.length, seed));
  } catch {
    // Not installed: the bundled one gives the same hashes.
    return undefined;
  }
}

export async function loadBundledXxh64(): Promise<Xxh64> {
  const { default: load } = await import('xxhash-wasm');
  const wasm = await load();
  return (bytes, seed) => wasm.h64Raw(bytes, seed);
}
const xxh64 = loadLibrary() ?? (await loadBundledXxh64());

export const ZERO_HASH = 0n;

/** XXH64 of bytes, for checksums of stored bytes. */
export const checksum64 = (bytes: Uint8Array, seed = 0n): bigint => xxh64(bytes, seed);

/** Hash of one plain block of full length that is known not to be all zero. */
export function hashBlock(block: Uint8Array, blockNumber: number): bigint {
  const hash = xxh64(block, BigInt(blockNumber));
  return hash === ZERO_HASH ? 1n : hash;
}

const ZEROES = Buffer.alloc(1 << 20);

/** Whether bytes [start, end) of a Buffer are all zero. At most 1 MiB. */
export function isZero(buffer: Buffer, start: number, end: number): boolean {
  // Most blocks differ from zero in their first bytes: look there before calling into native code.
  if (end - start >= 8 && (buffer.readUInt32LE(start) | buffer.readUInt32LE(start + 4)) !== 0) return false;
  return buffer.compare(ZEROES, 0, end - start, start, end) === 0;
}

/** Hash of the block at [start, start + length) of a Buffer: ZERO_HASH when it is all zero. */
export function hashBlockAt(buffer: Buffer, start: number, length: number, blockNumber: number): bigint {
  if (isZero(buffer, start, start + length)) return ZERO_HASH;
  return hashBlock(buffer.subarray(start, start + length), blockNumber);
}

/** Digests as text: 16 hex digits. */
export const digestToText = (digest: bigint): string => digest.toString(16).padStart(16, '0');
export function digestFromText(text: string): bigint {
  if (/^[0-9a-f]{16}$/.test(text)) return BigInt(`0x${text}`);
  throw new AfterimageError('the digest is encrypted, and its key is not at hand', {
    code: 'key-missing',
    kind: 'refused',
    hint: 'Give the recovery key file with --key FILE or AFTERIMAGE_KEY_FILE.',
  });
}
