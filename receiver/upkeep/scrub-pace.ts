/**
 * Holds a scrub to so many bytes per second: a token bucket. A caller waits while the bucket is in debt, then takes all it needs at once and may
 * leave a debt, so the rate over time is exact whatever the sizes of the reads. Owns numbers only.
 */
import type { Clock } from '../../shared/clock.js';
import { SCRUB_BURST_MS } from '../../shared/limits-scrub.js';
import { cancelled } from '../volume/plan-point.js';

export type Pace = (bytes: number) => Promise<void>;

/** `bytesPerSecond` null: as fast as the store is. Rejects (kind `cancelled`) when the signal is aborted. */
export function paceOf(bytesPerSecond: number | null, clock: Clock, signal: AbortSignal): Pace {
  let bytes = 0;
  let filledAtMs = clock.monotonicMs();
  return async (wanted) => {
    for (;;) {
      if (signal.aborted) throw cancelled('the scrub', 'It goes on where it was when it is started again.');
      if (bytesPerSecond === null) return;
      const nowMs = clock.monotonicMs();
      const burst = (bytesPerSecond * SCRUB_BURST_MS) / 1000;
      bytes = Math.min(burst, bytes + (bytesPerSecond * (nowMs - filledAtMs)) / 1000);
      filledAtMs = nowMs;
      if (bytes >= 0) {
        bytes -= wanted;
        return;
      }
      await clock.sleep(Math.ceil((-bytes * 1000) / bytesPerSecond), signal);
    }
  };
}
