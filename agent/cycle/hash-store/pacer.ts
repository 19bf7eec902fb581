/** Lets other events in when a piece of work has held the event loop for HASH_SLICE_MS. One per piece of work. */
import { setImmediate } from 'node:timers/promises';
import type { Clock } from '../../../shared/clock.js';
import { HASH_SLICE_MS } from '../../../shared/limits.js';

export class Pacer {
  readonly #clock: Clock;
  #sinceMs: number;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#sinceMs = clock.monotonicMs();
  }

  async breathe(): Promise<void> {
    if (this.#clock.monotonicMs() - this.#sinceMs < HASH_SLICE_MS) return;
    await setImmediate();
    this.#sinceMs = this.#clock.monotonicMs();
  }
}
