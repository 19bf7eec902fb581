/** A clock that stands still until it is moved. Both times move alike unless `jump` moves the wall's alone. */
import type { Clock } from '../../shared/clock.js';

interface Sleeper {
  readonly atMs: number;
  readonly wake: () => void;
}

/** Lets everything that is ready to go on do so: a few turns of the event loop, as what waits for another needs one each. */
const settle = async (): Promise<void> => {
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
};

export class ManualClock implements Clock {
  #monotonicMs = 0;
  #wallMs: number;
  #sleepers: Sleeper[] = [];

  constructor(wallMs = Date.parse('2026-03-02T12:00:00Z')) {
    this.#wallMs = wallMs;
  }

  nowMs = (): number => this.#wallMs;
  monotonicMs = (): number => this.#monotonicMs;

  sleep = (ms: number, signal?: AbortSignal): Promise<void> =>
    new Promise((resolve) => {
      if (signal?.aborted === true) {
        resolve();
        return;
      }
      const onAbort = (): void => {
        this.#sleepers = this.#sleepers.filter((s) => s !== sleeper);
        resolve();
      };
      const wake = (): void => {
        signal?.removeEventListener('abort', onAbort);
        resolve();
      };
      const sleeper = { atMs: this.#monotonicMs + ms, wake };
      this.#sleepers.push(sleeper);
      signal?.addEventListener('abort', onAbort, { once: true });
    });

  jump(ms: number): void {
    this.#wallMs += ms;
  }

  /** Time passes; who sleeps is woken in order, each before the clock goes on. */
  async pass(ms: number): Promise<void> {
    const endMs = this.#monotonicMs + ms;
    await settle();
    for (;;) {
      const next = this.#sleepers.filter((s) => s.atMs <= endMs).sort((a, b) => a.atMs - b.atMs)[0];
      if (next === undefined) break;
      this.#to(next.atMs);
      this.#sleepers = this.#sleepers.filter((s) => s !== next);
      next.wake();
      await settle();
    }
    this.#to(endMs);
  }

  #to(monotonicMs: number): void {
    const passed = Math.max(0, monotonicMs - this.#monotonicMs);
    this.#monotonicMs += passed;
    this.#wallMs += passed;
  }
}
