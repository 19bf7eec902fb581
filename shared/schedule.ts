/**
 * Times that come again: at an interval, or as a cron expression says. Pure: times come in, times go out; nothing here waits.
 */
import { Cron } from 'croner';

export type Schedule =
  | { readonly by: 'interval'; readonly everyMs: number }
  /** Five fields, in the local time of this machine. */
  | { readonly by: 'cron'; readonly expression: string };

const CRON_MODE = { mode: '5-part', paused: true } as const;

export function isCronExpression(text: string): boolean {
  try {
    // The library also takes a date, which would come only once.
    return text.trim().split(/\s+/).length === 5 && new Cron(text, CRON_MODE).nextRun() !== null;
  } catch {
    return false;
  }
}

/** The first time of the schedule after this one. */
export function nextTimeMs(schedule: Schedule, afterMs: number): number {
  if (schedule.by === 'interval') return afterMs + schedule.everyMs;
  const next = new Cron(schedule.expression, CRON_MODE).nextRun(new Date(afterMs));
  // A date that never comes again (30 February) was refused with the configuration.
  return next === null ? Infinity : next.getTime();
}
