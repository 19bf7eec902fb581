/**
 * Writes to a volume's local image, and what must come before and after: the block around a partial write, the open cut's copy, the marks, the set of
 * changed blocks. Owns that set.
 *
 * Order for a block that is local: marked as written, then the data (else a crash in between would leave other bytes than the point's in a block
 * that counts as the point's). For one that isn't: the data, then the marks. Then the promise resolves.
 */
import { BlockSet } from '../../../shared/blocks/block-set.js';
import { bytesOfBlocks } from '../../../shared/blocks/geometry.js';
import { failpoint } from '../../../shared/failpoints.js';
import { VOLUME_PIECE_BYTES_MAX, ZERO_CALL_BYTES_MAX } from '../../../shared/limits.js';
import type { Cache } from './cache.js';
import type { LocalImage } from './image.js';
import type { Run } from './maps.js';
import type { OpenCut } from './open-cut.js';
import { isFull } from './problems.js';
import type { RangeHold } from './range-lock.js';
import type { VolumeReader } from './reader.js';
import { Zeroes } from './zeroes.js';

/** Times that a write makes room at the cost of the cache before it fails. */
const MAKE_ROOM_TRIES = 4;

export class VolumeWriter {
  /** Blocks written since the last cut. */
  changed = new BlockSet();
  /** The cut that is being read. */
  cut: OpenCut | null = null;
  readonly #image: LocalImage;
  readonly #cache: Cache;
  readonly #reader: VolumeReader;
  readonly #blockBytes: number;

  constructor(image: LocalImage, cache: Cache, reader: VolumeReader) {
    this.#image = image;
    this.#cache = cache;
    this.#reader = reader;
    this.#blockBytes = image.geometry.blockBytes;
    const { written } = image.maps;
    // What was committed before isn't remembered: everything that was ever written counts.
    for (const run of written.runs(0, image.geometry.blockCount)) {
      if (run.set) this.changed.addRange(run.first, run.count);
    }
  }

  async write(offset: number, bytes: Buffer): Promise<void> {
    for (let done = 0; done < bytes.length;) {
      const at = offset + done;
      // Pieces end at borders of pieces, so that only the first and the last can have a partial block.
      const length = Math.min(bytes.length - done, VOLUME_PIECE_BYTES_MAX - (at % VOLUME_PIECE_BYTES_MAX));
      await this.#writePiece(at, bytes.subarray(done, done + length));
      done += length;
    }
  }

  async zero(offset: number, lengthBytes: number, keepSpace: boolean): Promise<void> {
    const { sizeBytes, blockCount } = this.#image.geometry;
    const end = offset + lengthBytes;
    const first = Math.ceil(offset / this.#blockBytes);
    const last = end === sizeBytes ? blockCount : Math.floor(end / this.#blockBytes);
    if (first >= last) return this.#zeroBytes(offset, end);
    await this.#zeroBytes(offset, first * this.#blockBytes);
    for (let at = first; at < last;) {
      // What an open cut has to copy first bounds the piece.
      const pieceBytes = this.cut === null ? ZERO_CALL_BYTES_MAX : VOLUME_PIECE_BYTES_MAX;
      const count = Math.min(last - at, pieceBytes / this.#blockBytes);
      for (const run of await this.#notZeroYet(at, count)) await this.#zeroBlocks(run, keepSpace);
      at += count;
    }
    if (last < blockCount) await this.#zeroBytes(last * this.#blockBytes, end);
  }

  async #writePiece(offset: number, bytes: Buffer): Promise<void> {
    const { sizeBytes } = this.#image.geometry;
    const end = offset + bytes.length;
    const first = Math.floor(offset / this.#blockBytes);
    const last = Math.floor((end - 1) / this.#blockBytes);
    const partial: number[] = [];
    if (offset % this.#blockBytes !== 0) partial.push(first);
    if (end % this.#blockBytes !== 0 && end !== sizeBytes && partial[0] !== last) partial.push(last);
    await this.#change({ first, count: last - first + 1 }, partial, () => this.#image.write(offset, bytes));
  }

  async #zeroBytes(from: number, to: number): Promise<void> {
    for (let at = from; at < to; at += Zeroes.length)
      await this.write(at, Zeroes.subarray(0, Math.min(Zeroes.length, to - at)));
  }

  #zeroBlocks(run: Run, keepSpace: boolean): Promise<void> {
    const lengthBytes = bytesOfBlocks(this.#image.geometry, run.first, run.count);
    return this.#change(run, [], () => this.#image.zero(run.first * this.#blockBytes, lengthBytes, keepSpace));
  }

  /** Leaves out what isn't local and zero at the point: trimming an empty disk must not make all of it a change. */
  async #notZeroYet(first: number, count: number): Promise<Run[]> {
    const { local } = this.#image.maps;
    const whole = [{ first, count }];
    const { content } = this.#cache;
    if (content === null || local.hasAll(first, count)) return whole;
    let runs;
    try {
      runs = await content.runs(first, count);
    } catch {
      // The store doesn't answer: zeroing needs nothing of it.
      return whole;
    }
    const found: Run[] = [];
    for (const run of runs) {
      for (const part of local.runs(run.first, run.count)) if (part.set || !run.zero) found.push(part);
    }
    return found;
  }

  async #change(run: Run, partial: readonly number[], apply: () => Promise<void>): Promise<void> {
    const { first, count } = run;
    const { local, written } = this.#image.maps;
    const hold = await this.#lockFor(run, partial);
    try {
      this.changed.addRange(first, count);
      if (!written.hasAll(first, count)) {
        for (const part of local.runs(first, count)) if (part.set) written.set(part.first, part.count);
      }
      await this.#withRoom(apply);
      failpoint('volume.write.data-written');
      // In this order: a block is never both local and other than the point without being marked as written.
      written.set(first, count);
      local.set(first, count);
      this.#cache.touch(first, count);
    } finally {
      this.#image.lock.release(hold);
    }
  }

  /** Locks blocks such that those that are written in part are local, and none comes or goes that isn't. */
  async #lockFor(run: Run, partial: readonly number[]): Promise<RangeHold> {
    if (partial.length === 0) return this.#lock(run, partial);
    const unwant = this.#cache.want(partial);
    try {
      return await this.#lock(run, partial);
    } finally {
      unwant();
    }
  }

  async #lock({ first, count }: Run, partial: readonly number[]): Promise<RangeHold> {
    const { lock, maps } = this.#image;
    for (;;) {
      for (const block of partial) if (!maps.local.has(block)) await this.#reader.makeLocal(block, 1, true);
      const preserving = this.cut?.preserve(first, count);
      if (preserving !== undefined) await preserving;
      // Local blocks may be written by several at once, as on any disk; what is fetched or given up excludes everybody else.
      const exclusive = !maps.local.hasAll(first, count);
      const hold = lock.tryAcquire(first, count, exclusive) ?? (await lock.acquire(first, count, exclusive));
      if ((exclusive || maps.local.hasAll(first, count)) && partial.every((block) => maps.local.has(block)))
        return hold;
      lock.release(hold);
    }
  }

  async #withRoom(apply: () => Promise<void>): Promise<void> {
    for (let tries = 1; ; tries++) {
      try {
        return await apply();
      } catch (error) {
        if (!isFull(error) || tries === MAKE_ROOM_TRIES || !(await this.#cache.makeRoom())) throw error;
      }
    }
  }
}
