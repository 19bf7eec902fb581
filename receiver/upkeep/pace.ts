/**
 * Keeps upkeep below a rate, for all machines together: who takes bytes waits until they are due. Nothing is saved up while nobody works.
 */
import type { Clock } from '../../shared/clock.js';

export class Pace {
  readonly #clock: Clock;
  readonly #bytesPerSecond: number;
  readonly #signal: AbortSignal | undefined;
  #dueMs = 0;

  constructor(clock: Clock, bytesPerSecond: number, signal?: AbortSignal) {
    this.#clock = clock;
    this.#bytesPerSecond = bytesPerSecond;
    this.#signal = signal;
  }

  async take(bytes: number): Promise<void> {
    const nowMs = this.#clock.monotonicMs();
    const waitMs = this.#dueMs - nowMs;
    this.#dueMs = Math.max(this.#dueMs, nowMs) + (bytes / this.#bytesPerSecond) * 1000;
    if (waitMs > 0) await this.#clock.sleep(waitMs, this.#signal);
  }
}

/** For tests and dry runs. */
export const unpaced = (clock: Clock): Pace => new Pace(clock, Infinity);
