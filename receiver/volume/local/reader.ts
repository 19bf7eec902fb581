/**
 * Reads of a volume: from the local image where it has the blocks, else from the recovery point, which the cache then keeps. Sequential readers are
 * fetched ahead for, in the background. Owns counts only.
 */
import { bytesOfBlocks, type Geometry } from '../../../shared/blocks/geometry.js';
import {
  FETCH_BYTES_MAX,
  FETCHES_PER_READ_AHEAD,
  READ_AHEADS_IN_FLIGHT,
  SPARE_FETCHES_MAX,
  VOLUME_PIECE_BYTES_MAX,
  VOLUME_PIECES_IN_FLIGHT,
  VOLUME_TRY_READ_BYTES_MAX,
} from '../../../shared/limits.js';
import type { Logger } from '../../../shared/log.js';
import { ReadAhead } from '../read-ahead.js';
import { SpareBuffers } from '../spare-buffers.js';
import type { Cache } from './cache.js';
import type { LocalImage } from './image.js';
import { InFlight } from './in-flight.js';
import type { Run } from './maps.js';
import { inParallel } from './parallel.js';
import { localError } from './problems.js';

/** For what is fetched without a client that waits for it. For all volumes of the process. */
const spareFetches = new SpareBuffers(FETCH_BYTES_MAX, SPARE_FETCHES_MAX);

/** Tries to make a block local before a write that needs it gives up; each has made room for it. */
const MAKE_LOCAL_TRIES = 4;

export class VolumeReader {
  /** Requests answered from the local image, and those for which the point had to be read. */
  hits = 0;
  misses = 0;
  readonly #image: LocalImage;
  readonly #cache: Cache;
  readonly #geometry: Geometry;
  readonly #blockBytes: number;
  readonly #pieceBlocks: number;
  readonly #ahead: ReadAhead;
  readonly #aheadsInFlight = new InFlight();
  readonly #log: Logger;
  #stopped = false;

  constructor(image: LocalImage, cache: Cache, log: Logger) {
    this.#image = image;
    this.#cache = cache;
    this.#geometry = image.geometry;
    this.#blockBytes = image.geometry.blockBytes;
    this.#pieceBlocks = VOLUME_PIECE_BYTES_MAX / this.#blockBytes;
    this.#ahead = new ReadAhead({ sizeBytes: image.geometry.sizeBytes });
    this.#log = log;
  }

  tryRead(offset: number, into: Buffer): boolean {
    if (into.length > VOLUME_TRY_READ_BYTES_MAX || into.length === 0) return false;
    const first = Math.floor(offset / this.#blockBytes);
    const count = Math.floor((offset + into.length - 1) / this.#blockBytes) - first + 1;
    if (!this.#image.maps.local.hasAll(first, count) || !this.#image.tryRead(offset, into)) return false;
    this.hits++;
    this.#cache.touch(first, count);
    this.#readAhead(offset, into.length);
    return true;
  }

  async read(offset: number, into: Buffer): Promise<void> {
    if (into.length === 0) return;
    this.#readAhead(offset, into.length);
    const first = Math.floor(offset / this.#blockBytes);
    const end = Math.ceil((offset + into.length) / this.#blockBytes);
    const count = end - first;
    if (this.#image.maps.local.hasAll(first, count)) {
      this.hits++;
      if (await this.#readLocal(first, count, offset, into)) return;
    } else this.misses++;
    const skip = offset - first * this.#blockBytes;
    if (skip === 0 && into.length === count * this.#blockBytes) return this.#readBlocks(first, count, into);
    const whole = Buffer.allocUnsafe(count * this.#blockBytes);
    await this.#readBlocks(first, count, whole);
    whole.copy(into, 0, skip, skip + into.length);
  }

  /** Makes blocks local; throws when there is no room for them. `dislodging`: at the cost of other cached blocks, if need be. */
  async makeLocal(first: number, count: number, dislodging: boolean): Promise<void> {
    const scratch = spareFetches.take();
    try {
      for (const piece of this.#cache.pieces(first, count)) await this.#makePieceLocal(piece, dislodging, scratch);
    } finally {
      spareFetches.giveBack(scratch);
    }
  }

  async #makePieceLocal(piece: Run, dislodging: boolean, scratch: Buffer): Promise<void> {
    const { local } = this.#image.maps;
    for (let tries = 0; !local.hasAll(piece.first, piece.count);) {
      const missing = [...local.runs(piece.first, piece.count)].find((run) => !run.set);
      if (missing === undefined) break;
      const into = scratch.subarray(0, missing.count * this.#blockBytes);
      const answer = await this.#cache.fetch(missing.first, missing.count, into);
      const failure = this.#cache.keepFailure;
      if (answer === 'retry' || failure === undefined) continue;
      const again = dislodging && ++tries < MAKE_LOCAL_TRIES && (await this.#cache.makeRoom());
      if (!again && !local.hasAll(missing.first, missing.count)) {
        throw localError(`keeping block ${missing.first}`, failure);
      }
    }
  }

  /** No more reading ahead; resolves when none is under way. */
  stop(): Promise<void> {
    this.#stopped = true;
    return this.#aheadsInFlight.drained();
  }

  /** False when some of it isn't local any more. */
  async #readLocal(first: number, count: number, offset: number, into: Buffer): Promise<boolean> {
    const { lock, maps } = this.#image;
    // Shared: keeps the blocks from being given up meanwhile.
    const hold = lock.tryAcquire(first, count, false) ?? (await lock.acquire(first, count, false));
    try {
      if (!maps.local.hasAll(first, count)) return false;
      await this.#image.read(offset, into);
      this.#cache.touch(first, count);
      return true;
    } finally {
      lock.release(hold);
    }
  }

  /** Whole blocks; the last one of a disk is padded with zeroes. */
  async #readBlocks(first: number, count: number, into: Buffer): Promise<void> {
    await inParallel(this.#pieces(first, count), VOLUME_PIECES_IN_FLIGHT, async (piece) => {
      const at = (piece.first - first) * this.#blockBytes;
      await this.#readPiece(piece, into.subarray(at, at + piece.count * this.#blockBytes));
    });
  }

  /** Runs that are all local or all not; those that aren't are fetched at once each. */
  #pieces(first: number, count: number): Run[] {
    const pieces: Run[] = [];
    for (const run of this.#image.maps.local.runs(first, count)) {
      if (!run.set) {
        pieces.push(...this.#cache.pieces(run.first, run.count));
        continue;
      }
      for (let at = 0; at < run.count; at += this.#pieceBlocks) {
        pieces.push({ first: run.first + at, count: Math.min(this.#pieceBlocks, run.count - at) });
      }
    }
    return pieces;
  }

  async #readPiece({ first, count }: Run, into: Buffer): Promise<void> {
    const { local } = this.#image.maps;
    if (local.has(first)) {
      const lengthBytes = bytesOfBlocks(this.#geometry, first, count);
      if (await this.#readLocal(first, count, first * this.#blockBytes, into.subarray(0, lengthBytes))) {
        into.fill(0, lengthBytes);
        return;
      }
    } else if (local.runEnd(first, first + count) === first + count) {
      if ((await this.#cache.fetch(first, count, into)) === 'fetched') return;
    }
    // It came in, or went, meanwhile.
    await this.#readBlocks(first, count, into);
  }

  #readAhead(offset: number, lengthBytes: number): void {
    if (this.#stopped || this.#image.isFull || this.#cache.content === null) return;
    const range = this.#ahead.next(offset, lengthBytes);
    if (range === null || this.#aheadsInFlight.count >= READ_AHEADS_IN_FLIGHT) return;
    this.#aheadsInFlight.enter();
    void this.#fetchAhead(range.offset, range.lengthBytes).finally(() => this.#aheadsInFlight.leave());
  }

  /** Fetches what of a piece isn't local. Once: where the cache is smaller than what is read ahead, it may be gone again at once. */
  async #fetchOnce(piece: Run): Promise<void> {
    const missing = [...this.#image.maps.local.runs(piece.first, piece.count)].filter((run) => !run.set);
    if (missing.length === 0) return;
    const scratch = spareFetches.take();
    try {
      for (const { first, count } of missing) {
        await this.#cache.fetch(first, count, scratch.subarray(0, count * this.#blockBytes));
      }
    } finally {
      spareFetches.giveBack(scratch);
    }
  }

  async #fetchAhead(offset: number, lengthBytes: number): Promise<void> {
    const first = Math.floor(offset / this.#blockBytes);
    const end = Math.ceil((offset + lengthBytes) / this.#blockBytes);
    try {
      await inParallel([...this.#cache.pieces(first, end - first)], FETCHES_PER_READ_AHEAD, async (piece) => {
        if (!this.#stopped) await this.#fetchOnce(piece);
      });
    } catch (error) {
      // Nobody asked for it. Whoever does tries again, and hears of it.
      this.#log.debug({ err: error }, 'reading ahead failed');
    }
  }
}
