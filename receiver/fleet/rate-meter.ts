/**
 * A rate from a counter that only rises: what it rose by since it was looked at last, per second. For people.
 */
import type { Clock } from '../../shared/clock.js';

export class RateMeter {
  readonly #clock: Clock;
  #before: { readonly total: number; readonly atMs: number } | null = null;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  rate(total: number): number {
    const now = { total, atMs: this.#clock.monotonicMs() };
    const before = this.#before ?? now;
    this.#before = now;
    const seconds = (now.atMs - before.atMs) / 1000;
    return seconds > 0 ? Math.max(0, Math.round((total - before.total) / seconds)) : 0;
  }
}
