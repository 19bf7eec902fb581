/**
 * Limits of object stores in buckets, with their reasons (see limits.ts).
 */
import { KIB, MIB } from './units.js';

/** One part of a larger object in a bucket, and what is still written by one request: most deltas. S3 wants 5 MiB at least and 10,000 parts at most. */
export const STORE_PART_BYTES = 8 * MIB;
/** Parts of one object on their way at once, besides the one that is filled: hides the latency of a store, bounds memory to 24 MiB per writer. */
export const STORE_PARTS_IN_FLIGHT = 2;
/** A request to a store that has no answer after this, and the time for its bytes, is given up and tried again ... */
export const STORE_REQUEST_TIMEOUT_MS = 20_000;
/** ... the time for its bytes: slower than this (1 Mbit/s) no store can be used. */
export const STORE_BYTES_PER_SECOND_MIN = 128 * KIB;
/** No try of a request begins later than this after the first; callers have retries of their own, with longer pauses. */
export const STORE_RETRY_MS = 60_000;
/** ... or than this while the store asks for fewer requests: it is there, and giving up would only add to its load. */
export const STORE_THROTTLED_RETRY_MS = 300_000;
/** Opening a store gives up sooner: whoever started the program with a wrong address wants to hear of it. */
export const STORE_OPEN_RETRY_MS = 10_000;
export const STORE_BACKOFF_MIN_MS = 100;
export const STORE_BACKOFF_MAX_MS = 5_000;
/** Distance between requests to a store that throttles: doubled from the first to the second each time it does, and shrinking while it doesn't. */
export const STORE_PACE_MIN_MS = 10;
export const STORE_PACE_MAX_MS = 2_000;
/** Connections to a store's server: a restore has 4 workers with some reads each, upkeep and sessions a few. */
export const STORE_CONNECTIONS_MAX = 64;
/** A dead writer's parts are removed after this: longer than any object takes to be written, at any speed that a store can be used with. */
export const STORE_UPLOAD_MAX_AGE_MS = 24 * 60 * 60 * 1000;
/** Names in one page of a listing, or in one request for deletion (S3 gives and takes no more). */
export const STORE_PAGE_NAMES = 1_000;
/** Deletions at once where each is a request of its own. */
export const STORE_DELETES_IN_FLIGHT = 16;
/** A file with a store's credentials. */
export const CREDENTIALS_BYTES_MAX = 64 * KIB;
/** Objects that a local cache keeps: those that go to a bucket in one request. */
export const CACHED_OBJECT_BYTES_MAX = STORE_PART_BYTES;
/** Unit in which a cached copy is proven: what reading a little of it costs. */
export const CACHE_PIECE_BYTES = 64 * KIB;
/** What a receiver keeps of a bucket's newest objects unless told otherwise: hours of changes of a hundred machines, until upkeep has merged them. */
export const STORE_CACHE_BYTES = 2 * 1024 * MIB;
/** The deletion of what a store locks without telling until when (a legal hold) is asked for again after so long. */
export const LOCK_ASKED_AGAIN_MS = 3_600_000;
