/**
 * Reads of a volume: from the local image where it has the blocks, else from the recovery point, which the cache then keeps. Sequential readers are
 * fetched ahead for, in the background. Owns counts only.
 */
import { bytesOfBlocks, type Geometry } from '../../../shared/blocks/geometry.js';
import {
  FETCHES_PER_READ_AHEAD,
  READ_AHEADS_IN_FLIGHT,
  VOLUME_PIECE_BYTES_MAX,
  VOLUME_PIECES_IN_FLIGHT,
  VOLUME_TRY_READ_BYTES_MAX,
} from '../../../shared/limits.js';
import type { Logger } from '../../../shared/log.js';
import { ReadAhead } from '../read-ahead.js';
import type { Cache } from './cache.js';
import type { LocalImage } from './image.js';
import { InFlight } from './in-flight.js';
import type { Run } from './maps.js';
import { inParallel } from './parallel.js';
import { localError } from './problems.js';

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
    if (!this.#tryParts(first, count, offset, into)) return false;
    this.hits++;
    this.#cache.touch(first, count);
    this.#readAhead(offset, into.length);
    return true;
  }

  /** Each stretch from where it is: the maps are asked first, what has landed may be older than a client's write. */
  #tryParts(first: number, count: number, offset: number, into: Buffer): boolean {
    const { local } = this.#image.maps;
    if (local.hasAll(first, count)) return this.#image.tryRead(offset, into);
    const end = first + count;
    for (let at = first; at < end;) {
      const next = local.runEnd(at, end);
      const from = Math.max(offset, at * this.#blockBytes) - offset;
      const part = into.subarray(from, Math.min(into.length, next * this.#blockBytes - offset));
      const isThere = local.has(at)
        ? this.#image.tryRead(offset + from, part)
        : this.#cache.landing.tryRead(offset + from, part);
      if (!isThere) return false;
      at = next;
    }
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
    for (const piece of this.#cache.pieces(first, count)) await this.#makePieceLocal(piece, dislodging);
  }

  async #makePieceLocal(piece: Run, dislodging: boolean): Promise<void> {
    const { local } = this.#image.maps;
    const { landing } = this.#cache;
    const end = piece.first + piece.count;
    for (let tries = 0; !local.hasAll(piece.first, piece.count);) {
      const first = local.has(piece.first) ? local.runEnd(piece.first, end) : piece.first;
      const wanted = local.runEnd(first, end) - first;
      const missing = this.#cache.missing(first, wanted);
      const answer = missing === 0 ? 'fetched' : await this.#cache.fetch(first, missing, null);
      await landing.settled(first, wanted);
      const failure = this.#cache.keepFailure;
      if (answer === 'retry' || failure === undefined) continue;
      const again = dislodging && ++tries < MAKE_LOCAL_TRIES && (await this.#cache.makeRoom());
      if (!again && !local.hasAll(first, Math.max(1, missing))) throw localError(`keeping block ${first}`, failure);
    }
  }

  /** No more reading ahead; resolves when none is under way. */
  stop(): Promise<void> {
    this.#stopped = true;
    this.#cache.landing.endPassing();
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

  /** Runs that are all local, all landed or all missing; those that are missing are fetched at once each. */
  #pieces(first: number, count: number): Run[] {
    const pieces: Run[] = [];
    for (const run of this.#image.maps.local.runs(first, count)) {
      if (!run.set) {
        for (let at = run.first, left = run.count; left > 0;) {
          const { count: n, landed } = this.#cache.landing.stretch(at, left);
          if (landed) pieces.push({ first: at, count: n });
          else pieces.push(...this.#cache.pieces(at, n));
          at += n;
          left -= n;
        }
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
    } else if (this.#cache.missing(first, count) === count) {
      if ((await this.#cache.fetch(first, count, into)) === 'fetched') return;
    } else if (this.#readLanded(first, count, into)) return;
    // It came in, or went, meanwhile.
    await this.#readBlocks(first, count, into);
  }

  #readLanded(first: number, count: number, into: Buffer): boolean {
    const { local } = this.#image.maps;
    if (local.has(first) || local.runEnd(first, first + count) !== first + count) return false;
    return this.#cache.landing.tryRead(first * this.#blockBytes, into);
  }

  #readAhead(offset: number, lengthBytes: number): void {
    if (this.#stopped || this.#image.isFull || this.#cache.content === null) return;
    const range = this.#ahead.next(offset, lengthBytes);
    if (range === null || this.#aheadsInFlight.count >= READ_AHEADS_IN_FLIGHT) return;
    this.#aheadsInFlight.enter();
    void this.#fetchAhead(range.offset, range.lengthBytes).finally(() => this.#aheadsInFlight.leave());
  }

  async #fetchAhead(offset: number, lengthBytes: number): Promise<void> {
    const first = Math.floor(offset / this.#blockBytes);
    const end = Math.ceil((offset + lengthBytes) / this.#blockBytes);
    try {
      const pieces = [...this.#cache.pieces(first, end - first)];
      await inParallel(pieces, FETCHES_PER_READ_AHEAD, (piece) => this.#cache.fetchAhead(piece, () => this.#stopped));
    } catch (error) {
      // Nobody asked for it. Whoever does tries again, and hears of it.
      this.#log.debug({ err: error }, 'reading ahead failed');
    }
  }
}
