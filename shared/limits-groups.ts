/**
 * Limits of replication groups, each with its reason.
 */
import { KIB, MIB } from './units.js';

/** Groups of one store: all of them stand in one object, which is read at each look at the other receivers. */
export const GROUPS_MAX = 64;
/** Machines of one group, as in Site Recovery: each of them makes all the others wait while it freezes. */
export const GROUP_MEMBERS_MIN = 2;
export const GROUP_MEMBERS_MAX = 16;
/** The object with all groups of a store: that many, with names, members and schedules. */
export const GROUPS_BYTES_MAX = MIB;
/** How an attempt at a group's point went: so many of one group are kept, and one takes no more room than this. */
export const GROUP_ATTEMPTS_KEPT = 200;
/** So many of the newest are looked at for failures in a row: the distance grows no more after five. */
export const GROUP_HISTORY_MAX = 10;
export const GROUP_ATTEMPT_BYTES_MAX = MIB / 16;
/** A member finishes its running cycle and sends what changed: nothing is held back yet, but it makes no other point while it waits for the others. */
export const GROUP_GATHER_MS = 60_000;
/** Checkpoints and `pre` hooks of all members. What hooks hold back is held for so long at most, or for less where the agent's own deadline says so. */
export const GROUP_PREPARE_MS = 60_000;
/** From the order to freeze until all have cut. Each agent's own limit (`freeze.deadline`, 10 s at most) thaws it whatever is heard or not. */
export const GROUP_FREEZE_MS = 12_000;
/** All have cut, none is frozen any more: what changed last is sent and committed. Later than this a point may still become whole. */
export const GROUP_COMMIT_MS = 10 * 60_000;
/** The control socket answers when the attempt has ended, whatever came of it. */
export const GROUP_ANSWER_TIMEOUT_MS = GROUP_GATHER_MS + GROUP_PREPARE_MS + GROUP_FREEZE_MS + GROUP_COMMIT_MS + 30_000;
/** What an agent says of its part is short; only such messages are looked at ahead of their turn. */
export const GROUP_MESSAGE_BYTES_MAX = 8 * KIB;
/** Members that are not connected here when a point is due by schedule are waited for: after a start of the receiver they are on their way. */
export const GROUP_MEMBERS_WAIT_MS = 2 * 60_000;
/** How often the schedule is looked at, and how old what is known of groups may be: one listing each time, 86 000 a month. */
export const GROUP_TICK_MS = 5_000;
export const GROUP_RECHECK_MS = 30_000;
/** Distance of a group's points by schedule. */
export const GROUP_EVERY_MIN_MS = 60_000;
export const GROUP_EVERY_MAX_MS = 7 * 24 * 3_600_000;
