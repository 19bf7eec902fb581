/**
 * Limits what is taken per second (bytes, reads, milliseconds of a processor): a token bucket whose rate follows a schedule. Owns numbers only.
 *
 * A caller waits while the bucket is in debt, then takes all it needs at once and may leave a debt: amounts larger than the bucket
 * still pass, and the rate over time is exact. What can't wait is counted, and leaves a debt as well.
 */
import type { Clock } from '../../shared/clock.js';
import { InTurn } from '../../shared/in-turn.js';
import { AfterimageError } from '../../shared/errors.js';
import { THROTTLE_BURST_MS, THROTTLE_STEP_MS } from '../../shared/limits.js';
import { limitAt, localTimeOf, type LocalTime, type TimedLimit } from './timed-limit.js';

/** Content of a bucket after some time: refilled, at most a burst. Negative is a debt. */
export function refilled(amount: number, rate: number, elapsedMs: number): number {
  return Math.min((rate * THROTTLE_BURST_MS) / 1000, amount + (rate * elapsedMs) / 1000);
}

export interface Taking {
  /** Ends the wait; it rejects then (kind `cancelled`). */
  readonly signal?: AbortSignal | undefined;
  /** Looked at now and then: true ends the wait as well, and what is taken becomes a debt. */
  readonly isUrgent?: () => boolean;
}

export class Throttle {
  readonly #timed: TimedLimit;
  readonly #clock: Clock;
  readonly #localTime: (wallMs: number) => LocalTime;
  #amount = 0;
  #refilledAtMs: number;
  readonly #turns = new InTurn();
  #heldMs = 0;
  #forgivenMs = 0;
  #holdingSinceMs: number | null = null;

  constructor(timed: TimedLimit, clock: Clock, localTime: (wallMs: number) => LocalTime = localTimeOf) {
    this.#timed = timed;
    this.#clock = clock;
    this.#localTime = localTime;
    this.#refilledAtMs = clock.monotonicMs();
  }

  /** Per second, in force now; null for no limit. */
  get limit(): number | null {
    return limitAt(this.#timed, this.#localTime(this.#clock.nowMs()));
  }

  /** For how long callers were made to wait, all in all. */
  get heldMs(): number {
    return this.#heldMs + (this.#holdingSinceMs === null ? 0 : this.#clock.monotonicMs() - this.#holdingSinceMs);
  }

  /** How much of the debts was forgiven, in time that it would have taken to pay them. */
  get forgivenMs(): number {
    return this.#forgivenMs;
  }

  /** Somebody waits now. */
  get isHolding(): boolean {
    return this.#holdingSinceMs !== null;
  }

  /** Resolves when so much may be taken, in the order of the calls. */
  take(amount: number, taking: Taking = {}): Promise<void> {
    return this.#turns.run(() => this.#take(amount, taking));
  }

  /** Takes without waiting: who comes next pays. */
  count(amount: number): void {
    if (this.#refill() !== null) this.#amount -= amount;
  }

  /** Nobody pays for more than this later on. */
  forgive(debtMaxMs: number): void {
    const rate = this.#refill();
    if (rate === null) return;
    const least = (-rate * debtMaxMs) / 1000;
    if (this.#amount >= least) return;
    this.#forgivenMs += ((least - this.#amount) * 1000) / rate;
    this.#amount = least;
  }

  /** Brings the bucket up to now; returns the rate in force. */
  #refill(): number | null {
    const rate = this.limit;
    const nowMs = this.#clock.monotonicMs();
    const elapsedMs = nowMs - this.#refilledAtMs;
    this.#refilledAtMs = nowMs;
    this.#amount = rate === null ? 0 : refilled(this.#amount, rate, elapsedMs);
    return rate;
  }

  async #take(amount: number, { signal, isUrgent }: Taking): Promise<void> {
    try {
      for (;;) {
        if (signal?.aborted)
          throw new AfterimageError('waiting for a limit was cancelled', { code: 'cancelled', kind: 'cancelled' });
        const rate = this.#refill();
        if (rate === null) return;
        if (this.#amount >= 0 || isUrgent?.() === true) {
          this.#amount -= amount;
          return;
        }
        this.#holdingSinceMs ??= this.#clock.monotonicMs();
        // Not longer than a step: the schedule may change the rate meanwhile.
        await this.#clock.sleep(Math.min(THROTTLE_STEP_MS, Math.ceil((-this.#amount * 1000) / rate)), signal);
      }
    } finally {
      this.#heldMs = this.heldMs;
      this.#holdingSinceMs = null;
    }
  }
}
