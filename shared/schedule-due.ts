/**
 * When the next point that holds applications back is due, of a machine or of a group of machines. Pure: times come in, times go out.
 *
 * A point whose time passed while none could be made (no connection, agent down) is due at once, and only one however many times passed. After
 * failures in a row the distance doubles, so that applications aren't held back again and again for nothing.
 */
import { APPLICATION_BACKOFF_FACTOR_MAX, APPLICATION_BACKOFF_MAX_MS } from './limits-quiesce.js';
import { nextTimeMs, type Schedule } from './schedule.js';

export interface ScheduleHistory {
  /** When it was tried last, whatever came of it; null: never. */
  readonly lastTryAtMs: number | null;
  readonly failuresInARow: number;
}

export interface Due {
  readonly atMs: number;
  /** In words, for status and log. */
  readonly reason: string;
}

/** `sinceMs`: since when the schedule holds; what lies before it isn't owed. `jitter`: 0 ≤ x < 1, drawn once per try. */
export function nextDue(
  schedule: Schedule,
  history: ScheduleHistory,
  sinceMs: number,
  jitterMs: number,
  jitter: number,
): Due {
  const fromMs = history.lastTryAtMs ?? sinceMs;
  const first = nextTimeMs(schedule, fromMs);
  const failures = history.failuresInARow;
  if (failures < 2) {
    // The very first of a machine needn't wait for a whole interval.
    const atMs = schedule.by === 'interval' && history.lastTryAtMs === null ? sinceMs : first;
    return { atMs: atMs + jitter * jitterMs, reason: 'by schedule' };
  }
  const waitMs = backoffMs(first - fromMs, failures);
  const atMs = nextTimeMs(schedule, fromMs + waitMs - 1);
  return {
    atMs: Math.max(first, schedule.by === 'interval' ? fromMs + waitMs : atMs) + jitter * jitterMs,
    reason: `later than scheduled: it failed ${failures} times in a row`,
  };
}

/** The first failure changes nothing; each further one doubles the distance. */
export function backoffMs(distanceMs: number, failuresInARow: number): number {
  const factor = Math.min(2 ** Math.max(0, failuresInARow - 1), APPLICATION_BACKOFF_FACTOR_MAX);
  return Math.max(distanceMs, Math.min(distanceMs * factor, APPLICATION_BACKOFF_MAX_MS));
}
