/**
 * Messages between agent and receiver. Version 2.
 *
 * First byte of each WebSocket binary message: 1 = data (fixed header and one chunk), 2 = control (msgpack of one message below).
 * Everything that arrives is validated before it is used; what doesn't fit is a ProtocolError and ends the session with code 4400.
 */
import { Packr } from 'msgpackr';
import { z } from 'zod';
import { AfterimageError } from '../errors.js';
import { CONTROL_BYTES_MAX, DISKS_PER_MACHINE_MAX } from '../limits.js';
import { FLEET_MAX, RECEIVER_ADDRESSES_MAX } from '../limits-fleet.js';
import { RESEND_EXTENTS_MAX } from '../limits-scrub.js';
import { isDiskId, isUuid, type DiskId, type MachineId, type SeriesId } from '../units.js';
import { parseHostPort } from './host-port.js';
import { groupNameSchema, groupRecordSchema } from './group-record.js';
import { labelSchema, quiesceRecordSchema } from './quiesce-record.js';

export const PROTOCOL_VERSION = 2;
export const TAG_DATA = 1;
export const TAG_CONTROL = 2;

export const protocolError = (what: string): AfterimageError =>
  new AfterimageError(`protocol error: ${what}`, {
    code: 'protocol',
    kind: 'corrupt',
    hint: 'Install the same version on agent and receiver.',
  });

// ---------------------------------------------------------------- data messages

/**
 * Data header, 16 bytes little-endian, followed by one chunk:
 *   0 u8 tag (1) · 1 u8 disk index in hello · 2 u8 target · 3 u8 0 · 4 u32 segment (0xffffffff for a cycle) · 8 f64 sequence
 */
export const DATA_HEADER_BYTES = 16;
export const NO_SEGMENT = 0xffffffff;
/**
 * Where a chunk belongs: the layer of the running cycle, or a segment's layer of a sweep (first copy: base; comparison: delta). `restore` goes the
 * other way: blocks of a point for the disk itself; its sequence is the number of the request that it answers.
 */
export const TARGETS = ['cycle', 'sweep-base', 'sweep-delta', 'restore'] as const;
export type DataTarget = (typeof TARGETS)[number];

export interface DataHeader {
  readonly diskIndex: number;
  readonly target: DataTarget;
  readonly segment: number | null;
  /** Counts data and segment-end messages of a session, from 1; for `restore`: the request. */
  readonly sequence: number;
}

export function encodeDataHeader(into: Buffer, header: DataHeader): void {
  into.writeUInt8(TAG_DATA, 0);
  into.writeUInt8(header.diskIndex, 1);
  into.writeUInt8(TARGETS.indexOf(header.target), 2);
  into.writeUInt8(0, 3);
  into.writeUInt32LE(header.segment ?? NO_SEGMENT, 4);
  into.writeDoubleLE(header.sequence, 8);
}

export function decodeDataHeader(bytes: Buffer): DataHeader {
  if (bytes.length <= DATA_HEADER_BYTES) throw protocolError(`data message of ${bytes.length} bytes`);
  const target = TARGETS[bytes.readUInt8(2)];
  const sequence = bytes.readDoubleLE(8);
  const segment = bytes.readUInt32LE(4);
  if (target === undefined) throw protocolError(`data target ${bytes.readUInt8(2)}`);
  if (bytes.readUInt8(3) !== 0) throw protocolError(`reserved byte ${bytes.readUInt8(3)}`);
  if (!Number.isSafeInteger(sequence) || sequence < 1) throw protocolError(`data sequence ${sequence}`);
  if ((target === 'cycle') !== (segment === NO_SEGMENT)) throw protocolError(`segment ${segment} for target ${target}`);
  return { diskIndex: bytes.readUInt8(1), target, segment: segment === NO_SEGMENT ? null : segment, sequence };
}

// ---------------------------------------------------------------- control messages

const count = z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER);
const uuid = z.string().refine(isUuid, 'not a UUID');
const machineId = z.custom<MachineId>((v) => typeof v === 'string' && isUuid(v), 'not a machine id');
const diskId = z.custom<DiskId>((v) => typeof v === 'string' && isDiskId(v), 'not a disk id');
const seriesId = z.custom<SeriesId>((v) => typeof v === 'string' && isUuid(v), 'not a series id');
const hex64 = z.string().regex(/^[0-9a-f]{16}$/);
const text = z.string().max(2000);
/** host:port. */
export const hostPortSchema = z.string().refine((value) => parseHostPort(value) !== null, 'not host:port');
const addresses = z.array(hostPortSchema).min(1).max(RECEIVER_ADDRESSES_MAX);
export const knownReceiverSchema = z.strictObject({ id: uuid, name: text, addresses });
/** What an agent can do beyond what all of its protocol's version can: a receiver asks nothing else of it. */
export const ABILITIES = ['group-points'] as const;
export type Ability = (typeof ABILITIES)[number];
/** One bit per block of a segment, or per segment of a disk; bit 0 of byte 0 is the first. */
const bitmap = z.instanceof(Uint8Array);
/** A point by its number, and its disk's digest where that is known: a number alone could mean another point in another store. */
const basePoint = z.strictObject({ point: count, digest: hex64 });

export const helloDiskSchema = z.strictObject({
  id: diskId,
  device: text,
  sizeBytes: count,
  blockBytes: count,
  /** Null for the scan tracker and where no tracking is possible now. */
  series: seriesId.nullable(),
  tracker: z.enum(['ebpf', 'scan']),
  /** Last point that the agent knows to be committed with this disk; 0 for none. */
  committedPoint: count,
  /** Series under which that point was committed. */
  committedSeries: seriesId.nullable(),
  /** Blocks known to be changed since that point. */
  changedBlocks: count,
  /** Whether the local hash store holds the state of that point (plus what is staged). */
  hashStore: z.enum(['valid', 'none']),
  /** A first copy or comparison in progress: segments below `nextSegment` are staged; `stagedLayers` of them made an object. */
  sweep: z
    .strictObject({ kind: z.enum(['first-copy', 'comparison', 'bulk']), nextSegment: count, stagedLayers: count })
    .nullable(),
});
export type HelloDisk = z.infer<typeof helloDiskSchema>;

export const helloDescriptionSchema = z.strictObject({
  hostname: text,
  os: text,
  cpus: count,
  memoryBytes: count,
  firmware: z.enum(['bios', 'uefi', 'unknown']),
  nics: z.array(z.strictObject({ name: text, mac: text, addresses: z.array(text).max(64) })).max(64),
});

export const agentMessageSchema = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('hello'),
    protocol: count,
    program: text,
    machine: machineId,
    generation: count,
    hardwareId: text,
    /** Random per agent process. */
    session: uuid,
    /** The source encrypts: what tells its keys from others. Absent: it doesn't. */
    encryption: z.strictObject({ hashCheck: hex64, dataKeys: z.array(count.min(1)).min(1).max(1000) }).optional(),
    description: helloDescriptionSchema,
    /** Id of a cycle whose commit was sent and not answered, to be told by `welcome.lastCycle`. */
    inDoubtCycle: uuid.nullable(),
    disks: z.array(helloDiskSchema).max(DISKS_PER_MACHINE_MAX),
    /** How it came here: redirects followed since a receiver last took or refused it, receivers that it could not reach. Absent: straight. */
    route: z.strictObject({ redirects: count, unreachable: z.array(uuid).max(FLEET_MAX) }).optional(),
    /** Names that this receiver does not know are of a newer agent. Absent: an older one, which has none. */
    abilities: z.array(z.string().max(40)).max(32).optional(),
  }),
  /** Throws away what was sent for a cycle that didn't commit. Also opens a new one. */
  z.strictObject({ type: z.literal('cycle-begin'), cycle: uuid }),
  /** The segment's data is complete: make it durable and answer with the staged mark. */
  z.strictObject({
    type: z.literal('segment-end'),
    disk: diskId,
    segment: count,
    target: z.enum(['sweep-base', 'sweep-delta']),
    sequence: count,
  }),
  z.strictObject({
    type: z.literal('commit'),
    cycle: uuid,
    cutAtMs: count,
    consistency: z.enum(['crash', 'filesystem', 'application']),
    reason: z.string().max(500),
    /** An operator's name for the point. */
    label: labelSchema.optional(),
    /** Of a point for which more than a crash-consistent cut was asked. */
    quiesce: quiesceRecordSchema.optional(),
    /** Of a point that was cut together with those of other machines: as the receiver gave it. */
    group: groupRecordSchema.optional(),
    /** Protected disks that the point does not hold, since they were away or could not be read. */
    without: z.array(diskId).min(1).max(DISKS_PER_MACHINE_MAX).optional(),
    disks: z
      .array(z.strictObject({ disk: diskId, series: seriesId.nullable(), digest: hex64 }))
      .min(1)
      .max(DISKS_PER_MACHINE_MAX),
    /** Sequence of the last data message: the commit holds exactly what was sent up to it. */
    lastSequence: count,
    stats: z.strictObject({
      passes: count,
      cutMs: z.number().nonnegative(),
      freezeMs: z.number().nonnegative(),
      changedBytes: count,
    }),
  }),
  /** Block hashes of a segment at the last committed point (plus what is staged), for an agent whose hash store is in doubt. */
  z.strictObject({ type: z.literal('hashes-request'), disk: diskId, segment: count }),
  /** What the source lets operators see at the receiver, at most once a second. */
  z.strictObject({
    type: z.literal('progress'),
    disks: z
      .array(
        z.strictObject({ disk: diskId, state: text, percent: z.number(), dataAtRiskBytes: count, dataAtRiskMs: count }),
      )
      .max(DISKS_PER_MACHINE_MAX),
  }),
  z.strictObject({ type: z.literal('bye'), reason: text }),

  // What follows answers or belongs to an order of the receiver: a final cut, a restore.

  z.strictObject({ type: z.literal('final-cut-step'), request: count, step: text, detail: text }),
  /** `ok`: nothing was written after the cut of `point`. Not: why, and the workload was resumed. */
  z.strictObject({ type: z.literal('final-cut-done'), request: count, ok: z.boolean(), point: count, reason: text }),
  z.strictObject({ type: z.literal('home-resumed'), request: count }),
  /** Which segments can differ between two points of a disk; the base is what the agent's disk is known to have been. */
  z.strictObject({
    type: z.literal('changed-segments'),
    request: count,
    disk: diskId,
    point: count,
    base: basePoint,
  }),
  /**
   * Blocks of a segment that may differ from the base, and their hashes at the point. `also`: further blocks that are asked about. Without a base: all
   * blocks, unless `digest`, the XOR of the agent's hashes in the segment, is that of the point.
   */
  z.strictObject({
    type: z.literal('differences'),
    request: count,
    disk: diskId,
    point: count,
    base: basePoint.nullable(),
    segment: count,
    also: bitmap.nullable(),
    digest: hex64.nullable(),
  }),
  /** The content of these blocks (none of them zero) at the point: data messages, then `blocks-end`. */
  z.strictObject({
    type: z.literal('blocks-request'),
    request: count,
    disk: diskId,
    point: count,
    segment: count,
    blocks: bitmap,
  }),
  z.strictObject({
    type: z.literal('restore-step'),
    goal: count,
    step: text,
    detail: text,
    percent: z.number().nullable(),
  }),
  /** The disks hold the point, durably and proven by digest. After a final goal: the series under which they are tracked from now on. */
  z.strictObject({
    type: z.literal('restored'),
    goal: count,
    point: count,
    disks: z
      .array(
        z.strictObject({
          disk: diskId,
          digest: hex64,
          series: seriesId.nullable(),
          /** How the difference was found. */
          reason: text,
          readBytes: count,
          writtenBytes: count,
        }),
      )
      .max(DISKS_PER_MACHINE_MAX),
  }),
  z.strictObject({ type: z.literal('restore-failed'), goal: count, code: text, reason: text, hint: text }),
  /** The blocks of a resend order are in this point, as the disk held them at its cut. */
  z.strictObject({ type: z.literal('resent'), request: count, point: count }),

  /**
   * Of a group's point: all was sent but what changes meanwhile; applications are prepared; all filesystems are frozen; the image is cut. Each is answered
   * by the order for the next step. Frozen it stays until `group-thaw`, and no longer than its own deadline.
   */
  z.strictObject({
    type: z.literal('group-reached'),
    request: count,
    step: z.enum(['gathered', 'prepared', 'frozen', 'cut']),
  }),
  /** This machine has no part in the group's point; nothing of it is frozen. */
  z.strictObject({ type: z.literal('group-failed'), request: count, reason: text }),
]);
export type AgentMessage = z.infer<typeof agentMessageSchema>;

export const verdictSchema = z.enum(['nothing', 'delta', 'compare', 'full', 'resume']);
export type Verdict = z.infer<typeof verdictSchema>;

export const receiverMessageSchema = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('welcome'),
    protocol: count,
    program: text,
    /** `restore`: this machine runs elsewhere; the agent may pull points onto its disks and commits nothing. */
    mode: z.enum(['replicate', 'restore']),
    /** The agent's generation from now on; a higher one than it had is kept before anything else is done. */
    generation: count,
    /** A planned failover is under way: a workload that was shut down for it stays down until an order says otherwise. */
    holdWorkload: z.boolean(),
    epoch: count,
    windowBytes: count,
    lastPoint: count,
    lastCycle: uuid.nullable(),
    disks: z.array(
      z.strictObject({
        disk: diskId,
        verdict: verdictSchema,
        reason: text,
        /** Last committed point that holds the disk, its digest, and whether layers are staged beyond it. */
        committedPoint: count,
        digest: hex64.nullable(),
        stagedLayers: count,
      }),
    ),
  }),
  z.strictObject({ type: z.literal('refused'), code: count, reason: text, hint: text }),
  /** Another receiver is to take this machine. Instead of a welcome, or between two cycles; the connection ends after it. */
  z.strictObject({ type: z.literal('redirect'), to: knownReceiverSchema, reason: text }),
  /** Who serves the store that this agent's points are in, the sender among them. After each welcome, and whenever it changes. */
  z.strictObject({ type: z.literal('fleet'), self: uuid, receivers: z.array(knownReceiverSchema).max(FLEET_MAX) }),
  /** Cumulative marks: bytes of data messages taken in, sequence of the last durable segment-end, last committed point. */
  z.strictObject({ type: z.literal('ack'), receivedBytes: count, stagedSequence: count, committedPoint: count }),
  z.strictObject({ type: z.literal('committed'), cycle: uuid, point: count, storedBytes: count }),
  /** How often points are to be made, from now on; null: as the agent's own configuration says. Sent after `welcome` and when it changed. */
  z.strictObject({
    type: z.literal('policy'),
    intervalMs: count.min(1).nullable(),
    applicationIntervalMs: count.min(1).nullable(),
  }),
  /** u64 LE per block of the segment, 0 for zero blocks; empty when it isn't known, as a layer is damaged. */
  z.strictObject({ type: z.literal('hashes'), disk: diskId, segment: count, hashes: z.instanceof(Uint8Array) }),

  /** Shut the workload down, and make a point that holds all that was ever written. */
  z.strictObject({ type: z.literal('final-cut'), request: count, hookTimeoutMs: count }),
  /** Nothing came of it: let the workload run again. */
  z.strictObject({ type: z.literal('final-cut-resume'), request: count }),
  /** Bring these disks to a point. `final`: no newer one will come. Takes the place of an earlier goal. */
  z.strictObject({
    type: z.literal('restore-goal'),
    goal: count,
    point: count,
    final: z.boolean(),
    disks: z
      .array(
        z.strictObject({
          disk: diskId,
          sizeBytes: count,
          blockBytes: count,
          digest: hex64,
          /** Check value of the key that the point's block hashes were made with; absent: plain. */
          hashCheck: hex64.optional(),
        }),
      )
      .max(DISKS_PER_MACHINE_MAX),
  }),
  z.strictObject({ type: z.literal('restore-stop'), goal: count }),
  /** `segments` null: not known, for `reason`; the agent asks about all blocks then. */
  z.strictObject({
    type: z.literal('changed-segments'),
    request: count,
    segments: bitmap.nullable(),
    reason: text,
  }),
  /** `hashes`: u64 LE per set bit of `candidates`, 0 for zero blocks. */
  z.strictObject({
    type: z.literal('differences'),
    request: count,
    candidates: bitmap,
    hashes: z.instanceof(Uint8Array),
  }),
  z.strictObject({ type: z.literal('blocks-end'), request: count }),
  /**
   * What the store holds of these blocks (first, count) is damaged: send them with the next point although they have not changed. Answered by `resent`
   * when that point is committed.
   */
  z.strictObject({
    type: z.literal('resend'),
    request: count,
    disk: diskId,
    extents: z.array(z.tuple([count, count.min(1)])).max(RESEND_EXTENTS_MAX),
  }),

  /** Make a point together with other machines: of this consistency or not at all. Only for agents with the ability `group-points`. */
  z.strictObject({
    type: z.literal('group-point'),
    request: count,
    name: groupNameSchema,
    consistency: z.enum(['filesystem', 'application']),
    label: labelSchema.nullable(),
  }),
  /** All members have come as far as they can without this step. */
  z.strictObject({ type: z.literal('group-go'), request: count, step: z.enum(['prepare', 'freeze', 'cut']) }),
  /** All members have cut, and all were frozen when they did: thaw, and commit the point with this. */
  z.strictObject({ type: z.literal('group-thaw'), request: count, record: groupRecordSchema }),
  /** Nothing comes of it: thaw at once. */
  z.strictObject({ type: z.literal('group-abort'), request: count, reason: text }),
]);
export type ReceiverMessage = z.infer<typeof receiverMessageSchema>;

export type Hello = Extract<AgentMessage, { type: 'hello' }>;
export type Welcome = Extract<ReceiverMessage, { type: 'welcome' }>;
export type Commit = Extract<AgentMessage, { type: 'commit' }>;
export type Redirect = Extract<ReceiverMessage, { type: 'redirect' }>;
export type FleetMessage = Extract<ReceiverMessage, { type: 'fleet' }>;
export type KnownReceiver = z.infer<typeof knownReceiverSchema>;
export type RestoreGoal = Extract<ReceiverMessage, { type: 'restore-goal' }>;
export type Restored = Extract<AgentMessage, { type: 'restored' }>;
export type GroupReached = Extract<AgentMessage, { type: 'group-reached' }>;
export type GroupGo = Extract<ReceiverMessage, { type: 'group-go' }>;
/** A point of one disk that its content is compared with. */
export type BasePoint = z.infer<typeof basePoint>;

const packr = new Packr({ useRecords: false, moreTypes: false, int64AsType: 'number' });

export function encodeControl(message: AgentMessage | ReceiverMessage): Buffer {
  const body = packr.pack(message);
  const out = Buffer.allocUnsafe(body.length + 1);
  out[0] = TAG_CONTROL;
  body.copy(out, 1);
  return out;
}

function decode<T>(bytes: Buffer, schema: z.ZodType<T>): T {
  if (bytes.length > CONTROL_BYTES_MAX) throw protocolError(`control message of ${bytes.length} bytes`);
  let value: unknown;
  try {
    value = packr.unpack(bytes.subarray(1));
  } catch {
    throw protocolError('control message is not msgpack');
  }
  const parsed = schema.safeParse(value);
  if (!parsed.success)
    throw protocolError(`control message is not valid: ${z.prettifyError(parsed.error).slice(0, 300)}`);
  return parsed.data;
}

export const decodeAgentMessage = (bytes: Buffer): AgentMessage => decode(bytes, agentMessageSchema);
export const decodeReceiverMessage = (bytes: Buffer): ReceiverMessage => decode(bytes, receiverMessageSchema);
