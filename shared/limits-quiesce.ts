/**
 * Limits of quiescing applications, each with its reason. The freeze itself has its own in limits.ts.
 */
import { KIB } from './units.js';

/** From the first application that is touched until all run freely again: a hook that holds an application back may not do so for longer. */
export const QUIESCE_DEADLINE_MS = 60_000;
export const QUIESCE_DEADLINE_MAX_MS = 15 * 60_000;
/** One call of one hook, unless the configuration says otherwise: most do one statement in a database. */
export const QUIESCE_HOOK_TIMEOUT_MS = 30_000;
/** Hooks and applications of one machine: their results stand in each application-consistent point. */
export const QUIESCE_HOOKS_MAX = 32;
export const QUIESCE_APPLICATIONS_MAX = 16;
/** Lines of one hook's call that are kept for log and point, and characters of each. */
export const QUIESCE_HOOK_LINES_MAX = 10;
export const QUIESCE_HOOK_LINE_CHARS_MAX = 200;
/** Text about quiescing in one point; a manifest holds the newest 64 points, history pages all of them. */
export const QUIESCE_RECORD_BYTES_MAX = 4 * KIB;
/** An operator's name for a point. */
export const POINT_LABEL_CHARS_MAX = 60;
/** Points that were asked for and not made yet; each may take as long as a cycle. More is a script that went wild, and whoever asks waits for nothing. */
export const POINT_REQUESTS_MAX = 16;
/** Start of the process that quiesces: a small process, but the source may be busy. Nothing is held back yet. */
export const QUIESCE_START_TIMEOUT_MS = 20_000;
/** What it is asked to undo it answers within this, beyond the limits of the hooks that it runs; then it is killed and its work taken over. */
export const QUIESCE_GRACE_MS = 5_000;
/** A connection to a database on the same machine. */
export const APPLICATION_CONNECT_TIMEOUT_MS = 10_000;
/** A server ends a silent session that holds writes back after the longest freeze and this: whoever held it is gone or was stopped. */
export const APPLICATION_LOCK_MARGIN_MS = 2_000;
/** Waiting for a lock that stops writes is a pause for those that come after: a server busy with a long statement isn't waited for. */
export const APPLICATION_LOCK_WAIT_MS = 3_000;
/** InnoDB's checkpoint makes recovery shorter and nothing more: a point isn't put off for one that takes longer, nor for more than a quarter of its deadline. */
export const APPLICATION_CHECKPOINT_WAIT_MS = 15_000;
/** How often a database is asked whether a save that it does in the background is done. */
export const APPLICATION_POLL_MS = 100;
/** Scheduled application-consistent points that failed in a row: an alert is raised. Two may be chance (a long statement, a backup). */
export const APPLICATION_FAILURES_ALERT = 3;
/** After failures in a row the distance to the next try doubles, up to this many times the scheduled one, and no further than a day. */
export const APPLICATION_BACKOFF_FACTOR_MAX = 16;
export const APPLICATION_BACKOFF_MAX_MS = 24 * 3_600_000;
