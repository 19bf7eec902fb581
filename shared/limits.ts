/**
 * Every limit of the system, in one place, with its reason. Relations between limits are checked by `limits.test.ts`.
 */
import { KIB, MIB } from './units.js';

/** Smallest unit of tracking, hashing and indexing; the page size of the filesystems that we protect. */
export const BLOCK_BYTES_MIN = 4 * KIB;
/** Largest block: beyond this a single changed sector would cost too much traffic. */
export const BLOCK_BYTES_MAX = 64 * KIB;
/** Blocks per disk: bitmaps are one bit per block in kernel memory, 64 MiB at this bound; a block number must fit 31 bits. */
export const BLOCKS_PER_DISK_MAX = 2 ** 29;
/** Plain bytes of one chunk: below this the per-chunk cost shows, above it the event loop stalls (measured). */
export const CHUNK_PLAIN_BYTES_MAX = 256 * KIB;
/** One chunk as sent: plain bytes that don't compress, plus header, extents (one per block) and hashes. */
export const CHUNK_FRAME_BYTES_MAX = CHUNK_PLAIN_BYTES_MAX + 4 * KIB;
/** Unit of resume, of base layers and of restore. */
export const SEGMENT_BYTES = 64 * MIB;
/** A layer rolls over to the next part at this many stored bytes, so that an index stays small in memory. */
export const LAYER_STORED_BYTES_MAX = 256 * MIB;
/** ... or at this many blocks (index entry and hash cost 24 bytes in memory). */
export const LAYER_BLOCKS_MAX = 2 ** 18;
/** Disks of one machine; Site Recovery allows 64 as well. */
export const DISKS_PER_MACHINE_MAX = 64;

/** Bytes that the agent may have sent beyond the receiver's `received` mark; granted by the receiver. */
export const WINDOW_BYTES = 16 * MIB;
/** Bytes queued inside a WebSocket before the sender waits; TLS and the kernel hold about this much anyway. */
export const SOCKET_BUFFERED_BYTES_MAX = 4 * MIB;
/** Control messages: hashes of one segment are the largest (128 KiB). */
export const CONTROL_BYTES_MAX = 1 * MIB;
/** Bytes that the receiver holds in memory per session before it stops reading the socket. */
export const INGEST_QUEUE_BYTES_MAX = 16 * MIB;

export const HEARTBEAT_INTERVAL_MS = 5_000;
/** Three missed heartbeats: the peer is dead. */
export const HEARTBEAT_TIMEOUT_MS = 15_000;
/** A new connection for a machine that is still connected makes the receiver probe the old one for this long. */
export const TAKEOVER_PROBE_MS = 2_000;
/** TCP + TLS + upgrade + welcome. */
export const CONNECT_TIMEOUT_MS = 20_000;
export const RECONNECT_BACKOFF_MIN_MS = 500;
export const RECONNECT_BACKOFF_MAX_MS = 60_000;
/** After a refusal that only an operator can resolve: keep asking, seldom. */
export const REFUSED_RETRY_MS = 60_000;
/** A commit is a few fsyncs; a store that needs longer than this is reported as an error. */
export const COMMIT_TIMEOUT_MS = 120_000;

/** Default distance between crash-consistent points. */
export const POINT_INTERVAL_MS = 5_000;
/** Window of a cut: at most this many bytes are read into memory and kept until the cut holds. */
export const CUT_WINDOW_BYTES_MAX = 8 * MIB;
/** More changed blocks than this are sent segment by segment before the cut (1 GiB at 4 KiB), so that memory stays bounded. */
export const BULK_BLOCKS_MIN = 2 ** 18;
/** ... and a later pass of the same cycle may be this large: one that reads again what completions that went unseen may concern. */
export const STREAM_BLOCKS_MAX = 2 ** 20;
/** Time for tries of a cut before the fallback (freeze, or skip with `cut-not-reached`). */
export const CUT_DEADLINE_MS = 2_000;
/** Filesystem frozen: hard limit, kept by the thaw guard even when the agent is dead. */
export const FREEZE_DEADLINE_MS = 2_000;
/** Blocks claimed clean that are re-hashed each cycle. */
export const CLEAN_SAMPLE_BLOCKS = 16;
/** A write that has landed is complete, and marked, a moment later (15 ms measured on a starved machine); a sample that differs for longer is a miss. */
export const CLEAN_SAMPLE_MARK_MS = 1_000;
/** Clean-sample and dirty runs are joined over gaps of at most this, into reads of at most READ_BYTES_MAX. */
export const READ_GAP_BYTES_MAX = 64 * KIB;
export const READ_BYTES_MAX = 1 * MIB;
/** Reads in flight per disk (measured best at 4 with 256 KiB to 1 MiB). */
export const READS_IN_FLIGHT = 4;
/** take() waits for stragglers (programs run for < 1 µs; preemption can hold one for a time slice). */
export const TAKE_STRAGGLER_MS = 100;
/** Journal of the hash store: applied and truncated beyond this. */
export const JOURNAL_BYTES_MAX = 32 * MIB;

/** Points kept inline in a manifest before they are sealed into a history page. */
export const MANIFEST_TAIL_POINTS_MAX = 64;
export const MANIFEST_BYTES_MAX = 8 * MIB;
/** Life of an enrolment token unless told otherwise. */
export const TOKEN_TTL_MS = 60 * 60 * 1000;
/** Free bytes that the receiver leaves on the store's filesystem: it must still be able to commit and to log. */
export const STORE_FREE_BYTES_MIN = 64 * MIB;
/** A store's unfinished temporary files are removed when untouched for this long. */
export const TEMP_MAX_AGE_MS = 60 * 60 * 1000;
/** Restore: segments or layers worked on at once. */
export const RESTORE_WORKERS = 4;
/** Largest disk that is accepted (blocks × largest block). */
export const DISK_BYTES_MAX = BLOCKS_PER_DISK_MAX * BLOCK_BYTES_MAX;
/** Disks up to this size are tracked at 4 KiB. */
export const FINE_DISK_BYTES_MAX = BLOCKS_PER_DISK_MAX * BLOCK_BYTES_MIN;
/** Decoded layer indexes kept in memory by a reader. */
export const INDEX_CACHE_BYTES_MAX = 64 * MIB;
/** Smallest disk: nothing smaller holds a filesystem worth protecting. */
export const DISK_BYTES_MIN = 1 * MIB;
/** The receiver writes a layer in batches of this size: fewer system calls, small enough to stay in cache. */
export const WRITE_BATCH_BYTES = 1 * MIB;
/** Segments that the receiver makes durable at once while it takes in the next (an fsync each). */
export const SEGMENTS_FINISHING_MAX = 2;
/** The receiver acknowledges what it has taken in at least this often (bytes). */
export const ACK_BYTES = 1 * MIB;
/** One read for a layer's footer and, for the layer of an ordinary cycle, its whole index too. */
export const LAYER_TAIL_BYTES = 64 * KIB;
/** An index at LAYER_BLOCKS_MAX is about 16 MiB in the worst case (every block an entry that was split once); a longer one is corrupt. */
export const LAYER_INDEX_BYTES_MAX = 32 * MIB;
/** A list of layers: about 180 bytes for each segment of the largest disk. */
export const LAYER_LIST_BYTES_MAX = 128 * MIB;
/** Indexes of delta layers loaded ahead while a read plan is made: hides the store's latency, bounded as each may be large. */
export const INDEX_PREFETCH = 4;
/** A restore makes its target durable and records what is done after this many bytes or this long; syncing more often halves its speed. */
export const RESTORE_SYNC_BYTES = 256 * MIB;
export const RESTORE_SYNC_INTERVAL_MS = 2_000;
/** One write to a restore's target. */
export const RESTORE_WRITE_BYTES_MAX = 1 * MIB;
/** One call that zeroes a range of a device: short enough that a cancel is heard. */
export const ZERO_CALL_BYTES_MAX = 64 * MIB;
/** A target device is taken for empty when its first and last bytes and so many samples between are zero. */
export const TARGET_PROBE_BYTES = 1 * MIB;
export const TARGET_PROBE_SAMPLES = 64;
/** Progress of long work is reported at most this often. */
export const PROGRESS_INTERVAL_MS = 200;
/** The journal of a restore: one short line per unit of work; more is not ours. */
export const RESTORE_JOURNAL_BYTES_MAX = 128 * MIB;
/** One WebSocket message: control messages are the larger kind (a chunk frame with its header is a quarter of it). */
export const MESSAGE_BYTES_MAX = CONTROL_BYTES_MAX;
/** A peer that doesn't answer a close is cut off after this; also how long a refused peer may linger. */
export const CLOSE_TIMEOUT_MS = 2_000;
/** Connections at the session port, refused and half-open ones included: each costs a socket and a TLS state (about 100 KiB). */
export const SESSION_CONNECTIONS_MAX = 2_000;
/** Body of an enrolment: a secret, a certificate request (about 500 bytes) and two short texts. */
export const ENROLL_BODY_BYTES_MAX = 16 * KIB;
/** Refused enrolments per address and window before it has to wait; an operator types at most a few. */
export const ENROLL_FAILURES_MAX = 10;
export const ENROLL_FAILURE_WINDOW_MS = 60_000;
/** Addresses whose refused enrolments are counted; the oldest is forgotten beyond this. */
export const ENROLL_ADDRESSES_MAX = 1_000;
/** Life of the receiver's CA and of what it issues. Not the guard: each connection is checked against the machine's identity object. */
export const CA_LIFETIME_MS = 20 * 365 * 24 * 60 * 60 * 1000;
/** Certificates begin this long before they are issued: clocks of source and receiver differ. */
export const CERTIFICATE_BACKDATE_MS = 24 * 60 * 60 * 1000;
/** An identity object or a token file: a few hundred bytes. */
export const IDENTITY_BYTES_MAX = 64 * KIB;
/** A configuration file; more is not one. */
export const CONFIG_BYTES_MAX = 1 * MIB;
/** The throttle looks at its schedule at least this often while it waits. */
export const THROTTLE_STEP_MS = 1_000;
/** Time whose worth of bytes the throttle lets pass at once after a pause: smooth for the link, few wake-ups. */
export const THROTTLE_BURST_MS = 250;
/** Body of a request at the agent's control socket. */
export const CONTROL_REQUEST_BYTES_MAX = 64 * KIB;
/** Segments that the agent has sent and not yet seen staged: keeps the receiver's fsyncs off the critical path (128 KiB of hashes each). */
export const SWEEP_SEGMENTS_IN_FLIGHT = 3;
/** Streaming passes of one cycle before it is given up as not converging. */
export const STREAM_PASSES_MAX = 16;
/** An idle machine still gets a point this often, so that operators see it alive. */
export const IDLE_POINT_INTERVAL_MS = 5 * 60 * 1000;
/** Message buffers between compression and socket: 16 chunks are 4 MiB. */
export const MESSAGE_BUFFERS = 16;
/** Chunks that are compressed on other threads while the next is gathered: compression is more than half of what sending costs (measured). */
export const COMPRESSIONS_IN_FLIGHT = 2;
/** ... if they hold at least this much; below, the hop to the other thread and back costs more than it spares. */
export const COMPRESS_BESIDE_BYTES_MIN = 64 * KIB;
/** Flushing filesystems before a freeze pauses nobody, but a disk that needs longer than this would be flushing inside the freeze as well. */
export const PRESYNC_TIMEOUT_MS = 60_000;
/** Start of the thaw guard: a small process, but the source may be busy. Nothing is frozen yet. */
export const GUARD_START_TIMEOUT_MS = 20_000;
/** A guard that doesn't answer a thaw within this is killed, and the agent thaws. */
export const GUARD_GRACE_MS = 500;
/** Files whose time of change is younger than this may change again within the same tick of the kernel's clock (4 ms at 250 Hz) unseen. */
export const SCAN_QUIET_MS = 20;
/** Reads of a cut's window that are made one after the other without leaving the thread: below this the hop to the pool costs more. */
export const READS_SYNC_MAX = 8;
/** One record of the hash store's journal: a cycle of twice BULK_BLOCKS_MIN at 12 bytes per block, plus a digest for each segment touched. */
export const HASH_RECORD_BYTES_MAX = 16 * MIB;
/** Scattered hashes are read and written together over gaps of at most this: a page costs about what a system call does (measured). */
export const HASH_GAP_BYTES = 4 * KIB;
/** ... in runs of at most this: the hashes of a segment at the smallest block. */
export const HASH_READ_BYTES_MAX = (SEGMENT_BYTES / BLOCK_BYTES_MIN) * 8;
/** Work of the hash store lets other events in after this long. */
export const HASH_SLICE_MS = 5;
/** Scattered hashes that are read or written between two looks at the clock: 2 to 4 ms at most. */
export const HASH_BATCH_BLOCKS = 1024;
/** A checkpoint of the hash store: 9 bytes per segment of the largest disk, and a header. */
export const HASH_CHECKPOINT_BYTES_MAX = 16 * MIB;
/** Passes just before a freeze until what is left fits into the window of a cut; else nothing is frozen. */
export const CATCH_UP_PASSES_MAX = 8;
/** Tries of a cut while filesystems are frozen: one is enough but for unseen completions that have to be read again. */
export const FROZEN_TRIES_MS = 300;
/** A running session's identity is looked up again this often: so long may a revoked agent go on (a few small requests to the store each time). */
export const IDENTITY_RECHECK_MS = 30_000;
/** One step of a machine's recovery state: the running job and the last ended ones, with the last lines of their output. */
export const RECOVERY_BYTES_MAX = 8 * MIB;
/** Ended jobs kept in a recovery object; each is also an object of its own. */
export const RECOVERY_JOBS_MAX = 10;
