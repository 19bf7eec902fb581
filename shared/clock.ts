/**
 * Time, passed in. Wall time is for people and names of points; order and deadlines use monotonic time alone,
 * so a clock that is set back changes what is shown, never what is right.
 */
import { setMaxListeners } from 'node:events';

export interface Clock {
  /** Wall time, ms since 1970. May jump. */
  nowMs(): number;
  /** Monotonic time in ms, fraction allowed. */
  monotonicMs(): number;
  /** Resolves after `ms`, or earlier (without error) when the signal is aborted. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  sleep: (ms, signal) =>
    new Promise((resolve) => {
      if (signal?.aborted) {
        resolve();
        return;
      }
      const onAbort = (): void => {
        clearTimeout(timer);
        resolve();
      };
      const timer = setTimeout(() => {
        signal?.removeEventListener('abort', onAbort);
        resolve();
      }, ms);
      if (signal === undefined) return;
      letManyWait(signal);
      signal.addEventListener('abort', onAbort, { once: true });
    }),
};

/** Any number may wait for one signal, as all machines of a receiver do for its end: Node would tell people of a leak from the eleventh on. */
export const letManyWait = (signal: AbortSignal): void => setMaxListeners(0, signal);

/** Randomness that no secret depends on: spreads tries in time. 0 ≤ x < 1. */
export const systemRandom = (): number => Math.random();
