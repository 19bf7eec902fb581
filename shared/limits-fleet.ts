/**
 * Limits of several receivers on one store, and of agents that go between them; each with its reason.
 */
import { KIB } from './units.js';

/** A receiver shows the others on its store that it lives this often: 1 create, 1 delete, 1 listing and a read for each other receiver. */
export const RECEIVER_HEARTBEAT_MS = 15_000;
/** ... and counts as gone when it was silent at so many looks in a row, and for as many heartbeats: one may be late by a slow store. */
export const RECEIVER_MISSES_MAX = 3;
/** What a receiver says of itself: names, a few addresses, some figures. */
export const RECEIVER_RECORD_BYTES_MAX = 64 * KIB;
/** Addresses of one receiver, and receivers that an agent is told of. */
export const RECEIVER_ADDRESSES_MAX = 8;
export const FLEET_MAX = 64;
/** Addresses of receivers that have gone, which an agent still tries when nobody else answers. */
export const FORMER_ADDRESSES_MAX = 16;
/** An agent follows so many redirects; then the receiver that it has reached takes it, whatever the receivers think of each other. */
export const REDIRECTS_MAX = 2;
/** A receiver hands so many machines per minute to others unless told otherwise: each costs a takeover and a TLS handshake there. */
export const HANDOVERS_PER_MINUTE = 60;
/** A machine that could not get to where it belongs is left alone for this long. */
export const HANDOVER_PAUSE_MS = 10 * 60_000;
/**
 * A receiver that is back (started again, or heard again after a silence) must have shown life for so long before machines that could not reach it are
 * handed to it: less than a minute with the look that notices it. Twice as long for each further return within HANDOVER_PAUSE_MS: one that
 * dies again and again gets nothing.
 */
export const HANDOVER_BACK_MS = 30_000;
/** Machines that a receiver calls over at a time, in its sign of life: each has a failover job there, or a copy that its home is to follow. */
export const CALLS_MAX = 256;
/** An agent that was called over comes after the commit of its cycle; then whoever waits is told where to go instead. */
export const CALL_OVER_MS = 2 * 60_000;
export const CALL_OVER_POLL_MS = 100;
/** An agent that knows other receivers gives one that does not answer no longer than this. */
export const FLEET_CONNECT_TIMEOUT_MS = 5_000;
/** Old signs of life that a beat removes at most: many more than one brings, so that a backlog shrinks. */
export const RECEIVER_RECORDS_TIDIED = 20;
