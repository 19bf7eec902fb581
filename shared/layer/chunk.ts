/**
 * The chunk: the unit of compression, of one data message and of what a layer stores. It is stored as it was received.
 *
 * Layout, little-endian (version 1):
 *    0  u64  checksum: XXH64 of all that follows
 *    8  u32  magic "AIC1"
 *   12  u8   version
 *   13  u8   codec of the stored bytes
 *   14  u16  number of extents
 *   16  u32  number of data blocks (blocks of extents without the zero flag)
 *   20  u32  plain bytes (data blocks × block size)
 *   24  u32  stored bytes
 *   28  u32  block size
 *   32  extents: { u32 first block; u32 count, bit 31 = zero run }, ascending, not overlapping
 *       hashes:  u64 per data block, in order
 *       stored bytes: the data blocks, one after the other, compressed together
 * A zero run says that its blocks are zero now: a discarded block must not come back.
 *
 * Version 2 is the same, encrypted. Its header is longer by SEAL_BYTES, extents begin after it:
 *   32  u32  id of the key
 *   36  u8   flags: bit 0 = the hashes are keyed and stand in the clear (the source encrypts); else they are encrypted with the data
 *   37  u8   0, u16 0
 *   40  24 bytes nonce, 16 bytes tag (XAES-256-GCM, crypto/xaes.ts)
 * What is encrypted: the stored bytes, with the hashes before them unless these are keyed. What is authenticated along: machine, disk, all of the header
 * from the magic to the nonce, the extents, the keyed hashes. The checksum is over the encrypted bytes: who has no key can still tell damage.
 */
import { checksum64 } from '../blocks/hash.js';
import { NONCE_BYTES, TAG_BYTES } from '../crypto/xaes.js';
import { corrupt, versionNewer } from '../errors.js';
import { BLOCKS_PER_DISK_MAX, BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, CHUNK_PLAIN_BYTES_MAX } from '../limits.js';
import { CODEC_LZ4, CODEC_NONE, lz4 } from './codec.js';

export const CHUNK_MAGIC = 0x31434941;
export const CHUNK_VERSION = 1;
export const CHUNK_VERSION_SEALED = 2;
export const CHUNK_HEADER_BYTES = 32;
/** What encryption adds to a chunk's length. */
export const SEAL_BYTES = 8 + NONCE_BYTES + TAG_BYTES;
const KEYED_FLAG = 1;
const NONCE_OFFSET = CHUNK_HEADER_BYTES + 8;
const TAG_OFFSET = NONCE_OFFSET + NONCE_BYTES;
const ZERO_FLAG = 0x80000000;
export const CHUNK_EXTENTS_MAX = 0xffff;

export interface ChunkExtent {
  readonly first: number;
  readonly count: number;
  /** A zero run: no data, no hash. */
  readonly zero: boolean;
}

/** How a chunk is encrypted. */
export interface ChunkSeal {
  readonly keyId: number;
  /** The hashes are the source's, under its own key, and can be read; otherwise they are encrypted with the data. */
  readonly keyed: boolean;
}

/** Encrypts and decrypts for one disk; see crypto/machine-cipher.ts. */
export interface ChunkSealer extends ChunkSeal {
  seal(aad: Buffer, plain: Buffer): { nonce: Buffer; tag: Buffer; sealed: Buffer };
}
export type ChunkOpener = (seal: ChunkSeal, nonce: Buffer, tag: Buffer, aad: Buffer, sealed: Buffer) => Buffer;

export interface ChunkHeader {
  readonly codec: number;
  readonly blockBytes: number;
  readonly dataBlocks: number;
  readonly plainBytes: number;
  readonly storedBytes: number;
  readonly extents: readonly ChunkExtent[];
  /** Null: not encrypted. */
  readonly seal: ChunkSeal | null;
  /** Offset of the hashes within the chunk, and of the stored bytes; of encrypted ones where they will be. */
  readonly hashesOffset: number;
  readonly storedOffset: number;
  /** Whole length of the chunk. */
  readonly lengthBytes: number;
}

/** Upper bound of a chunk's length for what is put in, encrypted or not: to size the buffer that it is encoded into. */
export const chunkBytesMax = (extents: number, dataBlocks: number, plainBytes: number): number =>
  CHUNK_HEADER_BYTES + SEAL_BYTES + extents * 8 + dataBlocks * 8 + plainBytes;

const extentsOffset = (seal: ChunkSeal | null): number =>
  seal === null ? CHUNK_HEADER_BYTES : CHUNK_HEADER_BYTES + SEAL_BYTES;

/**
 * Encodes a chunk into `target` (at least chunkBytesMax long) and returns its length.
 * `plain` holds the data blocks in the order of the extents; `hashes` one entry per data block. With a sealer it is encrypted.
 */
export function encodeChunk(
  target: Buffer,
  blockBytes: number,
  extents: readonly ChunkExtent[],
  hashes: BigUint64Array,
  plain: Buffer,
  sealer: ChunkSealer | null = null,
): number {
  const at = encodeRuns(target, extents, hashes, sealer);
  const stored = plain.length === 0 ? 0 : lz4.compress(plain, roomFor(plain, target, at));
  return complete(target, blockBytes, extents, plain, at, stored, sealer);
}

/** The same with compression on another thread. `target` and `plain` belong to it until it resolves; the rest may change at once. */
export async function encodeChunkBeside(
  target: Buffer,
  blockBytes: number,
  extents: readonly ChunkExtent[],
  hashes: BigUint64Array,
  plain: Buffer,
  sealer: ChunkSealer | null = null,
): Promise<number> {
  const at = encodeRuns(target, extents, hashes, sealer);
  const stored = await lz4.compressBeside(plain, roomFor(plain, target, at));
  return complete(target, blockBytes, extents, plain, at, stored, sealer);
}

/** One byte less than plain: a chunk that doesn't shrink is stored as it is. */
const roomFor = (plain: Buffer, target: Buffer, at: number): Buffer => target.subarray(at, at + plain.length - 1);

/** Writes extents and hashes; returns where the stored bytes begin. */
function encodeRuns(
  target: Buffer,
  extents: readonly ChunkExtent[],
  hashes: BigUint64Array,
  seal: ChunkSeal | null,
): number {
  let at = extentsOffset(seal);
  for (const extent of extents) {
    target.writeUInt32LE(extent.first, at);
    target.writeUInt32LE((extent.zero ? extent.count | ZERO_FLAG : extent.count) >>> 0, at + 4);
    at += 8;
  }
  for (const hash of hashes) {
    target.writeBigUInt64LE(hash, at);
    at += 8;
  }
  return at;
}

/** Writes the header around `compressed` bytes at `at` (0: they did not fit); returns the chunk's length. */
function complete(
  target: Buffer,
  blockBytes: number,
  extents: readonly ChunkExtent[],
  plain: Buffer,
  at: number,
  compressed: number,
  sealer: ChunkSealer | null,
): number {
  const codec = compressed > 0 ? CODEC_LZ4 : CODEC_NONE;
  if (codec === CODEC_NONE) plain.copy(target, at);
  const stored = codec === CODEC_NONE ? plain.length : compressed;
  target.writeUInt32LE(CHUNK_MAGIC, 8);
  target.writeUInt8(sealer === null ? CHUNK_VERSION : CHUNK_VERSION_SEALED, 12);
  target.writeUInt8(codec, 13);
  target.writeUInt16LE(extents.length, 14);
  target.writeUInt32LE(plain.length / blockBytes, 16);
  target.writeUInt32LE(plain.length, 20);
  target.writeUInt32LE(stored, 24);
  target.writeUInt32LE(blockBytes, 28);
  const length = at + stored;
  if (sealer !== null) sealBody(target.subarray(0, length), sealer);
  target.writeBigUInt64LE(checksum64(target.subarray(8, length)), 0);
  return length;
}

/** Where the encrypted part begins: after the extents, or after the hashes when these stay in the clear. */
function bodyOffset(bytes: Buffer, keyed: boolean): number {
  const hashes = CHUNK_HEADER_BYTES + SEAL_BYTES + bytes.readUInt16LE(14) * 8;
  return keyed ? hashes + bytes.readUInt32LE(16) * 8 : hashes;
}

/** What is authenticated but not encrypted, beyond machine and disk. */
const clearOf = (bytes: Buffer, body: number): Buffer =>
  Buffer.concat([bytes.subarray(8, TAG_OFFSET - NONCE_BYTES), bytes.subarray(TAG_OFFSET + TAG_BYTES, body)]);

/** Encrypts a chunk in place: header and body are there, the checksum comes after. */
function sealBody(bytes: Buffer, sealer: ChunkSealer): void {
  bytes.writeUInt32LE(sealer.keyId, CHUNK_HEADER_BYTES);
  bytes.writeUInt32LE(sealer.keyed ? KEYED_FLAG : 0, CHUNK_HEADER_BYTES + 4);
  const body = bodyOffset(bytes, sealer.keyed);
  const { nonce, tag, sealed } = sealer.seal(clearOf(bytes, body), bytes.subarray(body));
  nonce.copy(bytes, NONCE_OFFSET);
  tag.copy(bytes, TAG_OFFSET);
  sealed.copy(bytes, body);
}

/** The same chunk, encrypted; `bytes` stays as it is. */
export function sealChunk(bytes: Buffer, sealer: ChunkSealer): Buffer {
  const sealed = Buffer.allocUnsafe(bytes.length + SEAL_BYTES);
  bytes.copy(sealed, 0, 0, CHUNK_HEADER_BYTES);
  bytes.copy(sealed, CHUNK_HEADER_BYTES + SEAL_BYTES, CHUNK_HEADER_BYTES);
  sealed.writeUInt8(CHUNK_VERSION_SEALED, 12);
  sealBody(sealed, sealer);
  sealed.writeBigUInt64LE(checksum64(sealed.subarray(8)), 0);
  return sealed;
}

/** The chunk that was encrypted, as it was before; `bytes` stays as it is. Throws kind `corrupt` when it isn't what was encrypted. */
export function openChunk(bytes: Buffer, { seal }: ChunkHeader, opener: ChunkOpener): Buffer {
  if (seal === null) return bytes;
  const body = bodyOffset(bytes, seal.keyed);
  const nonce = bytes.subarray(NONCE_OFFSET, TAG_OFFSET);
  const tag = bytes.subarray(TAG_OFFSET, TAG_OFFSET + TAG_BYTES);
  const plainBody = opener(seal, nonce, tag, clearOf(bytes, body), bytes.subarray(body));
  const plain = Buffer.allocUnsafe(bytes.length - SEAL_BYTES);
  bytes.copy(plain, 0, 0, CHUNK_HEADER_BYTES);
  bytes.copy(plain, CHUNK_HEADER_BYTES, CHUNK_HEADER_BYTES + SEAL_BYTES, body);
  plainBody.copy(plain, body - SEAL_BYTES);
  plain.writeUInt8(CHUNK_VERSION, 12);
  plain.writeBigUInt64LE(checksum64(plain.subarray(8)), 0);
  return plain;
}

/** How a chunk is encrypted, from its header; null when it isn't. */
function decodeSeal(bytes: Buffer): ChunkSeal | null {
  const version = bytes.readUInt8(12);
  if (version === CHUNK_VERSION) return null;
  if (version > CHUNK_VERSION_SEALED && bytes.readBigUInt64LE(0) === checksum64(bytes.subarray(8)))
    throw versionNewer('chunk', version, CHUNK_VERSION_SEALED);
  if (version !== CHUNK_VERSION_SEALED) bad(`version ${version}, this program knows up to ${CHUNK_VERSION_SEALED}`);
  if (bytes.length < CHUNK_HEADER_BYTES + SEAL_BYTES) bad(`${bytes.length} bytes, shorter than its header`);
  const flags = bytes.readUInt32LE(CHUNK_HEADER_BYTES + 4);
  if (flags > KEYED_FLAG) bad(`unknown flags ${flags}`);
  return { keyId: bytes.readUInt32LE(CHUNK_HEADER_BYTES), keyed: flags === KEYED_FLAG };
}

const bad = (what: string): never => {
  throw corrupt('chunk-malformed', `chunk is malformed: ${what}`);
};

/** Parses and checks a chunk's header, extents and (unless told not to) its checksum. `bytes` is exactly one chunk. */
export function decodeChunkHeader(bytes: Buffer, verifyChecksum = true): ChunkHeader {
  if (bytes.length < CHUNK_HEADER_BYTES) bad(`${bytes.length} bytes, shorter than its header`);
  if (bytes.readUInt32LE(8) !== CHUNK_MAGIC) bad('wrong magic');
  const seal = decodeSeal(bytes);
  if (verifyChecksum && bytes.readBigUInt64LE(0) !== checksum64(bytes.subarray(8))) {
    throw corrupt('chunk-checksum', `chunk checksum does not match its ${bytes.length} bytes`);
  }
  const codec = bytes.readUInt8(13);
  const extentCount = bytes.readUInt16LE(14);
  const dataBlocks = bytes.readUInt32LE(16);
  const plainBytes = bytes.readUInt32LE(20);
  const storedBytes = bytes.readUInt32LE(24);
  const blockBytes = bytes.readUInt32LE(28);
  if (codec !== CODEC_NONE && codec !== CODEC_LZ4) bad(`unknown codec ${codec}`);
  if (blockBytes < BLOCK_BYTES_MIN || blockBytes > BLOCK_BYTES_MAX || (blockBytes & (blockBytes - 1)) !== 0) {
    bad(`block size ${blockBytes}`);
  }
  if (plainBytes > CHUNK_PLAIN_BYTES_MAX || plainBytes !== dataBlocks * blockBytes) bad(`plain size ${plainBytes}`);
  if (storedBytes > plainBytes || (codec === CODEC_NONE && storedBytes !== plainBytes))
    bad(`stored size ${storedBytes}`);
  const runsOffset = extentsOffset(seal);
  const hashesOffset = runsOffset + extentCount * 8;
  const storedOffset = hashesOffset + dataBlocks * 8;
  const lengthBytes = storedOffset + storedBytes;
  if (lengthBytes !== bytes.length) bad(`length ${bytes.length}, its header says ${lengthBytes}`);
  const extents: ChunkExtent[] = [];
  let data = 0;
  let end = 0;
  for (let i = 0; i < extentCount; i++) {
    const first = bytes.readUInt32LE(runsOffset + i * 8);
    const raw = bytes.readUInt32LE(runsOffset + i * 8 + 4);
    const count = raw & ~ZERO_FLAG;
    const zero = (raw & ZERO_FLAG) !== 0;
    if (count === 0 || first < end || first + count > BLOCKS_PER_DISK_MAX) bad(`extent ${first}+${count}`);
    end = first + count;
    if (!zero) data += count;
    extents.push({ first, count, zero });
  }
  if (extentCount === 0 || data !== dataBlocks) bad(`${data} data blocks in its extents, ${dataBlocks} in its header`);
  return {
    codec,
    blockBytes,
    dataBlocks,
    plainBytes,
    storedBytes,
    extents,
    seal,
    hashesOffset,
    storedOffset,
    lengthBytes,
  };
}

/** Hash of data block `i` of a chunk whose hashes aren't encrypted. */
export function chunkHash(bytes: Buffer, header: ChunkHeader, i: number): bigint {
  if (header.seal?.keyed === false) throw new Error('the hashes of an encrypted chunk are asked for: open it first');
  return bytes.readBigUInt64LE(header.hashesOffset + i * 8);
}

/** Decompresses a chunk's data blocks into `target` (at least plainBytes long). Does not check block hashes. */
export function decodeChunkData(bytes: Buffer, header: ChunkHeader, target: Buffer): void {
  const stored = storedOf(bytes, header);
  if (header.codec === CODEC_NONE) stored.copy(target);
  else checkPlain(lz4.decompress(stored, target.subarray(0, header.plainBytes)), header);
}

/** The same with decompression on another thread. `bytes` and `target` belong to it until it settles. */
export async function decodeChunkDataBeside(bytes: Buffer, header: ChunkHeader, target: Buffer): Promise<void> {
  const stored = storedOf(bytes, header);
  if (header.codec === CODEC_NONE) stored.copy(target);
  else checkPlain(await lz4.decompressBeside(stored, target.subarray(0, header.plainBytes)), header);
}

function storedOf(bytes: Buffer, header: ChunkHeader): Buffer {
  if (header.seal !== null) throw new Error('the data of an encrypted chunk is asked for: open it first');
  return bytes.subarray(header.storedOffset, header.storedOffset + header.storedBytes);
}

function checkPlain(n: number, header: ChunkHeader): void {
  if (n !== header.plainBytes) bad(`decompresses to ${n} bytes, its header says ${header.plainBytes}`);
}
