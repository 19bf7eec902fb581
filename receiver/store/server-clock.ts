/**
 * What a server's answers say of its clock (the header `Date`, whole seconds).
 */
import type { Clock } from '../../shared/clock.js';

export class ServerClock {
  readonly #clock: Clock;
  /** How far it is ahead of ours; null until there was an answer. */
  aheadMs: number | null = null;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  saw(date: string | undefined): void {
    const serverMs = Date.parse(date ?? '');
    if (Number.isNaN(serverMs)) return;
    const aheadMs = serverMs - this.#clock.nowMs();
    // The second has begun at most 999 ms ago.
    this.aheadMs = aheadMs < 0 ? Math.min(0, aheadMs + 999) : aheadMs;
  }
}
