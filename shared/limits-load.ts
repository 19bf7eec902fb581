/**
 * Limits of how much the agent may take of its machine. Each with its reason.
 */

/** A lower rate of reading would make a single read of a megabyte wait for more than ten seconds. */
export const IO_RATE_MIN = 100_000;
/** ... and a lower share of a processor would make the smallest cycle miss its interval. */
export const CPU_SHARE_MIN = 0.01;
/** More than any machine has: a limit that is none says so by `none`. */
export const CPU_SHARE_MAX = 64;
/** Rules of one schedule: a week of hours would be 168. */
export const SCHEDULE_RULES_MAX = 100;
/**
 * What cycles have taken beyond their limits delays the next cycle by at most this; more is forgiven and counted. Where changes themselves exceed a
 * limit, points come late by this, instead of later each time.
 */
export const LIMIT_DEBT_MAX_MS = 10_000;
