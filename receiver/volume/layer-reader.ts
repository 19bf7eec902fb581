/**
 * Reads the layers of one disk from the store, and believes nothing that isn't checked: size and index checksum against the manifest, each chunk's stored
 * bytes against its checksum. The header is for whoever has no manifest: with the index that the manifest names it is this layer, whatever its header
 * says, and a broken one (which the scrub finds) keeps nobody from its blocks. Owns no state but the (shared) index cache.
 */
import type { LayerRef } from '../catalog/manifest.js';
import { layerName } from '../catalog/names.js';
import { AfterimageError, corrupt, DAMAGE_HINT } from '../../shared/errors.js';
import { plainHasher } from '../../shared/crypto/block-hasher.js';
import { decodeChunkHeader } from '../../shared/layer/chunk.js';
import {
  decodeFooter,
  decodeIndex,
  indexSealOf,
  LAYER_FOOTER_BYTES,
  LAYER_HEADER_BYTES,
  type ChunkRef,
  type LayerFooter,
  type LayerIndex,
} from '../../shared/layer/layer.js';
import {
  CHUNK_FRAME_BYTES_MAX,
  LAYER_INDEX_BYTES_MAX,
  LAYER_TAIL_BYTES,
  READ_BYTES_MAX,
  READ_GAP_BYTES_MAX,
} from '../../shared/limits.js';
import { digestToText } from '../../shared/blocks/hash.js';
import type { DiskId, MachineId } from '../../shared/units.js';
import type { ObjectStore } from '../store/store.js';
import { DiskKeys, type ReadChunk, type StoredChunk } from './disk-keys.js';
import { IndexCache } from './index-cache.js';
import { inLayer } from './layer-errors.js';
import { chunkThreads, type ChunkThreads } from './threads/pool.js';
import type { SharedRoom } from './threads/shared-room.js';
import type { Range } from './threads/reservation.js';
import type { Outlet, SpanJob, SpanResult } from './threads/span-job.js';

export type { ReadChunk, StoredChunk } from './disk-keys.js';

export interface LayerOwner {
  readonly machine: MachineId;
  readonly disk: DiskId;
  readonly blockBytes: number;
}

/** A range of a layer's stored bytes, and the chunks in it. */
export interface Span {
  readonly offset: number;
  readonly end: number;
  readonly chunks: readonly number[];
}

/** Joins chunks (given in the order of their offsets) into ranged reads over small gaps. */
export function spansOf(refs: readonly ChunkRef[], numbers: readonly number[]): Span[] {
  const spans: Span[] = [];
  let open: { offset: number; end: number; chunks: number[] } | undefined;
  for (const number of numbers) {
    const ref = refs[number];
    if (ref === undefined) continue;
    const end = ref.offset + ref.lengthBytes;
    const joins =
      open !== undefined &&
      ref.offset >= open.end &&
      ref.offset - open.end <= READ_GAP_BYTES_MAX &&
      end - open.offset <= READ_BYTES_MAX;
    if (open === undefined || !joins) {
      open = { offset: ref.offset, end, chunks: [] };
      spans.push(open);
    }
    open.chunks.push(number);
    open.end = end;
  }
  return spans;
}

export class LayerReader {
  readonly owner: LayerOwner;
  readonly #store: ObjectStore;
  readonly #cache: IndexCache;
  /** What of this disk can be decrypted here. */
  readonly keys: DiskKeys;
  readonly #threads: ChunkThreads;
  #metSealed = false;

  constructor(store: ObjectStore, owner: LayerOwner, cache = new IndexCache(), threads = chunkThreads) {
    this.#store = store;
    this.#threads = threads;
    this.owner = owner;
    this.keys = new DiskKeys(store, owner.machine, owner.disk);
    this.#cache = cache;
  }

  nameOf(layer: LayerRef): string {
    return layerName(this.owner.machine, this.owner.disk, layer);
  }

  /** The checked index of a layer. */
  index(layer: LayerRef): Promise<LayerIndex> {
    const name = this.nameOf(layer);
    // The checksum is part of the key: what one manifest vouches for says nothing about another's claim.
    return this.#cache.get(`${name} ${layer.indexChecksum} ${layer.sizeBytes}`, () => this.#loadIndex(layer, name));
  }

  /** Which blocks a layer has: its index, without the hashes when these are encrypted and the key isn't at hand. */
  extents(layer: LayerRef): Promise<Pick<LayerIndex, 'first' | 'count'>> {
    const name = this.nameOf(layer);
    const key = `${name} ${layer.indexChecksum} ${layer.sizeBytes} extents`;
    return this.#cache.get(key, () => this.#loadIndex(layer, name, true));
  }

  /**
   * Chunks by number, in the order of their offsets in the layer; the next range is read while one is worked on. `rooms`: memory of READ_BYTES_MAX
   * each that is read into in turns, so that a long read takes none per range; a chunk's bytes are then its own until the next is asked for.
   */
  async *chunks(
    layer: LayerRef,
    index: LayerIndex,
    numbers: readonly number[],
    rooms?: readonly [Buffer, Buffer],
  ): AsyncGenerator<ReadChunk> {
    for await (const chunk of this.storedChunks(layer, index, numbers, rooms)) {
      yield chunk.header.seal === null
        ? { ...chunk, hash: plainHasher }
        : await this.open(this.nameOf(layer), index, chunk);
    }
  }

  /**
   * The same for whoever moves chunks as a whole: what the source encrypted stays as it is, so that its key isn't needed; what the receiver encrypted is
   * decrypted, and LayerWriter encrypts it anew.
   */
  async *movableChunks(layer: LayerRef, index: LayerIndex, numbers: readonly number[]): AsyncGenerator<StoredChunk> {
    for await (const chunk of this.storedChunks(layer, index, numbers)) {
      yield chunk.header.seal?.keyed === false ? await this.open(this.nameOf(layer), index, chunk) : chunk;
    }
  }

  /** Decrypts a chunk of a layer. */
  async open(name: string, index: LayerIndex, chunk: StoredChunk): Promise<ReadChunk> {
    try {
      return await this.keys.open(chunk);
    } catch (error) {
      throw inLayer(name, `chunk ${chunk.number} at byte ${index.chunks[chunk.number]?.offset ?? 0}`, error);
    }
  }

  /** Chunks as they are stored. */
  async *storedChunks(
    layer: LayerRef,
    index: LayerIndex,
    numbers: readonly number[],
    rooms?: readonly [Buffer, Buffer],
  ): AsyncGenerator<StoredChunk> {
    const name = this.nameOf(layer);
    const spans = spansOf(index.chunks, numbers);
    const read = (i: number): Promise<Buffer> | undefined => {
      const span = spans[i];
      if (span === undefined) return undefined;
      return this.#read(name, span.offset, span.end - span.offset, rooms?.[i % 2]);
    };
    let ahead = read(0);
    try {
      for (const [i, span] of spans.entries()) {
        const bytes = (await ahead) as Buffer;
        ahead = read(i + 1);
        for (const number of span.chunks) yield this.#chunk(name, index, number, bytes, span.offset);
      }
    } finally {
      // The consumer may have stopped early: its error counts, not the one of a read ahead. But its room is given back only once nobody reads into it.
      await ahead?.catch(() => undefined);
    }
  }

  #chunk(name: string, index: LayerIndex, number: number, bytes: Buffer, spanOffset: number): StoredChunk {
    const ref = index.chunks[number] as ChunkRef;
    const chunk = bytes.subarray(ref.offset - spanOffset, ref.offset - spanOffset + ref.lengthBytes);
    try {
      const header = decodeChunkHeader(chunk);
      if (header.blockBytes !== this.owner.blockBytes) {
        throw corrupt('chunk-malformed', `block size ${header.blockBytes}, expected ${this.owner.blockBytes}`);
      }
      return { number, bytes: chunk, header };
    } catch (error) {
      throw inLayer(name, `chunk ${number} at byte ${ref.offset}`, error);
    }
  }

  /** Whether the layers are files of this host. */
  get isNear(): boolean {
    return this.#store.lend !== undefined;
  }

  /** Whether spans can be worked off by threads: the layers are files here, and nothing that was met was encrypted. */
  get takesThreads(): boolean {
    return this.#store.lend !== undefined && !this.#metSealed;
  }

  /** Has a thread work a span off. Throws what reading it throws; what is wrong with single chunks is in the result. */
  async onThread(layer: LayerRef, job: SpanJob): Promise<SpanResult> {
    const name = this.nameOf(layer);
    const { lend } = this.#store;
    if (lend === undefined) throw new Error('the layers of this store are no files of this host');
    const result = await named(name, () => lend(name, job.lengthBytes, (fd) => this.#threads.run(fd, job)));
    if (result.isSealed) this.#metSealed = true;
    return result;
  }

  /** Has a thread make room for ranges of a target that are about to be written, where that has to be. */
  reserveOnThread(outlet: Outlet, ranges: readonly Range[]): Promise<void> {
    return this.#threads.reserve(outlet, ranges);
  }

  /** No job is for this room any more. */
  leaveRoom(room: SharedRoom): void {
    this.#threads.leave(room);
  }

  async #loadIndex(layer: LayerRef, name: string, isBlind = false): Promise<LayerIndex> {
    if (layer.sizeBytes < LAYER_HEADER_BYTES + LAYER_FOOTER_BYTES) {
      throw corrupt('layer-truncated', `layer ${name} has ${layer.sizeBytes} bytes by its manifest`, DAMAGE_HINT);
    }
    // An ordinary cycle's layer is small: one read gets all of it. Larger ones take one or two for the end.
    const tailBytes = Math.min(layer.sizeBytes, LAYER_TAIL_BYTES);
    const tailAt = layer.sizeBytes - tailBytes;
    const tail = await this.#read(name, tailAt, tailBytes);
    const footer = decodeFooter(tail.subarray(tailBytes - LAYER_FOOTER_BYTES), layer.sizeBytes, name);
    this.#checkFooter(layer, footer, name);
    const bytes =
      footer.indexOffset >= tailAt
        ? tail.subarray(footer.indexOffset - tailAt, footer.indexOffset - tailAt + footer.indexBytes)
        : await this.#read(name, footer.indexOffset, footer.indexBytes);
    const isClosed = isBlind && !(await this.keys.canOpen(indexSealOf(bytes)));
    const index = decodeIndex(bytes, footer, name, isClosed ? 'structure' : await this.keys.indexOpener(bytes));
    for (const [i, chunk] of index.chunks.entries()) {
      if (chunk.lengthBytes > CHUNK_FRAME_BYTES_MAX) {
        throw corrupt(
          'layer-index',
          `index of layer ${name} says that chunk ${i} has ${chunk.lengthBytes} bytes`,
          DAMAGE_HINT,
        );
      }
    }
    return index;
  }

  #checkFooter(layer: LayerRef, footer: LayerFooter, name: string): void {
    if (footer.indexBytes > LAYER_INDEX_BYTES_MAX) {
      throw corrupt(
        'layer-index',
        `index of layer ${name} has ${footer.indexBytes} bytes, more than any can have`,
        DAMAGE_HINT,
      );
    }
    if (digestToText(footer.indexChecksum) !== layer.indexChecksum) {
      throw corrupt(
        'layer-misplaced',
        `layer ${name} is not the one that its manifest names: other index`,
        DAMAGE_HINT,
      );
    }
  }

  #read(name: string, offset: number, lengthBytes: number, room?: Buffer): Promise<Buffer> {
    return named(name, () => this.#store.read(name, offset, lengthBytes, room));
  }
}

/** Says of what a reading met what it means for the layer. */
async function named<T>(name: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    if (!(error instanceof AfterimageError)) throw error;
    if (error.kind === 'not-found')
      throw corrupt('layer-missing', `layer ${name} is missing from the store`, DAMAGE_HINT);
    if (error.code === 'object-short')
      throw corrupt('layer-truncated', `layer ${name} is truncated: ${error.message}`, DAMAGE_HINT);
    throw error;
  }
}
