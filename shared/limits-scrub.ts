/**
 * Limits of the scrub, of what it notes, and of what is asked of agents again; each with its reason.
 */
import { BULK_BLOCKS_MIN } from './limits.js';
import { KIB, MIB } from './units.js';

/** Damaged objects that one list names (about 1 KiB each); a store with more is not repaired object by object. */
export const DAMAGE_ITEMS_MAX = 1_000;
/** Runs of damaged blocks named for one object; more are joined over their gaps. */
export const DAMAGE_EXTENTS_MAX = 4_096;
/** The list of what is damaged. */
export const DAMAGE_BYTES_MAX = 64 * MIB;
/** The notes of a scrub: about 100 bytes for each small object that it remembers. */
export const SCRUB_NOTE_BYTES_MAX = 8 * MIB;
/** Small objects that a scrub remembers; the newest beyond this are read, but not remembered. */
export const SCRUB_RECORDS_MAX = 50_000;
/** Manifests that a pass of the scrub reads besides the newest: all that are kept, and some beginnings of epochs. */
export const SCRUB_MANIFESTS_MAX = 200;
/** The object that says what a store's bytes mean: a few hundred bytes. */
export const FORMAT_BYTES_MAX = 64 * KIB;
/** Time whose worth of bytes a scrub may read at once after a pause. */
export const SCRUB_BURST_MS = 1_000;
/** A scrub asks for a newer manifest after this, so that it doesn't read what was merged away long ago. */
export const SCRUB_HEAD_MS = 60_000;
/** How far a scrub is, is noted this often (one small object): what is read again after a crash. */
export const SCRUB_NOTE_INTERVAL_MS = 60 * 60 * 1000;
/** Blocks that a receiver asks an agent for once more in one order: an eighth of a cycle that would be sent segment by segment. */
export const RESEND_BLOCKS_MAX = BULK_BLOCKS_MIN / 8;
/** Runs in such an order: 10 bytes each, well within a control message. */
export const RESEND_EXTENTS_MAX = DAMAGE_EXTENTS_MAX;
/** Scrub: read at most this fast by default. An idle disk's worth of attention: 1 TiB of layers takes three days, and no guest or agent notices. */
export const SCRUB_BYTES_PER_SECOND = 4_000_000;
/** ... and each object every two weeks: bits rot over months, and each reading costs requests at a store that charges for them. */
export const SCRUB_EVERY_MS = 14 * 24 * 3_600_000;
/** Points are proven from end to end this often by default: each proof reads a whole image. */
export const PROVE_EVERY_MS = 30 * 24 * 3_600_000;
/** ... so many points each time, the newest among them. */
export const PROVEN_POINTS_PER_RUN = 2;
/** The receiver looks this often which machine's scrub is due: one or two small requests per machine. */
export const SCRUB_LOOK_MS = 5 * 60_000;
/** An agent that was asked for blocks sends them with its next point; one that makes none for so long is asked again by the next look. */
export const RESEND_ANSWER_MS = 10 * 60_000;
/** Blocks of several lost layers that the digests of points are asked to tell apart: a wrong answer once in 2^32, and more are tried as a whole. */
export const TOLD_BLOCKS_MAX = 32;
/** ... of so many blocks that were sent: 100 bytes each while it is looked for. */
export const TOLD_CANDIDATES_MAX = 1 << 20;
/** A pin that can't be read is removed when it has been there for so long: a holder renews its own every few minutes, under another name. */
export const PIN_DAMAGED_MS = 24 * 3_600_000;
/** Notes of a scrub that stay: the newest, and some for people who ask what it saw before. */
export const SCRUB_NOTES_KEPT = 8;
