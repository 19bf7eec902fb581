/**
 * Fetches chunks for readers of one disk: a chunk that several want at the same moment is read, decompressed and proven once, and handed to all
 * of them in the same turn. The last few are kept, as chunks don't begin where requests do: without that a client that reads in order would have
 * most of them read twice. Memory: the stored bytes of the ranges being read (READ_BYTES_MAX, and one ahead, per call of fetch()), used again, and
 * DECODED_CHUNKS_KEPT decoded chunks. A chunk that is bad fails those who want it, and nobody else.
 *
 * The event loop decompresses and hashes: 40 and 25 µs for a chunk (measured), less than the way to another thread and back takes from both.
 */
import { AfterimageError, corrupt, messageOf } from '../../shared/errors.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import {
  CHUNK_FRAME_BYTES_MAX,
  CHUNK_PLAIN_BYTES_MAX,
  DECODED_CHUNKS_KEPT,
  READ_BYTES_MAX,
  SPARE_CHUNKS_MAX,
  SPARE_FETCHES_MAX,
} from '../../shared/limits.js';
import type { LayerRef } from '../catalog/manifest.js';
import { provePieces } from './chunk-check.js';
import { winningPieces } from './chunk-map.js';
import type { LayerReader, ReadChunk } from './layer-reader.js';
import type { PointMap } from './point-map.js';
import { SpareBuffers } from './spare-buffers.js';
import type { Piece } from './unit-work.js';

/**
 * Is given a chunk's proven pieces; `plain` is valid during the call only. `rest`: nobody has taken yet what wasn't asked for.
 * Returns whether it did.
 */
export type TakeChunk = (pieces: readonly Piece[], plain: Buffer, rest: boolean) => boolean;

interface Decoded {
  readonly pieces: readonly Piece[];
  readonly plain: Buffer;
  /** Nobody has taken the rest of it yet. */
  rest: boolean;
}

/** Where stored bytes are read into: of one chunk, and of many. For all disks of the process. */
const frameRooms = new SpareBuffers(CHUNK_FRAME_BYTES_MAX, SPARE_CHUNKS_MAX);
const spanRooms = new SpareBuffers(READ_BYTES_MAX, SPARE_FETCHES_MAX);

interface Waiter {
  readonly take: TakeChunk;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

const asError = (error: unknown): Error => (error instanceof Error ? error : new Error(messageOf(error)));

/** Chunks per layer at most, so that layer and chunk make one number. */
const CHUNKS_MAX = 2 ** 28;
const keyOf = (layer: number, chunk: number): number => layer * CHUNKS_MAX + chunk;

export class ChunkFetcher {
  readonly #reader: LayerReader;
  readonly #map: PointMap;
  readonly #inFlight = new Map<number, Waiter[]>();
  /** In order of use, oldest first. */
  readonly #kept = new Map<number, Decoded>();
  readonly #spare = new SpareBuffers(CHUNK_PLAIN_BYTES_MAX, DECODED_CHUNKS_KEPT);

  constructor(reader: LayerReader, map: PointMap) {
    this.#reader = reader;
    this.#map = map;
  }

  /** Hands each chunk (given in the order of their offsets) to `take`. Settles when nothing more will be handed over. */
  async fetch(layer: number, index: LayerIndex, chunks: readonly number[], take: TakeChunk): Promise<void> {
    const mine: number[] = [];
    const all = chunks.map(
      (chunk) =>
        new Promise<void>((resolve, reject) => {
          const key = keyOf(layer, chunk);
          const waiter = { take, resolve, reject };
          const kept = this.#kept.get(key);
          if (kept !== undefined) {
            this.#kept.delete(key);
            this.#kept.set(key, kept);
            give(kept, waiter);
            return;
          }
          const waiting = this.#inFlight.get(key);
          if (waiting === undefined) {
            this.#inFlight.set(key, [waiter]);
            mine.push(chunk);
          } else waiting.push(waiter);
        }),
    );
    const settled = Promise.allSettled(all);
    await this.#run(layer, index, mine);
    // Not the first failure at once: a chunk that comes later would be copied into memory that the caller has given away.
    for (const result of await settled) if (result.status === 'rejected') throw result.reason;
  }

  async #run(layer: number, index: LayerIndex, chunks: readonly number[]): Promise<void> {
    if (chunks.length === 0) return;
    const left = new Set(chunks);
    const rooms = chunks.length === 1 ? frameRooms : spanRooms;
    const first = rooms.take();
    const second = chunks.length === 1 ? first : rooms.take();
    try {
      const ref = this.#map.layers[layer] as LayerRef;
      for await (const chunk of this.#reader.chunks(ref, index, chunks, [first, second])) {
        left.delete(chunk.number);
        this.#hand(layer, index, chunk);
      }
      if (left.size > 0) throw corrupt('layer-index', `layer ${this.#reader.nameOf(ref)} lacks chunks of its index`);
    } catch (error) {
      const failed = [...left];
      if (failed.length > 1 && error instanceof AfterimageError && error.kind === 'corrupt') {
        // One of them is bad: each by itself tells which.
        for (const chunk of failed) await this.#run(layer, index, [chunk]);
        return;
      }
      for (const chunk of failed) this.#settle(layer, chunk, (w) => w.reject(asError(error)));
    } finally {
      rooms.giveBack(first);
      if (second !== first) rooms.giveBack(second);
    }
  }

  /** Never throws: who wants the chunk hears of it. */
  #hand(layer: number, index: LayerIndex, chunk: ReadChunk): void {
    const plain = this.#memory();
    let pieces: Piece[];
    try {
      const name = this.#reader.nameOf(this.#map.layers[layer] as LayerRef);
      pieces = winningPieces(this.#map, layer, index, chunk.number);
      provePieces(name, index, chunk, pieces, plain);
    } catch (error) {
      this.#spare.giveBack(plain);
      this.#settle(layer, chunk.number, (w) => w.reject(asError(error)));
      return;
    }
    const decoded = { pieces, plain, rest: true };
    this.#kept.set(keyOf(layer, chunk.number), decoded);
    this.#settle(layer, chunk.number, (waiter) => give(decoded, waiter));
  }

  /** Memory for one more chunk: that of the one that rested longest, once there are enough. */
  #memory(): Buffer {
    for (const [key, decoded] of this.#kept) {
      if (this.#kept.size < DECODED_CHUNKS_KEPT) break;
      this.#kept.delete(key);
      this.#spare.giveBack(decoded.plain);
    }
    return this.#spare.take();
  }

  #settle(layer: number, chunk: number, each: (waiter: Waiter) => void): void {
    const key = keyOf(layer, chunk);
    const waiting = this.#inFlight.get(key) ?? [];
    // Before they run: one that asks for the chunk again begins a new fetch.
    this.#inFlight.delete(key);
    for (const waiter of waiting) each(waiter);
  }
}

function give(decoded: Decoded, waiter: Waiter): void {
  try {
    if (waiter.take(decoded.pieces, decoded.plain, decoded.rest)) decoded.rest = false;
    waiter.resolve();
  } catch (error) {
    waiter.reject(asError(error));
  }
}
