/**
 * Every limit of the system, in one place, with its reason. Relations between limits are checked by `limits.test.ts`.
 */
import { GIB, KIB, MIB } from './units.js';

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
/** A failed-over machine's agent asks this often whether it is wanted back: a failback waits for it. */
export const FAILED_OVER_RETRY_MS = 5_000;
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
/** Segments of a disk that are composed in memory together at most: more gained little (measured). */
export const COMPOSED_SEGMENTS_MAX = 4;
/** A composed restore takes an eighth of the host's memory at most, and at least one segment for each region. */
export const COMPOSED_MEMORY_PART = 8;
/** Regions of so many segments that are composed at once: while one is written, another is read. */
export const COMPOSED_REGIONS_AT_ONCE = 2;
/** Layers of such a region that are read at once: enough that no thread waits. */
export const COMPOSED_UNITS_AT_ONCE = 8;
/** Writes of such a region at once: as many as the pool has threads to wait with. */
export const COMPOSED_WRITES_AT_ONCE = 4;
/** Fewer runs in deltas are written quickly, however they stand. */
export const COMPOSED_RUNS_MIN = 2_000;
/** Runs of a layer in a region, on the average, from which on composing pays: each region decompresses a chunk of the layer, each run saves a write or two. */
export const COMPOSED_RUNS_PER_TOUCH = 4;
/** Indexes of all deltas, which a composed restore goes through once per region. */
export const COMPOSED_INDEX_BYTES_MAX = 48 * MIB;
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
/** Indexes of layers loaded ahead while a read plan is made: hides the store's latency (300 small deltas at 20 ms each: 0.4 s instead of 3 s). */
export const INDEX_PREFETCH = 32;
/** ... as long as they can't be more than this together: two of the largest. */
export const INDEX_PREFETCH_BYTES_MAX = 2 * LAYER_INDEX_BYTES_MAX;
/** A restore makes its target durable and records what is done after this many bytes or this long; syncing more often halves its speed. */
export const RESTORE_SYNC_BYTES = 256 * MIB;
export const RESTORE_SYNC_INTERVAL_MS = 2_000;
/** One write to a restore's target. */
export const RESTORE_WRITE_BYTES_MAX = 1 * MIB;
/**
 * Shorter writes to a restore's target go through the page cache, where there is one: a long history leaves runs of a block or two, and each write around
 * the cache waits for the disk, while the cache hands neighbours over together.
 */
export const DIRECT_WRITE_BYTES_MIN = 64 * KIB;
/** Of a sparse target, ranges from this on are reserved before they are written; for less it isn't worth a call. */
export const RESERVE_BYTES_MIN = 64 * KIB;
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
/**
 * Rounds of flushing before a freeze, until one takes no longer than half of what may be frozen: the freeze flushes about as much as the last, and nothing can
 * interrupt it. A disk that is written faster than that in all of them isn't frozen at all.
 */
export const PRESYNC_ROUNDS_MAX = 5;
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
/** Output kept of one task, as JSON: the tasks of all jobs in a recovery object have to fit into it. */
export const TASK_OUTPUT_BYTES_MAX = 32 * KIB;
/** Changed blocks of a running copy whose hashes its replication keeps, for all its disks: 24 to 48 MiB; beyond it they are read from the chain again. */
export const REPLICATED_HASHES_MAX = 2 ** 20;
/** Known hashes are read from the chain in one go over gaps of at most so many blocks: an index lookup costs more than the hashes between. */
export const REPLICATED_HASH_GAP_BLOCKS = 256;
/** Writes of a running copy may wait this long for a cut of all its volumes; then they go on and the point is tried again later. */
export const CUT_HOLD_DEADLINE_MS = 2_000;
/** A disk of a running copy that was compared as a whole, since the chain is damaged, is not again for so long: each time may send all of it. */
export const COMPARE_WHOLE_AGAIN_MS = 10 * 60_000;
/** A cycle of a running copy that failed is tried again after this, doubled each time up to the other. */
export const REPLICATION_RETRY_MIN_MS = 500;
export const REPLICATION_RETRY_MAX_MS = 30_000;
/** So long may the receiver that has a machine's copy take to answer another that asks whether it lives: several of its looks and a slow store. */
export const CHALLENGE_MS = 15_000;
/** Challenges of one machine that are answered at a look, the newest: more askers than that are not at it within one CHALLENGE_MS. */
export const CHALLENGES_ANSWERED_MAX = 32;
/** A receiver looks for challenges and newer recovery objects of the copies that it runs this often (two listings each). */
export const OWNERSHIP_POLL_MS = 2_000;
/** ... and the one that asks looks for the answer this often. */
export const ANSWER_POLL_MS = 500;
/** A task that meets a failing store or connection is tried again for this long before its job fails. */
export const TASK_RETRY_MS = 60_000;
export const TASK_BACKOFF_MIN_MS = 300;
export const TASK_BACKOFF_MAX_MS = 5_000;
/** Failback copies while the guest runs until a round moved no more than this: it is moved again in seconds while the guest is down. */
export const FAILBACK_REST_BYTES = 64 * MIB;
/** ... or so many rounds were made: a guest that writes faster than the link is shut down all the same. */
export const FAILBACK_ROUNDS_MAX = 8;
/** The agent of a home that follows is given a newer point at most this often. */
export const HOME_FOLLOW_POLL_MS = 2_000;
/** Plain bytes that a restoring agent has asked for and not yet written: keeps the link busy, bounds the memory of both ends. */
export const RESTORE_WINDOW_BYTES = 16 * MIB;
/** One request for blocks: small enough that several of them share the window. */
export const RESTORE_REQUEST_BYTES = 4 * MIB;
/** Segments of a disk that are asked about and written at once (their hashes: 128 KiB each). */
export const RESTORE_SEGMENTS_IN_FLIGHT = 4;
/** Blocks that no mark names, read and compared before a restore believes the marks; as for each cycle, but this is asked only once. */
export const RESTORE_SAMPLE_BLOCKS = 64;
/** Rounds of a restore until its digest must fit, and of a final one until nobody else writes to the disks. */
export const RESTORE_ROUNDS_MAX = 4;
/** Times that take() and audit() are tried until marks and the kernel's counters agree; then the disk is read from end to end. */
export const RESTORE_AUDITS_MAX = 5;
/** Cuts of a planned failover until one must find that nothing was written after it. */
export const FINAL_CUT_TRIES_MAX = 5;
/** Nothing may be written for so long after the final cut: longer than the gap between two writes of most that still runs. */
export const FINAL_CUT_QUIET_MS = 2_000;
/** Time for an operator's commands before and after a planned failover, unless the configuration says otherwise. */
export const HOOK_TIMEOUT_MS = 5 * 60 * 1000;
/** Lines of a command's output that are kept for log and steps, and characters of each. */
export const HOOK_OUTPUT_LINES_MAX = 50;
export const HOOK_LINE_CHARS_MAX = 500;
/** An agent that was told to resume its workload answers within this and its hook's time, or is taken for gone. */
export const RESUME_ANSWER_MS = 30_000;
/** Payload of one NBD request or reply: what the protocol asks every server to take, and what QEMU and libnbd send at most. */
export const NBD_PAYLOAD_BYTES_MAX = 32 * MIB;
/** Names and other texts of an NBD negotiation (the protocol's own bound). */
export const NBD_NAME_BYTES_MAX = 4 * KIB;
/** Data of one option of an NBD negotiation: a name and a few queries of metadata contexts. */
export const NBD_OPTION_BYTES_MAX = 16 * KIB;
/** Options of one NBD negotiation: clients send 4 to 8, `nbdinfo --list` a few per export. */
export const NBD_OPTIONS_MAX = 1_000;
/** From an NBD client's connection, TLS included, to its choice of an export. Idle clients are not cut off afterwards. */
export const NBD_HANDSHAKE_TIMEOUT_MS = 15_000;
/** NBD clients at once: a machine has up to 64 disks, and clients open up to 4 connections for each. */
export const NBD_CONNECTIONS_MAX = 256;
/** Requests of one NBD connection that wait for the device; a client with more in flight waits in the socket. */
export const NBD_REQUESTS_IN_FLIGHT_MAX = 128;
/** Memory for payloads and replies of one NBD connection: two of the largest requests. */
export const NBD_CONNECTION_BYTES_MAX = 2 * NBD_PAYLOAD_BYTES_MAX + 1 * MIB;
/** ... and of all connections of an NBD server. */
export const NBD_SERVER_BYTES_MAX = 256 * MIB;
/** What an NBD connection that holds nothing gets even so: clients that hoard memory slow the others down, but can't stop them. */
export const NBD_ADMITTED_BYTES = 260 * KIB;
/** An NBD client that holds memory which others wait for, and neither sends its payload nor reads its replies, is cut off after this. */
export const NBD_STALL_MS = 10_000;
/** Replies that wait for an NBD client to read them; beyond this nothing new is begun for it. */
export const NBD_REPLY_QUEUE_BYTES_MAX = 2 * MIB;
/** Replies that are gathered for one write to the socket. */
export const NBD_BATCH_BYTES = 256 * KIB;
/** Reads up to this size are answered at once from what is in memory; a larger copy would hold up other connections. */
export const NBD_SYNC_READ_BYTES_MAX = 1 * MIB;
/** Bytes that one NBD connection is answered at once before others have their turn: a few milliseconds. */
export const NBD_TURN_BYTES_MAX = 8 * MIB;
/** One read of an NBD client's socket: many small requests at once; large payloads are read straight to their place. */
export const NBD_RECEIVE_BYTES = 256 * KIB;
/** ... if at least this much of them is still to come. */
export const NBD_DIRECT_BYTES_MIN = 32 * KIB;
/** Buffers kept for the next NBD replies: fresh memory costs a page fault per 4 KiB, as much as the copy itself. */
export const NBD_POOL_BYTES_MAX = 64 * MIB;
/** Runs in one answer to BLOCK_STATUS (8 bytes each); clients ask on from its end. */
export const NBD_STATUS_RUNS_MAX = 1_024;
/** Requests in flight when an NBD server stops get this long to be answered. */
export const NBD_STOP_TIMEOUT_MS = 5_000;
/** NBD over TCP: the kernel probes a silent peer after this, so that those that vanished are noticed. */
export const NBD_KEEPALIVE_MS = 60_000;
/** Errors of a device behind NBD are logged at most this often, with the number of those in between. */
export const NBD_ERROR_LOG_INTERVAL_MS = 10_000;
/** A socket's path, zero byte included (sockaddr_un); libuv cuts a longer one off without a word. */
export const SOCKET_PATH_BYTES_MAX = 108;
/** The control socket's answer may hold the jobs of many machines; a client reads no more than so many times a recovery object. */
export const CONTROL_ANSWER_BYTES_MAX = 8 * RECOVERY_BYTES_MAX;
/** ... and waits this long for it: beginning an operation asks the store, and perhaps another receiver whether it lives. */
export const CONTROL_ANSWER_TIMEOUT_MS = 90_000;
/** Somebody who watches a job sees its steps this soon. */
export const JOB_POLL_MS = 500;
/** ... and waits this long for a receiver that is started again meanwhile: its jobs go on by themselves. */
export const JOB_WATCH_RETRY_MS = 60_000;
/** Reads of a volume that are copied out of the page cache without a turn of the event loop: as much as the NBD server asks for at once. */
export const VOLUME_TRY_READ_BYTES_MAX = NBD_SYNC_READ_BYTES_MAX;
/** A volume's larger reads and writes are done in pieces of this size ... */
export const VOLUME_PIECE_BYTES_MAX = 1 * MIB;
/** ... of which so many are read at once: hides the latency of the store. */
export const VOLUME_PIECES_IN_FLIGHT = 4;
/** Changed pages of a volume's maps (4 KiB each) that a flush copies before it syncs; more take another round. */
export const VOLUME_FLUSH_PAGES_MAX = 2_048;
/** Blocks of an open cut that the guest overwrites before they were read are copied to memory, per volume; beyond this the writer waits. */
export const CUT_COPIES_BYTES_MAX = 64 * MIB;
/** Unit in which a volume's cache is given up: one bit of "used lately" each, and one system call to free it. */
export const CACHE_GROUP_BYTES = 1 * MIB;
/** Groups that are freed together, after one sync of the maps. */
export const CACHE_EVICT_GROUPS = 32;
/** A volume's answer about what is allocated looks no further than this at once. */
export const ALLOCATION_SPAN_BYTES = 1 * GIB;
/** One of the two slots of a local image's header: a few short texts; a page, so that it is overwritten in place. */
export const VOLUME_HEADER_SLOT_BYTES = 4 * KIB;
/** Hydration fetches pieces of this size (four of the largest chunks), so many at once ... */
export const HYDRATE_PIECE_BYTES = 1 * MIB;
export const HYDRATE_PIECES_IN_FLIGHT = 4;
/** ... each after waiting so long at most for a moment without client requests ... */
export const HYDRATE_YIELD_MS = 50;
/** ... and makes what it has durable after this many bytes, so that little is fetched twice after a crash of the host. */
export const HYDRATE_FLUSH_BYTES = 1 * GIB;
/** Pause before a pass over what hydration could not fetch: doubles from the first to the last. */
export const HYDRATE_RETRY_MIN_MS = 1_000;
export const HYDRATE_RETRY_MAX_MS = 60_000;
/** Runs that are read ahead for one volume at a time. */
export const READ_AHEADS_IN_FLIGHT = 4;
/** One message of QEMU's control socket; an answer to what we ask has some KiB. */
export const QMP_LINE_BYTES_MAX = 1 * MIB;
/** QEMU answers within milliseconds; it may be busy with a disk whose server is gone. */
export const QMP_TIMEOUT_MS = 10_000;
/** A guest's requests wait so long for its disks to be served again (a restart of the receiver); then it is paused, not failed. */
export const GUEST_DISK_RECONNECT_SECONDS = 600;
/** From the start of QEMU until it answers: it opens its disks over NBD first. */
export const GUEST_START_TIMEOUT_MS = 60_000;
/** Serial console and QEMU's messages of a guest, each: kept twice at most (the file and the one before it). */
export const GUEST_LOG_BYTES_MAX = 4 * MIB;
/** How often the guest's supervisor looks at the sizes of its logs. */
export const GUEST_LOG_CHECK_MS = 5_000;
/** The power button is pressed again this often: a guest that is still booting hears only the one after its driver is there. */
export const POWER_BUTTON_INTERVAL_MS = 5_000;
/** A stopped host gives its guests this long to power off. */
export const GUEST_STOP_TIMEOUT_MS = 120_000;
/** A killed process is gone at once, unless it hangs in the kernel; then nobody can say that it writes no more. */
export const GUEST_KILL_TIMEOUT_MS = 30_000;
/** A program of the operator that only looks (`check`, `state`). */
export const COMMAND_LOOK_TIMEOUT_MS = 60_000;
/** ... and one that works: clouds take minutes to start or end a machine. */
export const COMMAND_WORK_TIMEOUT_MS = 15 * 60_000;
/** A program that was asked to end (SIGTERM) is killed after this. */
export const COMMAND_GRACE_MS = 2_000;
/** Output of a program that goes into the job (see the task's schema); the rest is counted. */
export const COMMAND_OUTPUT_LINES_MAX = 200;
export const COMMAND_LINE_CHARS_MAX = 1_000;
/** Output that is parsed: a state is one line of JSON. */
export const COMMAND_ANSWER_BYTES_MAX = 64 * KIB;
/** A boot check tries again after this. */
export const BOOT_CHECK_POLL_MS = 250;
/** ... and one that is a program after this. */
export const BOOT_CHECK_COMMAND_POLL_MS = 1_000;
/** One try of a tcp or http check; a guest that is not up yet may swallow the request. */
export const BOOT_CHECK_TRY_MS = 5_000;
/** Body of a page that a boot check looks into. */
export const BOOT_CHECK_BODY_BYTES_MAX = 1 * MIB;
/** Reading ahead of a sequential client: the first window is a chunk; each further one is twice as large, up to what hides a store's latency. */
export const READ_AHEAD_BYTES_MIN = CHUNK_PLAIN_BYTES_MAX;
export const READ_AHEAD_BYTES_MAX = 8 * MIB;
/** Sequential streams that are told apart in the reads of one volume: a boot has a few at a time. */
export const READ_AHEAD_STREAMS_MAX = 16;
/** What `afterimage serve` keeps of a point on this host unless told otherwise: a boot reads some GiB; it lies on disk, not in memory. */
export const SERVE_CACHE_BYTES_MAX = 4 * GIB;
/** What a volume of a running copy keeps of its recovery point unless told otherwise: the working set of a booting server, several times. */
export const COPY_CACHE_BYTES = 8 * 1024 * MIB;
/** Decoded chunks that a volume's content keeps (4 MiB): as many as a sequential client with some requests in flight is in the middle of. */
export const DECODED_CHUNKS_KEPT = 16;
/** Threads that read, decompress and prove layers: two keep the disk and two processors busy; more gained nothing on two (measured). */
export const CHUNK_THREADS = 2;
/** Spans that a thread has been given: the one that it is at, and the next, so that it needn't wait for an answer to be read. */
export const THREAD_JOBS_AHEAD = 2;
/** A volume fetches at most this at once from its recovery point: as much as one ranged read of a layer. */
export const FETCH_BYTES_MAX = READ_BYTES_MAX;
/** So much is fetched ahead of a volume's clients by the event loop before threads do it: they take 0.2 CPU seconds each to start, as a boot begins. */
export const FETCH_BESIDE_AFTER_BYTES = 64 * MIB;
/** Spans of layers, a message to a thread each, that a range read by threads may consist of: a MiB of a base is one or two. */
export const BESIDE_JOBS_MAX = 16;
/** Fetches at once for one window that is read ahead: half of a window is on its way while the client comes through the other half. */
export const FETCHES_PER_READ_AHEAD = 4;
/** Memory of one volume for what is being fetched and what isn't in its local image yet; fetches wait beyond it. A read-ahead window. */
export const LANDING_BYTES_MAX = READ_AHEAD_BYTES_MAX;
/**
 * Fetches of a volume that are read ahead and not kept, at once, of FETCH_BYTES_MAX each: some of LANDING_BYTES_MAX is always left for what a client waits
 * for and for what is being written.
 */
export const PASSING_FETCHES_MAX = 5;
/** ... brought into the image by so many writes at once: the pool's other threads read. */
export const LANDING_WRITES_IN_FLIGHT = 2;
/** Memory for fetching that is kept for the next, per process, plain and stored bytes each (8 MiB): what one volume has on its way. */
export const SPARE_FETCHES_MAX = LANDING_BYTES_MAX / FETCH_BYTES_MAX;
export const SPARE_CHUNKS_MAX = LANDING_BYTES_MAX / CHUNK_PLAIN_BYTES_MAX;
/** An agent whose workload is held for a planned failover asks anew after this: the order to resume it may have been lost with a session. */
export const HOLD_RECHECK_MS = 30_000;
/** ... and one that lost its session before it had handed over a last point lets the workload run after this, if no receiver says meanwhile what holds; `failover: resumeAfter`. */
export const RESUME_UNANSWERED_MS = 30_000;
/** Objects of a store that are kept open for the next read: the layers that a client reads in at one time ... */
export const OPEN_FILES_MAX = 256;
/** ... closed after one to two of these without use: a removed object keeps its space until then. */
export const OPEN_FILES_IDLE_MS = 2_000;
/** A copy that was opened is made local after this: a guest that boots wants the store and the processors for itself. */
export const HYDRATE_AFTER_MS = 30_000;
