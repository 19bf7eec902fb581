/**
 * Takes blocks in any order and writes them as layers: sorted as far as memory goes (MERGE_SORT_BYTES), gathered into chunks of full size; whole chunks
 * pass as they are. Of each block one copy may come. On a crash or abort(), layers that were finished are orphans.
 */
import {
  chunkBytesMax,
  decodeChunkHeader,
  encodeChunkBeside,
  type ChunkExtent,
  type ChunkHeader,
} from '../../shared/layer/chunk.js';
import type { LayerIdentity } from '../../shared/layer/layer.js';
import { CHUNK_PLAIN_BYTES_MAX } from '../../shared/limits.js';
import { MERGE_SORT_BYTES } from '../../shared/limits-upkeep.js';
import { LayerWriter } from '../catalog/layer-writer.js';
import type { LayerRef } from '../catalog/manifest.js';
import type { ObjectStore } from '../store/store.js';
import type { Piece } from '../volume/unit-work.js';

/** Extents of a chunk: bounded so that it fits its frame even when every block is a run of its own. */
const EXTENTS_MAX = 128;

export class LayerSink {
  readonly #store: ObjectStore;
  readonly #identity: () => LayerIdentity;
  readonly #blockBytes: number;
  readonly #slots: number;
  readonly #plain: Buffer;
  readonly #free: number[];
  /** Blocks that wait, each with its slot; hashes by slot. */
  readonly #waiting = new Map<number, number>();
  readonly #hashes: BigUint64Array;
  readonly #parts: LayerRef[] = [];
  #zeroes: ChunkExtent[] = [];
  #writer: LayerWriter | null = null;

  /** `identity` is asked once for each part: its sequence must be new each time. */
  constructor(store: ObjectStore, blockBytes: number, identity: () => LayerIdentity, sortBytes = MERGE_SORT_BYTES) {
    this.#store = store;
    this.#identity = identity;
    this.#blockBytes = blockBytes;
    this.#slots = Math.max(1, Math.floor(Math.max(sortBytes, 2 * CHUNK_PLAIN_BYTES_MAX) / blockBytes));
    // Not touched before it is used: small merges take little.
    this.#plain = Buffer.allocUnsafe(this.#slots * blockBytes);
    this.#free = Array.from({ length: this.#slots }, (_, i) => this.#slots - 1 - i);
    this.#hashes = new BigUint64Array(this.#slots);
  }

  /** Whether blocks have to be written before so many more can come. */
  isFullFor(blocks: number): boolean {
    return this.#free.length < blocks;
  }

  /** Copies one block that isn't zero. There must be room. */
  add(block: number, source: Buffer, offset: number, hash: bigint): void {
    const slot = this.#free.pop();
    if (slot === undefined) throw new Error('no room: flush() comes first');
    source.copy(this.#plain, slot * this.#blockBytes, offset, offset + this.#blockBytes);
    this.#hashes[slot] = hash;
    this.#waiting.set(block, slot);
  }

  /** A run of zero blocks. */
  async addZeroes(first: number, count: number): Promise<void> {
    this.#zeroes.push({ first, count, zero: true });
    if (this.#zeroes.length >= EXTENTS_MAX) await this.#writeZeroes();
  }

  /** A chunk as it is, or of one that can't be taken apart only these runs. `bytes` is copied. */
  async addChunk(bytes: Buffer, only: readonly Piece[] | null = null): Promise<void> {
    const copy = Buffer.from(bytes);
    await this.#append(copy, decodeChunkHeader(copy, false), only);
  }

  /** Writes the lowest blocks: those below `bound`, but a quarter of the room at least; the last chunk may stay for more to come. */
  async flush(bound: number): Promise<void> {
    const blocks = [...this.#waiting.keys()].sort((a, b) => a - b);
    const perChunk = CHUNK_PLAIN_BYTES_MAX / this.#blockBytes;
    const below = blocks.findIndex((block) => block >= bound);
    const least = Math.min(blocks.length, Math.ceil(this.#slots / 4));
    const wanted = Math.max(below < 0 ? blocks.length : below, least);
    const isAll = bound === Infinity;
    const count = isAll
      ? blocks.length
      : Math.max(Math.floor(wanted / perChunk) * perChunk, Math.min(wanted, perChunk));
    for (let at = 0; at < count;) at += await this.#writeBlocks(blocks, at, Math.min(perChunk, count - at));
  }

  /** Makes all layers durable and returns them, oldest first; none when nothing was added, unless one is wanted `evenIfEmpty`. */
  async finish(evenIfEmpty = false): Promise<LayerRef[]> {
    await this.flush(Infinity);
    await this.#writeZeroes();
    if (evenIfEmpty && this.#parts.length === 0)
      this.#writer ??= await LayerWriter.open(this.#store, this.#identity(), 'move');
    await this.#finishPart();
    return this.#parts;
  }

  async abort(): Promise<void> {
    const writer = this.#writer;
    this.#writer = null;
    await writer?.abort();
  }

  /** Writes one chunk of at most `most` of the blocks from `at` on; returns how many. */
  async #writeBlocks(blocks: readonly number[], at: number, most: number): Promise<number> {
    const extents: { first: number; count: number; zero: boolean }[] = [];
    const taken: number[] = [];
    for (let i = at; i < at + most; i++) {
      const block = blocks[i] ?? 0;
      const last = extents.at(-1);
      if (last !== undefined && last.first + last.count === block) last.count++;
      else if (extents.length < EXTENTS_MAX) extents.push({ first: block, count: 1, zero: false });
      else break;
      taken.push(block);
    }
    const plain = Buffer.allocUnsafe(taken.length * this.#blockBytes);
    const hashes = new BigUint64Array(taken.length);
    taken.forEach((block, i) => {
      const slot = this.#waiting.get(block) ?? 0;
      this.#plain.copy(plain, i * this.#blockBytes, slot * this.#blockBytes, (slot + 1) * this.#blockBytes);
      hashes[i] = this.#hashes[slot] ?? 0n;
      this.#waiting.delete(block);
      this.#free.push(slot);
    });
    await this.#encode(extents, hashes, plain);
    return taken.length;
  }

  async #writeZeroes(): Promise<void> {
    const extents = this.#zeroes.sort((a, b) => a.first - b.first);
    this.#zeroes = [];
    if (extents.length > 0) await this.#encode(extents, new BigUint64Array(0), Buffer.alloc(0));
  }

  async #encode(extents: readonly ChunkExtent[], hashes: BigUint64Array, plain: Buffer): Promise<void> {
    const frame = Buffer.allocUnsafe(chunkBytesMax(extents.length, hashes.length, plain.length));
    const length = await encodeChunkBeside(frame, this.#blockBytes, extents, hashes, plain);
    const chunk = frame.subarray(0, length);
    await this.#append(chunk, decodeChunkHeader(chunk, false));
  }

  async #append(chunk: Buffer, header: ChunkHeader, only: readonly Piece[] | null = null): Promise<void> {
    if (this.#writer?.isFull === true) await this.#finishPart();
    this.#writer ??= await LayerWriter.open(this.#store, this.#identity(), 'move');
    await this.#writer.append(chunk, header, only);
  }

  async #finishPart(): Promise<void> {
    const writer = this.#writer;
    if (writer === null) return;
    this.#parts.push(await writer.finish());
    this.#writer = null;
  }
}
