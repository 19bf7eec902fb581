/**
 * Virtual time: one queue of events for the whole world. Time stands still while code runs; the next event begins when no promise is left to
 * continue. Events of the same instant come in an order drawn from the seed. The trace of all events has a hash: two runs of a seed must have the same.
 */
import { createHash, type Hash } from 'node:crypto';
import type { Rng } from './rng.js';

interface Event {
  readonly atMs: number;
  readonly tie: number;
  readonly what: string;
  run: (() => void) | null;
}

export interface Scheduled {
  cancel(): void;
}

/** The last events, for the report of a failure. */
const TRACE_KEPT = 400;

const isBefore = (a: Event, b: Event): boolean => a.atMs < b.atMs || (a.atMs === b.atMs && a.tie < b.tie);

/** All promises that can continue have continued when an immediate's turn has come. */
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

export class Scheduler {
  nowMs = 0;
  events = 0;
  readonly #rng: Rng;
  readonly #heap: Event[] = [];
  readonly #hash: Hash = createHash('sha256');
  readonly #trace: string[] = [];
  #order = 0;
  /** Set: each line of the trace is also handed here. */
  onTrace: ((line: string) => void) | null = null;

  constructor(rng: Rng) {
    this.#rng = rng;
  }

  /** Number of a thing that happens now: later things have higher ones, also within one instant. */
  nextOrder(): number {
    return ++this.#order;
  }

  after(delayMs: number, what: string, run: () => void): Scheduled {
    const event: Event = { atMs: this.nowMs + Math.max(0, delayMs), tie: this.#rng.unit(), what, run };
    this.#push(event);
    return { cancel: () => (event.run = null) };
  }

  /** Adds a line to the trace: what two runs of a seed must have in common. */
  note(line: string): void {
    const text = `${this.nowMs.toFixed(3)} ${line}`;
    this.#hash.update(text);
    this.#trace.push(text);
    if (this.#trace.length > 2 * TRACE_KEPT) this.#trace.splice(0, TRACE_KEPT);
    this.onTrace?.(text);
  }

  get trace(): readonly string[] {
    return this.#trace.slice(-TRACE_KEPT);
  }

  get traceHash(): string {
    return this.#hash.copy().digest('hex');
  }

  /** Runs events until the time has come, or `isDone` says so. */
  async run(untilMs: number, isDone: () => boolean = () => false): Promise<void> {
    await settled();
    for (;;) {
      if (isDone()) return;
      const next = this.#heap[0];
      if (next === undefined || next.atMs > untilMs) break;
      this.#pop();
      if (next.run === null) continue;
      this.nowMs = next.atMs;
      this.events++;
      this.note(next.what);
      next.run();
      await settled();
    }
    this.nowMs = Math.max(this.nowMs, untilMs);
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const parent = (at - 1) >>> 1;
      const above = heap[parent] as Event;
      if (!isBefore(event, above)) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = event;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop() as Event;
    if (heap.length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1] as Event, heap[child] as Event)) child++;
      if (!isBefore(heap[child] as Event, last)) break;
      heap[at] = heap[child] as Event;
      at = child;
    }
    heap[at] = last;
  }
}
