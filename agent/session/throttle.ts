/**
 * Limits the bytes that leave this machine: a token bucket whose rate follows a schedule in local time. Owns numbers only.
 *
 * A caller waits while the bucket is in debt, then takes all it needs at once and may leave a debt: messages larger than the bucket
 * still pass, and the rate over time is exact.
 */
import type { Clock } from '../../shared/clock.js';
import { AfterimageError } from '../../shared/errors.js';
import { THROTTLE_BURST_MS, THROTTLE_STEP_MS } from '../../shared/limits.js';
import type { Bandwidth } from '../config.js';

const MINUTES_PER_DAY = 24 * 60;
const DAYS_PER_WEEK = 7;

/** A moment as a schedule sees it. */
export interface LocalTime {
  /** 0 = Sunday. */
  readonly day: number;
  readonly minute: number;
}

export function localTimeOf(wallMs: number): LocalTime {
  const date = new Date(wallMs);
  return { day: date.getDay(), minute: date.getHours() * 60 + date.getMinutes() };
}

type Rule = Bandwidth['schedule'][number];

/** A rule over midnight belongs to the day on which it begins. */
function applies({ days, from, to }: Rule, { day, minute }: LocalTime): boolean {
  if (from < to) return days.includes(day) && minute >= from && minute < to;
  const yesterday = (day + DAYS_PER_WEEK - 1) % DAYS_PER_WEEK;
  return (days.includes(day) && minute >= from) || (days.includes(yesterday) && minute < to % MINUTES_PER_DAY);
}

/** Bytes per second in force; null for no limit. The first rule that applies counts, else the limit outside the schedule. */
export function limitAt(bandwidth: Bandwidth, at: LocalTime): number | null {
  const rule = bandwidth.schedule.find((r) => applies(r, at));
  return rule === undefined ? (bandwidth.limit ?? null) : rule.limit;
}

/** Content of a bucket after some time: refilled, at most a burst. Negative is a debt. */
export function refilled(bytes: number, rate: number, elapsedMs: number): number {
  return Math.min((rate * THROTTLE_BURST_MS) / 1000, bytes + (rate * elapsedMs) / 1000);
}

export class Throttle {
  readonly #bandwidth: Bandwidth;
  readonly #clock: Clock;
  readonly #localTime: (wallMs: number) => LocalTime;
  #bytes = 0;
  #refilledAtMs: number;
  #last: Promise<unknown> = Promise.resolve();

  constructor(bandwidth: Bandwidth, clock: Clock, localTime: (wallMs: number) => LocalTime = localTimeOf) {
    this.#bandwidth = bandwidth;
    this.#clock = clock;
    this.#localTime = localTime;
    this.#refilledAtMs = clock.monotonicMs();
  }

  /** Bytes per second in force now; null for no limit. */
  get limit(): number | null {
    return limitAt(this.#bandwidth, this.#localTime(this.#clock.nowMs()));
  }

  /** Resolves when so many bytes may leave, in the order of the calls. Rejects (kind `cancelled`) when the signal is aborted. */
  take(bytes: number, signal?: AbortSignal): Promise<void> {
    const run = this.#last.then(() => this.#take(bytes, signal));
    this.#last = run.catch(() => undefined);
    return run;
  }

  async #take(bytes: number, signal?: AbortSignal): Promise<void> {
    for (;;) {
      if (signal?.aborted) throw new AfterimageError('sending was cancelled', { code: 'cancelled', kind: 'cancelled' });
      const rate = this.limit;
      const nowMs = this.#clock.monotonicMs();
      const elapsedMs = nowMs - this.#refilledAtMs;
      this.#refilledAtMs = nowMs;
      if (rate === null) {
        this.#bytes = 0;
        return;
      }
      this.#bytes = refilled(this.#bytes, rate, elapsedMs);
      if (this.#bytes >= 0) {
        this.#bytes -= bytes;
        return;
      }
      // Not longer than a step: the schedule may change the rate meanwhile.
      await this.#clock.sleep(Math.min(THROTTLE_STEP_MS, Math.ceil((-this.#bytes * 1000) / rate)), signal);
    }
  }
}
