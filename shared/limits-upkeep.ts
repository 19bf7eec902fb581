/**
 * Limits of upkeep: merging, bases, history pages, garbage collection; each with its reason. Relations are checked by limits.test.ts.
 */
import { IDLE_POINT_INTERVAL_MS, LAYER_STORED_BYTES_MAX } from './limits.js';
import { GIB, KIB, MIB } from './units.js';

/** Stored bytes of the layers that one merge takes in, unless two alone are larger: bounds what a kill throws away, and the time until others' turn. */
export const MERGE_INPUT_BYTES_MAX = 256 * MIB;
/** ... and how many layers: more than the points of an hour every 5 s. */
export const MERGE_LAYERS_MAX = 1024;
/** Indexes of a merge in memory; one that needs more is not done (10 million blocks of 4 KiB, 40 GiB of changes). */
export const MERGE_INDEX_BYTES_MAX = 256 * MIB;
/** Plain blocks that a merge holds to put them in order. Chunks of an hour of a machine that writes 10 MB every 5 s are a multiple of it: sorted in parts then. */
export const MERGE_SORT_BYTES = 16 * MIB;
/** A chunk that is wholly live is copied as it is from this size on; smaller ones are joined with their neighbours, which compresses better. */
export const MERGE_COPY_PLAIN_BYTES_MIN = 128 * KIB;
/** Layers of one point (the parts of a cycle, the segments of a comparison) are joined when there are more than this. */
export const MERGE_PARTS_MAX = 16;
/** ... and they are smaller than this on average: else there is nothing to gain. */
export const MERGE_PART_BYTES_MIN = LAYER_STORED_BYTES_MAX / 4;
/** Between the newest points that are thinned out and the first that isn't, new deltas come with every run: merged when the gap has closed, or so many wait. */
export const MERGE_OPEN_LAYERS_MAX = 1024;
/** ... for all disks of a machine together: their entries have to fit into a history page. */
export const OPEN_LAYERS_PER_MACHINE_MAX = 8192;
/** Points that one commit drops at most: their layers' entries move on to the next page until they are merged. */
export const DROPS_PER_COMMIT_MAX = 2048;
/** ... and the entries of layers that become free to merge by it. */
export const DROPPED_ENTRIES_MAX = 8192;
/** ... or they are more than this part of all that the disk has stored. */
export const OPEN_SHARE_MAX = 0.05;
/** Below the oldest point one merge takes in at most this: its indexes have to fit into memory. */
export const BOTTOM_INPUT_BYTES_MAX = 4 * GIB;
/** Below the oldest point a layer is merged with all younger ones once they are a quarter of it: at most 25 % superseded bytes, each byte written some 6 times. */
export const BOTTOM_RATIO = 4;
/** Below the oldest point, layers are rewritten when this part of what they hold is hidden by bases built since. */
export const BOTTOM_HIDDEN_MAX = 0.25;
/** A base is built anew at the oldest point when more than this part of it is superseded: each changed byte is written five times for it, in the long run. */
export const BASE_SUPERSEDED_MAX = 0.2;
/**
 * A segment of the newest point is built anew when a restore reads more than so many times what a fresh base has, unless the configuration says otherwise:
 * seven tenths of the speed. What 15 days of 2 % leave over a base is less.
 */
export const READ_AMPLIFICATION_MAX = 1.4;
/** ... and layers of this part of its base lie over it; but its base counts as at least so large: a segment with little in it is read quickly as it is. */
export const BASE_LIVE_BYTES_MIN = 4 * MIB;
/** Bases after the oldest point, and what is superseded below it, amount to this part of all else that a disk has stored at most: 1.3 × in all, with the rest. */
export const EXTRA_BASES_SHARE_MAX = 0.22;
/** Between two bases that both stay lie deltas of so many times the size of the later one: what bounds reads of points in between, at an eighth more storage. */
export const BASE_SPACING = 8;
/** Blocks of a segment that are looked at to tell which copies of them count: their shares are known to a few per cent. */
export const SAMPLED_BLOCKS_PER_SEGMENT = 512;
/** Indexes of bases that one run reads for that, per disk: 128 KiB each. */
export const BASES_LEARNED_MAX = 256;
/** Small layers that are worth a shortcut: two requests each are spared at every restore, for some that building it costs once. */
export const SHORTCUT_LAYERS_MIN = 32;
/** A shortcut goes when it stands for less than this: most of what it stood for was merged. */
export const SHORTCUT_COVERED_MIN = 8;
/** Layers of a point are small up to this: as much as a chunk. Larger ones are worth a request of their own. */
export const SHORTCUT_LAYER_BYTES_MAX = 256 * KIB;
/** All shortcuts of a disk together, of what it has stored otherwise. */
export const SHORTCUT_SHARE_MAX = 0.03;
/** Layers of single points that are looked at for what the deltas over a base amount to; more are sampled. */
export const DENSE_SAMPLES_MAX = 128;
/** Segments whose bases are built before the list of bases is written: 4 GiB of disk for one list. */
export const BASE_SEGMENTS_PER_STEP = 64;
/** A history page is filled up to about this: read as a whole by whoever looks for a point. */
export const PAGE_BYTES_MAX = 256 * KIB;
/** Pages below this are joined ... */
export const PAGE_SMALL_BYTES = 64 * KIB;
/** ... when so many follow each other: each entry is written a few times in its life, and the manifest's list of pages stays short. */
export const PAGE_JOIN_MIN = 8;
/** Numbers of manifests that stay besides those that begin an epoch: a reader between listing and reading, a person who looks back. */
export const MANIFESTS_KEPT = 100;
/** The boundary moves by at least so much: one small object for so many commits. */
export const BOUNDARY_STEP = 100;
/** Objects that are deleted with one call. */
export const DELETE_BATCH = 1000;
/** Steps of merging and building bases of one machine in one run; the next machine's turn comes then. */
export const STEPS_PER_RUN = 64;
/** Machines without anything new are looked at anyway so often. */
export const UPKEEP_INTERVAL_MS = 10 * 60 * 1000;
/** A receiver that was just started lets agents and guests come first. */
export const UPKEEP_START_DELAY_MS = 60 * 1000;
/** Objects stay for this long after the manifest stopped naming them: readers that pin nothing. */
export const DELETION_DELAY_MS = 60 * 60 * 1000;
/** Bytes per second that upkeep reads and writes for all machines together unless told otherwise: a tenth of a disk, or of a network of 10 Gbit/s. */
export const UPKEEP_BYTES_PER_SECOND = 100 * MIB;
/** `afterimage upkeep` waits this long for the receiver to be done; it goes on there anyway. */
export const UPKEEP_ANSWER_TIMEOUT_MS = 60 * 60 * 1000;
/** A machine whose newest manifest is younger is taken for owned by a receiver that lives: twice what an idle machine leaves between points. */
export const UPKEEP_LIVE_OWNER_MS = 2 * IDLE_POINT_INTERVAL_MS;
/** Names and reasons shown of a plan; the rest is counted. */
export const PLAN_LINES_MAX = 20;
/** Decoded history pages that upkeep keeps, in the bytes that they take in the store. */
export const PAGE_CACHE_BYTES_MAX = 16 * MIB;
/** Small layers read as a whole by a merge are kept for its second look, at most so many bytes: the chunks after the index. */
export const MERGE_READ_CACHE_BYTES = 32 * MIB;
