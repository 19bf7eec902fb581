/**
 * A limit with a schedule in local time: what is in force when. Pure.
 */

const MINUTES_PER_DAY = 24 * 60;
const DAYS_PER_WEEK = 7;

/** A moment as a schedule sees it. */
export interface LocalTime {
  /** 0 = Sunday. */
  readonly day: number;
  readonly minute: number;
}

/** In force on these days from `from` to `to` (minutes of the day); over midnight when `to` is not after `from`. */
export interface TimedRule {
  readonly days: readonly number[];
  readonly from: number;
  readonly to: number;
  /** Per second; null: no limit. */
  readonly limit: number | null;
}

export interface TimedLimit {
  /** Outside the schedule; absent: no limit. */
  readonly limit?: number | undefined;
  /** The first that applies counts. */
  readonly schedule: readonly TimedRule[];
}

export function localTimeOf(wallMs: number): LocalTime {
  const date = new Date(wallMs);
  return { day: date.getDay(), minute: date.getHours() * 60 + date.getMinutes() };
}

/** A rule over midnight belongs to the day on which it begins. */
function applies({ days, from, to }: TimedRule, { day, minute }: LocalTime): boolean {
  if (from < to) return days.includes(day) && minute >= from && minute < to;
  const yesterday = (day + DAYS_PER_WEEK - 1) % DAYS_PER_WEEK;
  return (days.includes(day) && minute >= from) || (days.includes(yesterday) && minute < to % MINUTES_PER_DAY);
}

/** What is in force, per second; null for no limit. */
export function limitAt(timed: TimedLimit, at: LocalTime): number | null {
  const rule = timed.schedule.find((r) => applies(r, at));
  return rule === undefined ? (timed.limit ?? null) : rule.limit;
}
