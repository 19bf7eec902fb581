/**
 * How far long work is: bytes, rate, time left. Counts what is finished; a resumed start counts as done but not as fast.
 */
import type { Clock } from '../../shared/clock.js';
import { PROGRESS_INTERVAL_MS } from '../../shared/limits.js';

export type Phase = 'plan' | 'restore' | 'read back' | 'verify' | 'scrub';

export interface ProgressReport {
  readonly phase: Phase;
  readonly bytesDone: number;
  readonly bytesTotal: number;
  /** Of this run; 0 until known. */
  readonly bytesPerSecond: number;
  readonly timeLeftMs: number;
}

export type OnProgress = (report: ProgressReport) => void;

/** Weight of the newest interval in the rate: follows a change within a few seconds without flicker. */
const SMOOTHING = 0.1;

export class Progress {
  readonly #phase: Phase;
  readonly #total: number;
  readonly #clock: Clock;
  readonly #report: OnProgress | undefined;
  #done: number;
  #reportedDone: number;
  #reportedAtMs: number;
  #rate = 0;

  constructor(phase: Phase, bytesTotal: number, bytesKept: number, clock: Clock, report: OnProgress | undefined) {
    this.#phase = phase;
    this.#total = bytesTotal;
    this.#done = bytesKept;
    this.#reportedDone = bytesKept;
    this.#clock = clock;
    this.#report = report;
    this.#reportedAtMs = clock.monotonicMs();
  }

  add(bytes: number): void {
    this.#done += bytes;
    if (this.#report !== undefined && this.#clock.monotonicMs() - this.#reportedAtMs >= PROGRESS_INTERVAL_MS)
      this.#emit();
  }

  /** Reports the end, whatever the time. */
  finish(): void {
    this.#emit();
  }

  #emit(): void {
    if (this.#report === undefined) return;
    const now = this.#clock.monotonicMs();
    const seconds = Math.max(now - this.#reportedAtMs, 1) / 1000;
    const rate = (this.#done - this.#reportedDone) / seconds;
    this.#rate = this.#rate === 0 ? rate : this.#rate + SMOOTHING * (rate - this.#rate);
    this.#reportedAtMs = now;
    this.#reportedDone = this.#done;
    const left = this.#total - this.#done;
    this.#report({
      phase: this.#phase,
      bytesDone: this.#done,
      bytesTotal: this.#total,
      bytesPerSecond: this.#rate,
      timeLeftMs: left === 0 ? 0 : (left / this.#rate) * 1000,
    });
  }
}
