/**
 * A process of the simulation. Everything that it waits for comes through `deliver`: killed, it hears nothing any more and so never continues;
 * paused, it hears all of it when it goes on, while the world has moved on without it.
 */
import { letManyWait, type Clock } from '../../shared/clock.js';
import type { Scheduler } from './scheduler.js';

export class ProcessGone extends Error {
  constructor(name: string) {
    super(`process ${name} is gone`);
  }
}

/** Wall time at the beginning of each world. */
export const EPOCH_MS = Date.UTC(2026, 0, 1);

export class SimProcess {
  readonly #scheduler: Scheduler;
  readonly #dying: (() => void)[] = [];
  #backlog: (() => void)[] = [];
  #alive = true;
  #paused = false;
  /** Since its start, or since it went on. */
  runningSinceMs: number;
  /** What happens at one of the next things that this process does. */
  #trap: { steps: number; readonly spring: () => void } | null = null;
  /** How far this host's wall clock is off. */
  wallOffsetMs = 0;

  constructor(
    scheduler: Scheduler,
    readonly name: string,
  ) {
    this.#scheduler = scheduler;
    this.runningSinceMs = scheduler.nowMs;
  }

  get isAlive(): boolean {
    return this.#alive;
  }

  get isPaused(): boolean {
    return this.#paused;
  }

  /** Takes part in the world: others can hear from it. */
  get isRunning(): boolean {
    return this.#alive && !this.#paused;
  }

  readonly clock: Clock = {
    nowMs: () => Math.floor(EPOCH_MS + this.#scheduler.nowMs + this.wallOffsetMs),
    monotonicMs: () => this.#scheduler.nowMs,
    sleep: (ms, signal) => this.#sleep(ms, signal),
  };

  /** For what happens without waiting: a process that is gone does nothing. */
  mustLive(): void {
    if (!this.#alive) throw new ProcessGone(this.name);
  }

  /** Hands something in: now, when the process goes on, or never. */
  deliver(run: () => void): void {
    if (!this.#alive) return;
    if (this.#paused || this.#backlog.length > 0) this.#backlog.push(run);
    else run();
  }

  /** Arms a trap: the n-th thing that the process does from now on (a request, a message, a call) is where it dies or stalls, before it is done. */
  trap(steps: number, spring: () => void): void {
    this.#trap = { steps, spring };
  }

  /** The process does something that the world sees: now, when it goes on, or never. */
  act(run: () => void): void {
    if (this.#alive && this.#trap !== null && --this.#trap.steps <= 0) {
      const { spring } = this.#trap;
      this.#trap = null;
      spring();
    }
    this.deliver(run);
  }

  /** Does something that takes its time; resolves if the process lives to see it. */
  after(delayMs: number, what: string): Promise<void> {
    return new Promise((resolve) => {
      this.act(() => {
        this.#scheduler.after(delayMs, `${this.name} ${what}`, () => this.deliver(resolve));
      });
    });
  }

  onDeath(run: () => void): void {
    this.#dying.push(run);
  }

  kill(): void {
    if (!this.#alive) return;
    this.#alive = false;
    this.#backlog = [];
    for (const run of this.#dying) run();
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.runningSinceMs = this.#scheduler.nowMs;
    this.#catchUp();
  }

  /** What waited comes in its order, each in its own turn, as in an event loop. */
  #catchUp(): void {
    if (this.#paused || this.#backlog.length === 0) return;
    this.#scheduler.after(0, `${this.name} wakes`, () => {
      if (this.#paused) return;
      this.#backlog.shift()?.();
      this.#catchUp();
    });
  }

  #sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (!this.#alive) return;
      if (signal?.aborted) {
        resolve();
        return;
      }
      if (signal !== undefined) letManyWait(signal);
      const onAbort = (): void => {
        timer.cancel();
        resolve();
      };
      const timer = this.#scheduler.after(ms, `${this.name} timer`, () =>
        this.deliver(() => {
          signal?.removeEventListener('abort', onAbort);
          resolve();
        }),
      );
      signal?.addEventListener('abort', onAbort, { once: true });
    });
  }
}
