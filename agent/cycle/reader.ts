/**
 * Reads blocks of a disk or image file past the page cache: the cache of a device is stale under a mounted filesystem, even a frozen one.
 *
 * Owns one descriptor; buffers come from the pool and go back to it on every way out. Gives whole blocks: a short last one ends in
 * zeroes. Bytes are what the disk held at some instant during the call; what makes them a point in time is the cycle's task.
 */
import type { Extent } from '../../shared/blocks/block-set.js';
import { bytesOfBlocks, type Geometry } from '../../shared/blocks/geometry.js';
import { AfterimageError, errnoOf, messageOf } from '../../shared/errors.js';
import { READS_IN_FLIGHT, READS_SYNC_MAX, READ_GAP_BYTES_MAX } from '../../shared/limits.js';
import type { BlockNumber } from '../../shared/units.js';
import { UNLIMITED, unpaced, type Pace } from '../load/pace.js';
import { planReads, type PlannedRead } from './read-plan.js';
import type { ReadPool } from './read-pool.js';
import { openDirect, type ReadSource } from './read-source.js';

/** `blocks`: `count` whole blocks from `first` on, valid until the returned promise resolves. Must not wait for another read of the same pool. */
export type OnBlocks = (blocks: Buffer, first: BlockNumber, count: number) => void | Promise<void>;

export interface ReaderOptions {
  readonly path: string;
  readonly geometry: Geometry;
  readonly pool: ReadPool;
  /** Whether the device that was opened is still there (see disks/watch.ts); asked after a read failed. */
  readonly isPresent: () => boolean;
  /** Opens what is read; a simulation has disks of its own. */
  readonly open?: (path: string) => ReadSource;
}

export interface ReadTotals {
  readonly reads: number;
  readonly bytesRead: number;
  readonly blocks: number;
}

interface ReadAhead {
  readonly planned: PlannedRead;
  readonly buffer: Promise<Buffer>;
}

export class DiskReader {
  readonly path: string;
  readonly geometry: Geometry;
  /** Why reads go through the page cache; null when they go past it. Never for a block device. */
  readonly bufferedReason: string | null;
  readonly #source: ReadSource;
  readonly #pool: ReadPool;
  readonly #isPresent: () => boolean;
  readonly #shape: { readonly blocksMax: number; readonly gapBlocksMax: number };

  constructor(options: ReaderOptions) {
    this.path = options.path;
    this.geometry = options.geometry;
    this.#pool = options.pool;
    this.#isPresent = options.isPresent;
    const { blockBytes } = options.geometry;
    this.#shape = {
      blocksMax: Math.floor(options.pool.bufferBytes / blockBytes),
      gapBlocksMax: Math.floor(READ_GAP_BYTES_MAX / blockBytes),
    };
    this.#source = (options.open ?? openDirect)(options.path);
    this.bufferedReason = this.#source.bufferedReason;
  }

  /**
   * Reads all blocks of ascending, disjoint extents; several reads are in flight while the callback works, one call at a time and in ascending order:
   * a chunk is gathered from calls that follow each other. The first error stops further reads and is thrown when none is in flight.
   * Each read keeps to the pace, if there is one.
   */
  async readRuns(
    extents: Iterable<Extent>,
    onBlocks: OnBlocks,
    { signal, pace = UNLIMITED }: { readonly signal?: AbortSignal; readonly pace?: Pace } = {},
  ): Promise<ReadTotals> {
    const plan = planReads(extents, this.#shape)[Symbol.iterator]();
    const totals = { reads: 0, bytesRead: 0, blocks: 0 };
    const ahead: ReadAhead[] = [];
    const over = new AbortController();
    const fill = (): void => {
      while (ahead.length < READS_IN_FLIGHT) {
        const next = plan.next();
        if (next.done === true) return;
        const buffer = this.#begin(next.value, pace, over.signal);
        // Awaited in its turn; until then a failure must not count as unhandled.
        buffer.catch(() => undefined);
        ahead.push({ planned: next.value, buffer });
      }
    };
    try {
      fill();
      for (let head = ahead[0]; head !== undefined; head = ahead[0]) {
        signal?.throwIfAborted();
        const { planned } = head;
        const buffer = await head.buffer;
        ahead.shift();
        fill();
        try {
          this.#count(totals, planned);
          for (const run of planned.runs) await onBlocks(this.#view(buffer, planned, run), run.first, run.count);
        } finally {
          this.#pool.give(buffer);
        }
      }
      return totals;
    } finally {
      over.abort();
      // After a failure, reads under way still fill their buffers: they go back to the pool when they have.
      await Promise.all(ahead.map(({ buffer }) => buffer.then((b) => this.#pool.give(b)).catch(() => undefined)));
    }
  }

  /**
   * Reads the blocks of ascending, disjoint extents into `into`, one after the other without gaps: the window of a cut. Few reads are made at
   * once, without a hop to another thread; the returned promise then has resolved already. Reads are counted by the pace and never wait for it.
   */
  async readSmall(extents: readonly Extent[], into: Buffer, pace: Pace = UNLIMITED): Promise<ReadTotals> {
    const { blockBytes } = this.geometry;
    const offsets = new Map<BlockNumber, number>();
    let offset = 0;
    const plan = [...planReads(extents, this.#shape)];
    for (const { runs } of plan) {
      for (const run of runs) {
        offsets.set(run.first, offset);
        offset += run.count * blockBytes;
      }
    }
    if (offset > into.length) throw new RangeError(`window of ${into.length} bytes for ${offset} bytes of blocks`);
    const copy = (blocks: Buffer, first: BlockNumber): void => void blocks.copy(into, offsets.get(first));
    const buffer = plan.length <= READS_SYNC_MAX ? this.#pool.tryTake() : undefined;
    if (buffer === undefined) return this.readRuns(extents, copy, { pace: unpaced(pace) });
    const totals = { reads: 0, bytesRead: 0, blocks: 0 };
    try {
      for (const planned of plan) {
        pace.count(bytesOfBlocks(this.geometry, planned.first, planned.count));
        this.#readAllSync(buffer, planned);
        this.#count(totals, planned);
        for (const run of planned.runs) copy(this.#view(buffer, planned, run), run.first);
      }
    } finally {
      this.#pool.give(buffer);
    }
    return totals;
  }

  /** No read may be in flight. */
  close(): void {
    this.#source.close();
  }

  /** Starts a read; resolves to the filled buffer, which the caller gives back. */
  async #begin(planned: PlannedRead, pace: Pace, over: AbortSignal): Promise<Buffer> {
    // Before a buffer is taken: who waits holds nothing.
    await pace.read(bytesOfBlocks(this.geometry, planned.first, planned.count), over);
    const buffer = await this.#pool.take();
    try {
      await this.#readAll(buffer, planned);
      return buffer;
    } catch (error) {
      this.#pool.give(buffer);
      throw error;
    }
  }

  #count(totals: { -readonly [K in keyof ReadTotals]: number }, planned: PlannedRead): void {
    totals.reads++;
    totals.bytesRead += bytesOfBlocks(this.geometry, planned.first, planned.count);
    for (const run of planned.runs) totals.blocks += run.count;
  }

  #view(buffer: Buffer, planned: PlannedRead, run: Extent): Buffer {
    const { blockBytes } = this.geometry;
    const start = (run.first - planned.first) * blockBytes;
    return buffer.subarray(start, start + run.count * blockBytes);
  }

  async #readAll(buffer: Buffer, planned: PlannedRead): Promise<void> {
    const offset = planned.first * this.geometry.blockBytes;
    const wanted = bytesOfBlocks(this.geometry, planned.first, planned.count);
    let done = 0;
    while (done < wanted) {
      const got = await this.#source
        .read(buffer, done, this.#wholeBlocks(planned, done), offset + done)
        .catch((error: unknown) => {
          throw this.#failed(error, offset + done);
        });
      done = this.#progress(done, got, wanted, offset);
    }
    this.#padWithZeroes(buffer, planned, wanted);
  }

  #readAllSync(buffer: Buffer, planned: PlannedRead): void {
    const offset = planned.first * this.geometry.blockBytes;
    const wanted = bytesOfBlocks(this.geometry, planned.first, planned.count);
    let done = 0;
    while (done < wanted) {
      let got: number;
      try {
        got = this.#source.readSync(buffer, done, this.#wholeBlocks(planned, done), offset + done);
      } catch (error) {
        throw this.#failed(error, offset + done);
      }
      done = this.#progress(done, got, wanted, offset);
    }
    this.#padWithZeroes(buffer, planned, wanted);
  }

  /** O_DIRECT wants aligned lengths, so the odd end of a file is asked for as a whole block; the kernel stops at the end. */
  #wholeBlocks(planned: PlannedRead, done: number): number {
    return planned.count * this.geometry.blockBytes - done;
  }

  /** A file that has grown gives more than its geometry says: what is beyond it isn't ours. */
  #progress(done: number, got: number, wanted: number, offset: number): number {
    if (got > 0) return Math.min(done + got, wanted);
    throw new AfterimageError(
      `${this.path} ends at byte ${offset + done}, before its size of ${this.geometry.sizeBytes}`,
      {
        code: 'disk-read',
        kind: 'io',
        hint: 'The disk became smaller. Protect it anew with its new size.',
      },
    );
  }

  #padWithZeroes(buffer: Buffer, planned: PlannedRead, bytes: number): void {
    buffer.fill(0, bytes, planned.count * this.geometry.blockBytes);
  }

  #failed(error: unknown, offset: number): AfterimageError {
    const errno = errnoOf(error);
    const gone = (errno === 'EIO' || errno === 'ENXIO' || errno === 'ENODEV') && !this.#isPresent();
    if (!gone) return new DiskReadError(this.path, offset, messageOf(error), error);
    return new AfterimageError(`${this.path} is gone (${errno} at byte ${offset})`, {
      code: 'disk-gone',
      kind: 'io',
      hint: 'The device was removed or replaced. Connect it again; it is found by its id, not by its path.',
      cause: error,
    });
  }
}

/** The disk is there, and a place on it can't be read. */
export class DiskReadError extends AfterimageError {
  readonly path: string;
  readonly offset: number;
  constructor(path: string, offset: number, why: string, cause: unknown) {
    super(`reading ${path} at byte ${offset} failed: ${why}`, {
      code: 'disk-read',
      kind: 'io',
      hint: 'Look for errors of this disk in the kernel log. No recovery point is made from a disk that can not be read.',
      cause,
    });
    this.path = path;
    this.offset = offset;
  }
}
