/**
 * Gathers changed blocks, ascending, into chunks and writes them as the delta layers of one disk at one point: a layer is opened with its first
 * chunk, rolls over to the next when it is full, and exists when finish() resolves. On a crash or abort(), layers that were finished are orphans.
 */
import { decodeChunkHeader, encodeChunk, encodeChunkBeside, type ChunkSealer } from '../../shared/layer/chunk.js';
import type { LayerIdentity } from '../../shared/layer/layer.js';
import { CHUNK_FRAME_BYTES_MAX, CHUNK_PLAIN_BYTES_MAX, COMPRESS_BESIDE_BYTES_MIN } from '../../shared/limits.js';
import type { BlockNumber } from '../../shared/units.js';
import { LayerWriter } from '../catalog/layer-writer.js';
import type { LayerRef } from '../catalog/manifest.js';
import type { ObjectStore } from '../store/store.js';

/** Extents of a chunk: bounded so that it fits its frame even when every block is a run of its own. */
const EXTENTS_MAX = 128;

export class DeltaWriter {
  readonly #store: ObjectStore;
  readonly #identity: () => LayerIdentity;
  readonly #blockBytes: number;
  readonly #plain = Buffer.allocUnsafe(CHUNK_PLAIN_BYTES_MAX);
  readonly #frame = Buffer.allocUnsafe(CHUNK_FRAME_BYTES_MAX);
  readonly #hashes: BigUint64Array;
  readonly #sealer: ChunkSealer | null;
  readonly #parts: LayerRef[] = [];
  #writer: LayerWriter | null = null;
  #extents: { first: number; count: number; zero: boolean }[] = [];
  #dataBlocks = 0;

  /** `identity` is asked once for each part: its sequence must be new each time. `sealer`: with the keys of the source, where that encrypts. */
  constructor(
    store: ObjectStore,
    blockBytes: number,
    identity: () => LayerIdentity,
    sealer: ChunkSealer | null = null,
  ) {
    this.#sealer = sealer;
    this.#store = store;
    this.#identity = identity;
    this.#blockBytes = blockBytes;
    this.#hashes = new BigUint64Array(CHUNK_PLAIN_BYTES_MAX / blockBytes);
  }

  /** Adds a block that is not zero; its content at `offset` of `source` is copied before anything is waited for. */
  add(block: BlockNumber, source: Buffer, offset: number, hash: bigint): Promise<void> | undefined {
    source.copy(this.#plain, this.#dataBlocks * this.#blockBytes, offset, offset + this.#blockBytes);
    this.#hashes[this.#dataBlocks++] = hash;
    this.#extend(block, false);
    return this.#isFull ? this.#emit() : undefined;
  }

  addZero(block: BlockNumber): Promise<void> | undefined {
    this.#extend(block, true);
    return this.#isFull ? this.#emit() : undefined;
  }

  /** Makes all layers durable and returns them, oldest first; none when no block was added. */
  async finish(): Promise<LayerRef[]> {
    await this.#emit();
    await this.#finishPart();
    return this.#parts;
  }

  async abort(): Promise<void> {
    const writer = this.#writer;
    this.#writer = null;
    await writer?.abort();
  }

  get #isFull(): boolean {
    return this.#dataBlocks === this.#hashes.length || this.#extents.length >= EXTENTS_MAX;
  }

  #extend(block: BlockNumber, zero: boolean): void {
    const last = this.#extents[this.#extents.length - 1];
    if (last !== undefined && last.zero === zero && last.first + last.count === block) last.count++;
    else this.#extents.push({ first: block, count: 1, zero });
  }

  async #emit(): Promise<void> {
    if (this.#extents.length === 0) return;
    const plain = this.#plain.subarray(0, this.#dataBlocks * this.#blockBytes);
    const encode = plain.length >= COMPRESS_BESIDE_BYTES_MIN ? encodeChunkBeside : encodeChunk;
    const hashes = this.#hashes.subarray(0, this.#dataBlocks);
    const length = await encode(this.#frame, this.#blockBytes, this.#extents, hashes, plain, this.#sealer);
    // The layer keeps it until its batch is written; the frame is for the next.
    const chunk = Buffer.from(this.#frame.subarray(0, length));
    this.#extents = [];
    this.#dataBlocks = 0;
    if (this.#writer?.isFull === true) await this.#finishPart();
    this.#writer ??= await LayerWriter.open(this.#store, this.#identity());
    await this.#writer.append(chunk, decodeChunkHeader(chunk, false));
  }

  async #finishPart(): Promise<void> {
    if (this.#writer === null) return;
    this.#parts.push(await this.#writer.finish());
    this.#writer = null;
  }
}
