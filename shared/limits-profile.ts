/**
 * Limits of `afterimage-agent profile`. Each with its reason.
 */
import { GIB, MIB } from './units.js';

export const PROFILE_FOR_MS = 10 * 60_000;
/** A week has all that a business does again and again. */
export const PROFILE_FOR_MAX_MS = 7 * 24 * 3_600_000;
export const PROFILE_EVERY_MS = 5_000;
/** A take costs some milliseconds per TiB. */
export const PROFILE_EVERY_MIN_MS = 1_000;
/** Beyond it, the shortest intervals would not be seen. */
export const PROFILE_EVERY_MAX_MS = 60_000;
/** Times over which changed blocks are counted once: what a point of that interval would hold. */
export const PROFILE_WINDOWS_MS = [5_000, 60_000, 15 * 60_000, 3_600_000] as const;
/** Changed blocks that are read of each sample to see how far they can be compressed: a chunk's worth. */
export const PROFILE_SAMPLED_BLOCKS = 32;
/** Unit in which hot places are told apart: 4 MiB of counters per TiB. */
export const PROFILE_REGION_BYTES = 1 * MIB;
/** Without change tracking a disk is read from end to end for each sample and its hashes are kept in memory: 128 MiB for this much. */
export const PROFILE_SCAN_BYTES_MAX = 64 * GIB;
/** Samples whose numbers are kept for chart and JSON: a week of every minute. */
export const PROFILE_SAMPLES_MAX = 200_000;
/** Room for what the measurement did not see: growth, retries, other hours. */
export const PROFILE_HEADROOM = 1.25;
