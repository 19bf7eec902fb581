/**
 * The layer: an immutable object with chunks and, at its end so that it streams, an index.
 *
 *   header   64 bytes
 *   chunks   as received (see chunk.ts), one after the other
 *   index    see below
 *   footer   32 bytes
 *
 * Header (little-endian): u32 magic "AIL1", u16 version, u8 kind (1 delta, 2 base), u8 0, u32 block size, u32 segment (base and staged
 *   segments; 0xffffffff for none), u32 first point, u32 last point, u32 epoch, u32 sequence, u64 XXH64 of machine id, u64 XXH64 of disk id,
 *   u64 XXH64 of series id, u64 checksum: XXH64 of the 56 bytes before.
 * Index: u32 number of chunks, u32 number of entries, u32 number of hashes, u32 id of the key that the hashes are encrypted with, 0 for none;
 *   per chunk: u64 offset in the object, u32 length, u32 0;
 *   per entry, ascending by first block, not overlapping (the newest chunk has won): u32 first block, u32 count | bit 31 zero run,
 *     u32 chunk number, u32 position of the first block among the chunk's data blocks;
 *   hashes: u64 per block of the non-zero entries, in order; when encrypted: 24 bytes nonce, 16 bytes tag before them (see chunk.ts), and all
 *     of the index before them authenticated along.
 * Footer: u64 offset of the index, u64 length of the index, u64 checksum of the index (XXH64), u32 version, u32 magic "AILE".
 */
import { checksum64 } from '../blocks/hash.js';
import { corrupt, DAMAGE_HINT, versionNewer } from '../errors.js';
import { BLOCKS_PER_DISK_MAX, LAYER_BLOCKS_MAX } from '../limits.js';
import { NONCE_BYTES, TAG_BYTES } from '../crypto/xaes.js';
import type { ChunkExtent, ChunkHeader, ChunkOpener, ChunkSeal, ChunkSealer } from './chunk.js';
import { chunkHash } from './chunk.js';

export const LAYER_MAGIC = 0x314c4941;
export const LAYER_END_MAGIC = 0x454c4941;
export const LAYER_VERSION = 1;
export const LAYER_HEADER_BYTES = 64;
export const LAYER_FOOTER_BYTES = 32;
export const NO_SEGMENT = 0xffffffff;
const ZERO_FLAG = 0x80000000;
const ENTRY_BYTES = 16;
const CHUNK_REF_BYTES = 16;
const INDEX_HEADER_BYTES = 16;
/** What encryption adds to an index. */
export const INDEX_SEAL_BYTES = NONCE_BYTES + TAG_BYTES;

export type LayerKind = 'delta' | 'base';

export interface LayerIdentity {
  readonly kind: LayerKind;
  readonly blockBytes: number;
  readonly segment: number | null;
  readonly firstPoint: number;
  readonly lastPoint: number;
  readonly epoch: number;
  readonly sequence: number;
  readonly machineId: string;
  readonly diskId: string;
  readonly seriesId: string;
}

const hashText = (text: string): bigint => checksum64(Buffer.from(text, 'utf8'));

export function encodeLayerHeader(id: LayerIdentity): Buffer {
  const b = Buffer.alloc(LAYER_HEADER_BYTES);
  b.writeUInt32LE(LAYER_MAGIC, 0);
  b.writeUInt16LE(LAYER_VERSION, 4);
  b.writeUInt8(id.kind === 'delta' ? 1 : 2, 6);
  b.writeUInt32LE(id.blockBytes, 8);
  b.writeUInt32LE(id.segment ?? NO_SEGMENT, 12);
  b.writeUInt32LE(id.firstPoint, 16);
  b.writeUInt32LE(id.lastPoint, 20);
  b.writeUInt32LE(id.epoch, 24);
  b.writeUInt32LE(id.sequence, 28);
  b.writeBigUInt64LE(hashText(id.machineId), 32);
  b.writeBigUInt64LE(hashText(id.diskId), 40);
  b.writeBigUInt64LE(hashText(id.seriesId), 48);
  b.writeBigUInt64LE(checksum64(b.subarray(0, 56)), 56);
  return b;
}

export interface LayerHeader {
  readonly kind: LayerKind;
  readonly blockBytes: number;
  readonly segment: number | null;
  readonly firstPoint: number;
  readonly lastPoint: number;
  readonly epoch: number;
  readonly sequence: number;
  readonly machineHash: bigint;
  readonly diskHash: bigint;
  readonly seriesHash: bigint;
}

export function decodeLayerHeader(b: Buffer, name: string): LayerHeader {
  const bad = (what: string): never => {
    throw corrupt('layer-malformed', `layer ${name} is malformed: ${what}`, DAMAGE_HINT);
  };
  if (b.length < LAYER_HEADER_BYTES) bad(`${b.length} bytes, shorter than its header`);
  if (b.readUInt32LE(0) !== LAYER_MAGIC) bad('wrong magic');
  const version = b.readUInt16LE(4);
  if (b.readBigUInt64LE(56) !== checksum64(b.subarray(0, 56))) bad('header checksum does not match');
  if (version > LAYER_VERSION) throw versionNewer(`layer ${name}`, version, LAYER_VERSION);
  if (version !== LAYER_VERSION) bad(`version ${version}, this program knows ${LAYER_VERSION}`);
  const kind = b.readUInt8(6);
  if (kind !== 1 && kind !== 2) bad(`kind ${kind}`);
  const segment = b.readUInt32LE(12);
  return {
    kind: kind === 1 ? 'delta' : 'base',
    blockBytes: b.readUInt32LE(8),
    segment: segment === NO_SEGMENT ? null : segment,
    firstPoint: b.readUInt32LE(16),
    lastPoint: b.readUInt32LE(20),
    epoch: b.readUInt32LE(24),
    sequence: b.readUInt32LE(28),
    machineHash: b.readBigUInt64LE(32),
    diskHash: b.readBigUInt64LE(40),
    seriesHash: b.readBigUInt64LE(48),
  };
}

/** Whether a header is the one that an object's name promises (a misplaced object is as bad as a broken one). */
export function checkIdentity(header: LayerHeader, expected: Omit<LayerIdentity, 'seriesId'>, name: string): void {
  const same =
    header.kind === expected.kind &&
    header.blockBytes === expected.blockBytes &&
    header.segment === expected.segment &&
    header.firstPoint === expected.firstPoint &&
    header.lastPoint === expected.lastPoint &&
    header.epoch === expected.epoch &&
    header.sequence === expected.sequence &&
    header.machineHash === hashText(expected.machineId) &&
    header.diskHash === hashText(expected.diskId);
  if (!same) {
    throw corrupt('layer-misplaced', `layer ${name} holds another layer than its name says`, DAMAGE_HINT);
  }
}

export interface ChunkRef {
  readonly offset: number;
  readonly lengthBytes: number;
}

/** A decoded index: typed arrays, about 24 bytes per block at worst. */
export interface LayerIndex {
  readonly chunks: readonly ChunkRef[];
  /** Per entry: first block; count; zero flag (0 or 1); chunk; position of the first block in the chunk's data; first hash. */
  readonly first: Uint32Array;
  readonly count: Uint32Array;
  readonly zero: Uint8Array;
  readonly chunk: Uint32Array;
  readonly position: Uint32Array;
  readonly hashAt: Uint32Array;
  readonly hashes: BigUint64Array;
}

/** A run of blocks of one chunk. */
interface Run {
  readonly first: number;
  readonly count: number;
  readonly zero: boolean;
  readonly position: number;
}

interface Piece {
  first: number;
  count: number;
  zero: boolean;
  chunk: number;
  position: number;
}

/**
 * Collects chunks in the order in which they are appended to a layer and makes its index: of blocks that came twice, the later chunk wins.
 * Memory follows the number of blocks, bounded by LAYER_BLOCKS_MAX (the writer rolls over to a next part).
 */
export class LayerIndexBuilder {
  readonly #chunks: ChunkRef[] = [];
  readonly #headers: { runs: readonly Run[]; hashes: BigUint64Array }[] = [];
  #blocks = 0;
  #offset = LAYER_HEADER_BYTES;

  /** Bytes of the layer so far, header and chunks. */
  get offset(): number {
    return this.#offset;
  }

  get isEmpty(): boolean {
    return this.#chunks.length === 0;
  }

  /** Blocks that the index will have to describe, counted with repeats; zero runs count as one. */
  get weight(): number {
    return this.#blocks;
  }

  isFull(storedBytesMax: number): boolean {
    return this.#blocks >= LAYER_BLOCKS_MAX || this.#offset >= storedBytesMax;
  }

  /**
   * `lengthBytes`: what the chunk takes in the layer, when that is an encrypted form of `bytes`. `only`: of a chunk that can't be taken apart, the blocks
   * that count; the others are in the layer and nobody reads them.
   */
  append(
    bytes: Buffer,
    header: ChunkHeader,
    lengthBytes = header.lengthBytes,
    only: readonly Pick<Run, 'first' | 'count' | 'position'>[] | null = null,
  ): void {
    const runs = only === null ? runsOf(header.extents) : only.map((run) => ({ ...run, zero: false }));
    const hashes = new BigUint64Array(header.dataBlocks);
    for (let i = 0; i < header.dataBlocks; i++) hashes[i] = chunkHash(bytes, header, i);
    this.#chunks.push({ offset: this.#offset, lengthBytes });
    this.#headers.push({ runs, hashes });
    this.#offset += lengthBytes;
    this.#blocks += header.dataBlocks + runs.length;
  }

  /** The index and footer, ready to be appended. With a sealer its hashes are encrypted. */
  finish(sealer: ChunkSealer | null = null): Buffer {
    const pieces = this.#resolve();
    let hashCount = 0;
    for (const p of pieces) if (!p.zero) hashCount += p.count;
    const bytes = Buffer.alloc(
      INDEX_HEADER_BYTES + this.#chunks.length * CHUNK_REF_BYTES + pieces.length * ENTRY_BYTES + hashCount * 8,
    );
    bytes.writeUInt32LE(this.#chunks.length, 0);
    bytes.writeUInt32LE(pieces.length, 4);
    bytes.writeUInt32LE(hashCount, 8);
    let at = INDEX_HEADER_BYTES;
    for (const c of this.#chunks) {
      bytes.writeBigUInt64LE(BigInt(c.offset), at);
      bytes.writeUInt32LE(c.lengthBytes, at + 8);
      at += CHUNK_REF_BYTES;
    }
    for (const p of pieces) {
      bytes.writeUInt32LE(p.first, at);
      bytes.writeUInt32LE((p.zero ? p.count | ZERO_FLAG : p.count) >>> 0, at + 4);
      bytes.writeUInt32LE(p.chunk, at + 8);
      bytes.writeUInt32LE(p.position, at + 12);
      at += ENTRY_BYTES;
    }
    for (const p of pieces) {
      if (p.zero) continue;
      const hashes = this.#headers[p.chunk]?.hashes;
      for (let i = 0; i < p.count; i++) {
        bytes.writeBigUInt64LE(hashes?.[p.position + i] ?? 0n, at);
        at += 8;
      }
    }
    const index = sealer === null ? bytes : sealIndex(bytes, hashCount, sealer);
    return Buffer.concat([index, encodeFooter(this.#offset, index)]);
  }

  /** Pieces of all chunks, newest wins, ascending: sweep over boundaries with the newest chunk's run on top. */
  #resolve(): Piece[] {
    const all: Piece[] = [];
    this.#headers.forEach(({ runs }, chunk) => {
      for (const { first, count, zero, position } of runs) all.push({ first, count, zero, chunk, position });
    });
    return newestWins(all);
  }
}

/** The runs of a chunk, each with its position among the data blocks. */
function runsOf(extents: readonly ChunkExtent[]): Run[] {
  let position = 0;
  return extents.map(({ first, count, zero }) => {
    const run = { first, count, zero, position };
    if (!zero) position += count;
    return run;
  });
}

function sealIndex(bytes: Buffer, hashCount: number, sealer: ChunkSealer): Buffer {
  const front = bytes.subarray(0, bytes.length - hashCount * 8);
  front.writeUInt32LE(sealer.keyId, 12);
  const { nonce, tag, sealed } = sealer.seal(front, bytes.subarray(front.length));
  return Buffer.concat([front, nonce, tag, sealed]);
}

/** Resolves overlapping pieces: of two that hold a block, the one of the later chunk has it. Result ascending, without overlap. */
export function newestWins(pieces: readonly Piece[]): Piece[] {
  const sorted = [...pieces].sort((a, b) => a.first - b.first || a.chunk - b.chunk);
  let overlaps = false;
  for (let i = 1; i < sorted.length && !overlaps; i++) {
    const before = sorted[i - 1];
    const here = sorted[i];
    overlaps = before !== undefined && here !== undefined && before.first + before.count > here.first;
  }
  if (!overlaps) return sorted;
  // Lay the newest down first; older ones only fill what is still free. `taken` is kept ascending and disjoint.
  const byAge = [...pieces].sort((a, b) => b.chunk - a.chunk || a.first - b.first);
  const cover = new IntervalCover();
  const out: Piece[] = [];
  for (const piece of byAge) {
    for (const [first, count] of cover.addAndReturnNew(piece.first, piece.count)) {
      const skip = first - piece.first;
      out.push({
        first,
        count,
        zero: piece.zero,
        chunk: piece.chunk,
        position: piece.zero ? piece.position : piece.position + skip,
      });
    }
  }
  return out.sort((a, b) => a.first - b.first);
}

/** Which blocks are covered already: one bit per block in pages of 2^15 blocks, with whole pages as a flag (huge zero runs). */
class IntervalCover {
  readonly #pages = new Map<number, Uint32Array | 'all'>();

  addAndReturnNew(first: number, count: number): [number, number][] {
    const found: [number, number][] = [];
    const end = first + count;
    let block = first;
    let run = -1;
    const close = (at: number): void => {
      if (run >= 0) found.push([run, at - run]);
      run = -1;
    };
    while (block < end) {
      const pageNumber = Math.floor(block / 32768);
      const pageEnd = Math.min(end, (pageNumber + 1) * 32768);
      const page = this.#pages.get(pageNumber);
      if (page === 'all') {
        close(block);
        block = pageEnd;
        continue;
      }
      if (page === undefined && block % 32768 === 0 && pageEnd - block === 32768) {
        if (run < 0) run = block;
        this.#pages.set(pageNumber, 'all');
        block = pageEnd;
        continue;
      }
      const words = page ?? new Uint32Array(1024);
      if (page === undefined) this.#pages.set(pageNumber, words);
      for (; block < pageEnd; block++) {
        const bit = block % 32768;
        const word = words[bit >>> 5] ?? 0;
        if ((word & (1 << (bit & 31))) !== 0) {
          close(block);
          continue;
        }
        words[bit >>> 5] = (word | (1 << (bit & 31))) >>> 0;
        if (run < 0) run = block;
      }
    }
    close(end);
    return found;
  }
}

function encodeFooter(indexOffset: number, index: Buffer): Buffer {
  const f = Buffer.alloc(LAYER_FOOTER_BYTES);
  f.writeBigUInt64LE(BigInt(indexOffset), 0);
  f.writeBigUInt64LE(BigInt(index.length), 8);
  f.writeBigUInt64LE(checksum64(index), 16);
  f.writeUInt32LE(LAYER_VERSION, 24);
  f.writeUInt32LE(LAYER_END_MAGIC, 28);
  return f;
}

export interface LayerFooter {
  readonly indexOffset: number;
  readonly indexBytes: number;
  readonly indexChecksum: bigint;
}

/** Decodes the last LAYER_FOOTER_BYTES of a layer of `objectBytes` in all. */
export function decodeFooter(f: Buffer, objectBytes: number, name: string): LayerFooter {
  const bad = (what: string): never => {
    throw corrupt('layer-truncated', `layer ${name} is truncated or malformed: ${what}`, DAMAGE_HINT);
  };
  if (f.length !== LAYER_FOOTER_BYTES || objectBytes < LAYER_HEADER_BYTES + LAYER_FOOTER_BYTES) bad('no footer');
  if (f.readUInt32LE(28) !== LAYER_END_MAGIC) bad('footer has the wrong magic');
  if (f.readUInt32LE(24) !== LAYER_VERSION) bad(`footer version ${f.readUInt32LE(24)}`);
  const indexOffset = Number(f.readBigUInt64LE(0));
  const indexBytes = Number(f.readBigUInt64LE(8));
  if (indexOffset + indexBytes + LAYER_FOOTER_BYTES !== objectBytes) bad('its parts do not add up to its size');
  return { indexOffset, indexBytes, indexChecksum: f.readBigUInt64LE(16) };
}

/** With which key the hashes of an index are encrypted; null for an index in the clear. */
export function indexSealOf(b: Buffer): ChunkSeal | null {
  const keyId = b.length < INDEX_HEADER_BYTES ? 0 : b.readUInt32LE(12);
  return keyId === 0 ? null : { keyId, keyed: false };
}

/**
 * Decodes and checks an index; `opener` for one that is encrypted. With `structure` an encrypted one needs none, and has no hashes then: for who only
 * looks whether a layer is whole.
 */
export function decodeIndex(
  b: Buffer,
  footer: LayerFooter,
  name: string,
  opener?: ChunkOpener | 'structure',
): LayerIndex {
  const bad = (what: string): never => {
    throw corrupt('layer-index', `index of layer ${name} is malformed: ${what}`, DAMAGE_HINT);
  };
  if (b.length !== footer.indexBytes || checksum64(b) !== footer.indexChecksum) bad('checksum does not match');
  if (b.length < INDEX_HEADER_BYTES) bad('too short');
  const chunkCount = b.readUInt32LE(0);
  const entryCount = b.readUInt32LE(4);
  const hashCount = b.readUInt32LE(8);
  const keyId = b.readUInt32LE(12);
  const frontBytes = INDEX_HEADER_BYTES + chunkCount * CHUNK_REF_BYTES + entryCount * ENTRY_BYTES;
  if (b.length !== frontBytes + (keyId === 0 ? 0 : INDEX_SEAL_BYTES) + hashCount * 8) {
    bad('its counts do not add up to its size');
  }
  const chunks: ChunkRef[] = [];
  let at = INDEX_HEADER_BYTES;
  for (let i = 0; i < chunkCount; i++, at += CHUNK_REF_BYTES) {
    const offset = Number(b.readBigUInt64LE(at));
    const lengthBytes = b.readUInt32LE(at + 8);
    if (offset < LAYER_HEADER_BYTES || offset + lengthBytes > footer.indexOffset) bad(`chunk ${i} lies outside`);
    chunks.push({ offset, lengthBytes });
  }
  const index = {
    chunks,
    first: new Uint32Array(entryCount),
    count: new Uint32Array(entryCount),
    zero: new Uint8Array(entryCount),
    chunk: new Uint32Array(entryCount),
    position: new Uint32Array(entryCount),
    hashAt: new Uint32Array(entryCount),
    hashes: new BigUint64Array(opener === 'structure' && indexSealOf(b) !== null ? 0 : hashCount),
  };
  let end = 0;
  let hashes = 0;
  for (let i = 0; i < entryCount; i++, at += ENTRY_BYTES) {
    const first = b.readUInt32LE(at);
    const raw = b.readUInt32LE(at + 4);
    const count = (raw & ~ZERO_FLAG) >>> 0;
    const zero = (raw & ZERO_FLAG) !== 0;
    const chunk = b.readUInt32LE(at + 8);
    if (count === 0 || first < end || first + count > BLOCKS_PER_DISK_MAX) bad(`entry ${first}+${count}`);
    if (chunk >= chunkCount) bad(`entry names chunk ${chunk} of ${chunkCount}`);
    end = first + count;
    index.first[i] = first;
    index.count[i] = count;
    index.zero[i] = zero ? 1 : 0;
    index.chunk[i] = chunk;
    index.position[i] = b.readUInt32LE(at + 12);
    index.hashAt[i] = hashes;
    if (!zero) hashes += count;
  }
  if (hashes !== hashCount) bad(`${hashCount} hashes for ${hashes} blocks`);
  if (opener === 'structure' && keyId !== 0) return index;
  const plain = keyId === 0 ? b.subarray(at) : openHashes(b, at, keyId, opener === 'structure' ? undefined : opener);
  // All at once, as this runs on little-endian processors only: one by one they are a number object each.
  Buffer.from(index.hashes.buffer).set(plain.subarray(0, index.hashes.byteLength));
  return index;
}

function openHashes(b: Buffer, at: number, keyId: number, opener: ChunkOpener | undefined): Buffer {
  if (opener === undefined) throw new Error('an encrypted index is read without a key');
  const nonce = b.subarray(at, at + NONCE_BYTES);
  const tag = b.subarray(at + NONCE_BYTES, at + INDEX_SEAL_BYTES);
  return opener({ keyId, keyed: false }, nonce, tag, b.subarray(0, at), b.subarray(at + INDEX_SEAL_BYTES));
}
