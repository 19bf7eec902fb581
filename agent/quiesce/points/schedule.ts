/**
 * When the next application-consistent point is due. Pure: times come in, times go out.
 *
 * A point whose time passed while none could be made (no connection, agent down) is due at once, and only one however many times passed. After
 * failures in a row the distance doubles, so that applications aren't held back again and again for nothing.
 */
import { Cron } from 'croner';
import { APPLICATION_BACKOFF_FACTOR_MAX, APPLICATION_BACKOFF_MAX_MS } from '../../../shared/limits-quiesce.js';

export type Schedule =
  | { readonly by: 'interval'; readonly everyMs: number }
  /** Five fields, in the local time of this machine. */
  | { readonly by: 'cron'; readonly expression: string };

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

const CRON_MODE = { mode: '5-part', paused: true } as const;

export function isCronExpression(text: string): boolean {
  try {
    // The library also takes a date, which would come only once.
    return text.trim().split(/\s+/).length === 5 && new Cron(text, CRON_MODE).nextRun() !== null;
  } catch {
    return false;
  }
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
  const first = after(schedule, fromMs);
  const failures = history.failuresInARow;
  if (failures < 2) {
    // The very first of a machine needn't wait for a whole interval.
    const atMs = schedule.by === 'interval' && history.lastTryAtMs === null ? sinceMs : first;
    return { atMs: atMs + jitter * jitterMs, reason: 'by schedule' };
  }
  const waitMs = backoffMs(first - fromMs, failures);
  const atMs = after(schedule, fromMs + waitMs - 1);
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

/** The first time of the schedule after this one. */
function after(schedule: Schedule, ms: number): number {
  if (schedule.by === 'interval') return ms + schedule.everyMs;
  const next = new Cron(schedule.expression, CRON_MODE).nextRun(new Date(ms));
  // A date that never comes again (30 February) was refused with the configuration.
  return next === null ? Infinity : next.getTime();
}
