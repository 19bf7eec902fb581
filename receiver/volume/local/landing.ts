/**
 * Blocks of the recovery point between their fetch and the local image: proven, readable, not in the file yet. Who asked for them doesn't wait for the
 * file. In memory only: after a crash they are fetched again, since nothing has marked them as local.
 *
 * Promises: what has landed can be read from the moment on in which it was fetched until it was kept, without a gap: it goes only after the maps say
 * that it is local, or after keeping it failed. It is never newer than what is local, so where the maps say local the image counts: a client's write
 * wins. Fetches wait for room, so that memory is bounded (LANDING_BYTES_MAX); they hold no lock then. What only passes (passing.ts) isn't kept.
 */
import {
  CHUNK_PLAIN_BYTES_MAX,
  FETCH_BYTES_MAX,
  LANDING_BYTES_MAX,
  LANDING_WRITES_IN_FLIGHT,
  PASSING_FETCHES_MAX,
  SPARE_CHUNKS_MAX,
  SPARE_FETCHES_MAX,
} from '../../../shared/limits.js';
import { copyShared } from '../../../shared/native/libc.js';
import { SpareBuffers } from '../spare-buffers.js';
import { chunkThreads } from '../threads/pool.js';
import { SpareRooms, type LentRoom } from '../threads/spare-rooms.js';
import type { Run } from './maps.js';
import { Passing } from './passing.js';

/** For all volumes of the process. */
const spareFetches = new SpareBuffers(FETCH_BYTES_MAX, SPARE_FETCHES_MAX);
const spareRooms = new SpareRooms(FETCH_BYTES_MAX, SPARE_FETCHES_MAX, (room) => chunkThreads.leave(room));
const spareChunks = new SpareBuffers(CHUNK_PLAIN_BYTES_MAX, SPARE_CHUNKS_MAX);

/** Brings a run into the image, or says why not; never rejects. */
export type Keep = (run: Run, plain: Buffer) => Promise<void>;

interface LandedRun extends Run {
  readonly plain: Buffer;
  readonly batch: Batch;
}

interface Waiter {
  readonly bytes: number;
  readonly isUrgent: boolean;
  readonly go: () => void;
}

/** What one fetch brings. Its memory goes back once all of it is kept. */
export class Batch {
  readonly runs: LandedRun[] = [];
  /** Resolves when all of it is kept, or isn't going to be. */
  readonly kept: Promise<void>;
  readonly settle: () => void;
  /** Somebody waits for it to be in the image: it isn't one that passes. */
  isWanted = false;
  readonly #landing: Landing;
  readonly #spare: SpareBuffers;
  readonly #slabs: Buffer[] = [];
  #lent: LentRoom | undefined;
  #used = 0;

  constructor(landing: Landing, lengthBytes: number) {
    this.#landing = landing;
    this.#spare = lengthBytes > CHUNK_PLAIN_BYTES_MAX ? spareFetches : spareChunks;
    let settle = (): void => undefined;
    this.kept = new Promise((resolve) => (settle = resolve));
    this.settle = settle;
  }

  get slabBytes(): number {
    return this.#spare.sizeBytes;
  }

  get memoryBytes(): number {
    const slabs = this.#slabs.length + (this.#lent === undefined ? 0 : 1);
    return Math.max(1, slabs) * this.#spare.sizeBytes;
  }

  /** Memory to fetch into (at most FETCH_BYTES_MAX); goes on to be read once it was added with adopt(). */
  room(lengthBytes: number): Buffer {
    let slab = this.#slabs.at(-1);
    if (slab === undefined || this.#used + lengthBytes > slab.length) {
      slab = this.#spare.take();
      this.#slabs.push(slab);
      if (this.#slabs.length > 1 || this.#lent !== undefined) this.#landing.charge(slab.length);
      this.#used = 0;
    }
    this.#used += lengthBytes;
    return slab.subarray(this.#used - lengthBytes, this.#used);
  }

  /** The same memory, but one that threads can fetch into. Once per batch, and before any other. */
  sharedRoom(): LentRoom {
    if (this.#lent !== undefined || this.#slabs.length > 0) throw new Error('a batch has its memory already');
    this.#lent = spareRooms.take();
    return this.#lent;
  }

  /** Copies proven blocks. */
  add(run: Run, plain: Buffer): void {
    const room = this.room(plain.length);
    plain.copy(room);
    this.adopt(run, room);
  }

  /** Proven blocks in memory of room(). */
  adopt(run: Run, plain: Buffer): void {
    const landed = { first: run.first, count: run.count, plain, batch: this };
    this.runs.push(landed);
    this.#landing.show(landed);
  }

  free(): void {
    for (const slab of this.#slabs.splice(0)) this.#spare.giveBack(slab);
    if (this.#lent !== undefined) spareRooms.giveBack(this.#lent);
    this.#lent = undefined;
  }
}

export class Landing {
  readonly #blockBytes: number;
  readonly #regionBlocks: number;
  readonly #keep: Keep;
  readonly #bytesMax: number;
  /** Runs by the regions (of a chunk's size) that they touch. */
  readonly #regions = new Map<number, LandedRun[]>();
  readonly #queue: Batch[] = [];
  readonly #passing: Passing;
  #writing = 0;
  #bytes = 0;
  /** Clients' fetches first. */
  #waiting: Waiter[] = [];
  #idle: (() => void)[] = [];

  /** `passed`: a run that was read ahead, read, and not kept. */
  constructor(
    blockBytes: number,
    keep: Keep,
    bytesMax = LANDING_BYTES_MAX,
    passed: (run: Run) => void = () => undefined,
  ) {
    this.#blockBytes = blockBytes;
    this.#passing = new Passing(PASSING_FETCHES_MAX, (batch) => {
      for (const run of batch.runs) {
        this.#hide(run);
        passed(run);
      }
      this.#release(batch);
    });
    this.#regionBlocks = CHUNK_PLAIN_BYTES_MAX / blockBytes;
    this.#keep = keep;
    this.#bytesMax = bytesMax;
  }

  /** Memory that is taken. */
  get bytes(): number {
    return this.#bytes;
  }

  /**
   * Waits for room for a fetch; one that a client waits for (`isUrgent`) goes before those that nobody does. Each batch has to be given to land(),
   * whatever comes of the fetch.
   */
  async begin(lengthBytes: number, isUrgent: boolean): Promise<Batch> {
    const batch = new Batch(this, lengthBytes);
    const bytes = batch.slabBytes;
    // A client that misses is another one than those that was read ahead for, who may be gone: theirs makes room.
    if (isUrgent && this.#passing.isAwaited) this.#keepAfterAll(this.#passing.oldest);
    const before = isUrgent ? this.#waiting.filter((waiter) => waiter.isUrgent).length : this.#waiting.length;
    if (before > 0 || !this.#fits(bytes)) {
      await new Promise<void>((go) => this.#waiting.splice(before, 0, { bytes, isUrgent, go }));
    } else this.#bytes += bytes;
    return batch;
  }

  /** For what came along: little, and known only when it is there. */
  charge(bytes: number): void {
    this.#bytes += bytes;
  }

  show(run: LandedRun): void {
    const last = Math.floor((run.first + run.count - 1) / this.#regionBlocks);
    for (let region = Math.floor(run.first / this.#regionBlocks); region <= last; region++) {
      const runs = this.#regions.get(region);
      if (runs === undefined) this.#regions.set(region, [run]);
      else runs.push(run);
    }
  }

  /** The batch's blocks are kept from now on, in the background. */
  land(batch: Batch): void {
    this.#queue.push(batch);
    this.#pump();
  }

  /** Waits until there may be one more batch that passes. Each call has to be followed by landPassing(), or by passNot(). */
  mayPass(): Promise<void> {
    return this.#passing.enter();
  }

  passNot(): void {
    this.#passing.leave();
  }

  /** The batch's blocks are there until they were read, once; they are kept only if nobody reads them and others need the room. */
  landPassing(batch: Batch): void {
    if (!batch.isWanted) return this.#passing.add(batch);
    this.#passing.leave();
    this.land(batch);
  }

  /** What waits to be read is dropped, and nothing waits for it any more. */
  endPassing(): void {
    this.#passing.end();
  }

  /** Fills `into` if all of it has landed and was not kept yet. Else what is in it is undefined. */
  tryRead(offset: number, into: Buffer): boolean {
    const end = offset + into.length;
    for (let at = offset; at < end;) {
      const run = this.#find(Math.floor(at / this.#blockBytes));
      if (run === undefined) return false;
      const from = at - run.first * this.#blockBytes;
      const count = Math.min(end - at, run.plain.length - from);
      copyShared(run.plain, into, at - offset, from, from + count);
      at += count;
      this.#passing.read(run.batch, count);
    }
    return true;
  }

  /** Number of blocks from `first` on, at most `count`, that are here, or that are not. */
  stretch(first: number, count: number): { readonly count: number; readonly landed: boolean } {
    if (this.#regions.size === 0) return { count, landed: false };
    const landed = this.#find(first) !== undefined;
    let n = 1;
    while (n < count && (this.#find(first + n) !== undefined) === landed) n++;
    return { count: n, landed };
  }

  /** Resolves when none of the blocks is on its way any more. */
  async settled(first: number, count: number): Promise<void> {
    for (let block = first; block < first + count;) {
      const run = this.#find(block);
      if (run === undefined) {
        block++;
        continue;
      }
      // It may be seen before it is landed, or passes.
      run.batch.isWanted = true;
      this.#keepAfterAll(run.batch);
      await run.batch.kept;
    }
  }

  /** Resolves when nothing is on its way any more. */
  async drained(): Promise<void> {
    if (this.#bytes > 0) await new Promise<void>((go) => this.#idle.push(go));
  }

  #keepAfterAll(batch: Batch | undefined): void {
    if (batch !== undefined && this.#passing.take(batch)) this.land(batch);
  }

  #find(block: number): LandedRun | undefined {
    const runs = this.#regions.get(Math.floor(block / this.#regionBlocks));
    if (runs === undefined) return undefined;
    for (const run of runs) if (block >= run.first && block < run.first + run.count) return run;
    return undefined;
  }

  #pump(): void {
    while (this.#writing < LANDING_WRITES_IN_FLIGHT) {
      const batch = this.#queue.shift();
      if (batch === undefined) return;
      this.#writing++;
      void this.#write(batch).finally(() => {
        this.#writing--;
        this.#release(batch);
        this.#pump();
      });
    }
  }

  async #write(batch: Batch): Promise<void> {
    for (const group of adjacent(batch.runs)) {
      const [head] = group as [LandedRun, ...LandedRun[]];
      const count = group.reduce((sum, run) => sum + run.count, 0);
      const { buffer, byteOffset } = head.plain;
      await this.#keep({ first: head.first, count }, Buffer.from(buffer, byteOffset, count * this.#blockBytes));
      for (const run of group) this.#hide(run);
    }
  }

  #hide(run: LandedRun): void {
    const last = Math.floor((run.first + run.count - 1) / this.#regionBlocks);
    for (let region = Math.floor(run.first / this.#regionBlocks); region <= last; region++) {
      const left = this.#regions.get(region)?.filter((other) => other !== run) ?? [];
      if (left.length === 0) this.#regions.delete(region);
      else this.#regions.set(region, left);
    }
  }

  #release(batch: Batch): void {
    this.#bytes -= batch.memoryBytes;
    batch.free();
    batch.settle();
    while (this.#waiting[0] !== undefined && this.#fits(this.#waiting[0].bytes)) {
      this.#bytes += this.#waiting[0].bytes;
      this.#waiting.shift()?.go();
    }
    if (this.#bytes === 0) for (const go of this.#idle.splice(0)) go();
  }

  /** One that is alone always fits. */
  #fits(bytes: number): boolean {
    return this.#bytes === 0 || this.#bytes + bytes <= this.#bytesMax;
  }
}

/** Runs that follow each other on the disk and in memory, together: one write each. */
function adjacent(runs: readonly LandedRun[]): LandedRun[][] {
  const groups: LandedRun[][] = [];
  let last: LandedRun | undefined;
  for (const run of runs.toSorted((a, b) => a.first - b.first)) {
    const goesOn =
      last !== undefined &&
      last.first + last.count === run.first &&
      last.plain.buffer === run.plain.buffer &&
      last.plain.byteOffset + last.plain.length === run.plain.byteOffset;
    if (goesOn) groups.at(-1)?.push(run);
    else groups.push([run]);
    last = run;
  }
  return groups;
}
