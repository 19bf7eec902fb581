/**
 * Batches that were read ahead and aren't kept in the image: what is read once, from beginning to end, would only push out what is read again, and to
 * write it costs as much as to decompress it. Each is there until all of it was read, or until it is taken to be kept after all.
 *
 * Bounded by number; who wants to fetch one more waits. Those who wait hold nothing that others need.
 */
import type { Batch } from './landing.js';

export class Passing {
  readonly #max: number;
  readonly #drop: (batch: Batch) => void;
  /** Bytes of each that nobody has read, the oldest batch first. */
  readonly #unread = new Map<Batch, number>();
  readonly #waiting: (() => void)[] = [];
  #entered = 0;
  #isEnded = false;

  constructor(max: number, drop: (batch: Batch) => void) {
    this.#max = max;
    this.#drop = drop;
  }

  /** Whether somebody waits to fetch one more. */
  get isAwaited(): boolean {
    return this.#waiting.length > 0;
  }

  get oldest(): Batch | undefined {
    return this.#unread.keys().next().value;
  }

  async enter(): Promise<void> {
    if (this.#entered < this.#max || this.#isEnded) this.#entered++;
    else await new Promise<void>((go) => this.#waiting.push(go));
  }

  leave(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#entered--;
    else next();
  }

  add(batch: Batch): void {
    const bytes = batch.runs.reduce((sum, run) => sum + run.plain.length, 0);
    if (bytes === 0 || this.#isEnded) this.#end(batch);
    else this.#unread.set(batch, bytes);
  }

  /** So many bytes of it were read. Read twice before the last was read once, it goes too early, and is fetched again. */
  read(batch: Batch, bytes: number): void {
    const left = this.#unread.get(batch);
    if (left === undefined) return;
    if (left > bytes) this.#unread.set(batch, left - bytes);
    else this.#end(batch);
  }

  /** It is the caller's from now on. False: it wasn't here. */
  take(batch: Batch): boolean {
    if (!this.#unread.delete(batch)) return false;
    this.leave();
    return true;
  }

  end(): void {
    this.#isEnded = true;
    for (const batch of [...this.#unread.keys()]) this.#end(batch);
    while (this.isAwaited) this.leave();
  }

  #end(batch: Batch): void {
    this.#unread.delete(batch);
    this.#drop(batch);
    this.leave();
  }
}
