/**
 * The threads that bring spans of layers from the store's files to plain, proven bytes. Started when first needed, one pool per process. They don't
 * keep the process alive, but it ends after they have: one that is torn down amid loading a native module takes the process with it. A thread that dies
 * fails what it was at, and is replaced.
 */
import { extname } from 'node:path';
import { Worker } from 'node:worker_threads';
import { AfterimageError, messageOf } from '../../../shared/errors.js';
import { CHUNK_THREADS, THREAD_JOBS_AHEAD } from '../../../shared/limits.js';
import type { ObjectStore } from '../../store/store.js';
import { errorOf } from './error-parts.js';
import { packJob, type PackedJob } from './packed-job.js';
import { isRoom, type SharedRoom } from './shared-room.js';
import type { Range } from './reservation.js';
import type { ErrorParts, Outlet, SpanJob, SpanResult } from './span-job.js';

export interface SpanOrder {
  readonly id: number;
  readonly fd: number;
  readonly job: PackedJob;
}

export interface ReserveOrder {
  readonly id: number;
  readonly outlet: Outlet;
  /** Offset and length of each, by turns. */
  readonly ranges: Float64Array;
}

/** A room that jobs to come are for; and one that none is for any more. */
export type Order = SpanOrder | ReserveOrder | { readonly room: SharedRoom } | { readonly leave: number };

/** A thread's first word. */
export type Loaded = 'loaded';

export interface SpanAnswer {
  readonly id: number;
  /** Null: what was to be reserved is. */
  readonly result?: SpanResult | null;
  readonly error?: ErrorParts;
}

interface Pending {
  readonly order: SpanOrder | ReserveOrder;
  readonly room: SharedRoom | null;
  readonly resolve: (result: SpanResult | null) => void;
  readonly reject: (error: Error) => void;
}

interface Thread {
  readonly worker: Worker;
  /** What it was given and hasn't answered yet. */
  readonly pending: Map<number, Pending>;
  /** Rooms that it knows. */
  readonly rooms: Set<number>;
  /** It has loaded all that it needs, or died. */
  readonly settled: Promise<void>;
}

/** As this file is, so that it also runs where sources are run as they are. */
const ENTRY = new URL(`./thread${extname(import.meta.url)}`, import.meta.url);

export class ChunkThreads {
  readonly #count: number;
  readonly #threads = new Set<Thread>();
  readonly #waiting: Pending[] = [];
  #orders = 0;
  #endsWithProcess = false;

  constructor(count = CHUNK_THREADS) {
    this.#count = count;
  }

  /** Rejects with what the span met as a whole. The job may not be changed any more. */
  run(fd: number, job: SpanJob): Promise<SpanResult> {
    const order = { id: this.#orders++, fd, job: packJob(job) };
    const room = isRoom(job.outlet) ? job.outlet : null;
    return new Promise((resolve, reject) => {
      this.#waiting.push({ order, room, resolve: (result) => resolve(result as SpanResult), reject });
      this.#give();
    });
  }

  /** Room for ranges that are about to be written (reservation.ts); before the spans that wait. */
  reserve(outlet: Outlet, ranges: readonly Range[]): Promise<void> {
    if (!outlet.isSparse || outlet.direct === null) return Promise.resolve();
    const numbers = Float64Array.from(ranges.flatMap(({ offset, lengthBytes }) => [offset, lengthBytes]));
    const order = { id: this.#orders++, outlet, ranges: numbers };
    return new Promise((resolve, reject) => {
      this.#waiting.unshift({ order, room: null, resolve: () => resolve(), reject });
      this.#give();
    });
  }

  /** No job is for this room any more: its memory is given back. */
  leave({ number }: SharedRoom): void {
    for (const { worker, rooms } of this.#threads) if (rooms.delete(number)) this.#post(worker, { leave: number });
  }

  /** Starts all threads, for who is going to need them and has something else to do first. */
  start(): void {
    while (this.#threads.size < this.#count) this.#start();
  }

  /** Ends all threads; what they were at fails. The next job starts new ones. */
  async close(): Promise<void> {
    const end = async ({ worker, settled }: Thread): Promise<void> => {
      worker.ref();
      await settled;
      await worker.terminate();
    };
    await Promise.all([...this.#threads].map(end));
  }

  #give(): void {
    while (this.#waiting.length > 0) {
      const thread = this.#least();
      if (thread === undefined) return;
      const pending = this.#waiting.shift() as Pending;
      if (thread.pending.size === 0) thread.worker.ref();
      thread.pending.set(pending.order.id, pending);
      const { room, order } = pending;
      if (room !== null && !thread.rooms.has(room.number)) {
        thread.rooms.add(room.number);
        this.#post(thread.worker, { room });
      }
      this.#post(thread.worker, order);
    }
  }

  #post(worker: Worker, order: Order): void {
    worker.postMessage(order);
  }

  /** The thread that has least to do; undefined when all have enough. */
  #least(): Thread | undefined {
    let least: Thread | undefined;
    for (const thread of this.#threads) {
      if (least === undefined || thread.pending.size < least.pending.size) least = thread;
    }
    if (least?.pending.size !== 0 && this.#threads.size < this.#count) return this.#start();
    return least !== undefined && least.pending.size < THREAD_JOBS_AHEAD ? least : undefined;
  }

  #start(): Thread {
    if (!this.#endsWithProcess) process.once('beforeExit', () => void this.close());
    this.#endsWithProcess = true;
    const worker = new Worker(ENTRY, { name: 'chunks' });
    let settle = (): void => undefined;
    const settled = new Promise<void>((resolve) => (settle = resolve));
    const thread: Thread = { worker, pending: new Map(), rooms: new Set(), settled };
    this.#threads.add(thread);
    worker.on('message', (answer: SpanAnswer | Loaded) => {
      if (answer === 'loaded') settle();
      else this.#answered(thread, answer);
    });
    worker.on('error', (error) => this.#died(thread, messageOf(error)));
    worker.on('exit', (code) => {
      settle();
      this.#died(thread, `it ended with code ${code}`);
    });
    worker.unref();
    return thread;
  }

  #answered(thread: Thread, { id, result, error }: SpanAnswer): void {
    const pending = thread.pending.get(id);
    thread.pending.delete(id);
    if (thread.pending.size === 0) thread.worker.unref();
    if (result !== undefined) pending?.resolve(result);
    else if (error !== undefined) pending?.reject(errorOf(error));
    this.#give();
  }

  #died(thread: Thread, why: string): void {
    this.#threads.delete(thread);
    for (const pending of thread.pending.values()) {
      pending.reject(
        new AfterimageError(`a thread that reads layers died: ${why}`, { code: 'thread-died', kind: 'internal' }),
      );
    }
    thread.pending.clear();
    this.#give();
  }
}

/** The process's. */
export const chunkThreads = new ChunkThreads();

/** For a command that is going to read much of a store: threads take a tenth of a second to be there. */
export function startThreadsFor({ lend }: Pick<ObjectStore, 'lend'>): void {
  if (lend !== undefined) chunkThreads.start();
}
