/**
 * The checkpoint: everything about the store but the hashes, at the moment when its journal was empty. Written to a temporary file,
 * made durable, renamed; so there is always a whole one. Pure but for `writeCheckpoint` and `readCheckpoint`.
 *
 *   0 u64 magic and version · 8 u32 bytes of JSON · 12 u32 segments
 *  16 JSON, padded to 8 · digests u64 × segments · trust u8 × segments, padded to 8 · u64 checksum of all before
 */
import { z } from 'zod';
import { checksum64 } from '../../../shared/blocks/hash.js';
import { HASH_CHECKPOINT_BYTES_MAX } from '../../../shared/limits.js';
import { isDiskId, type DiskId } from '../../../shared/units.js';
import { invalid } from './errors.js';
import type { StateFolder } from './files.js';
import { bytesOf } from './lanes.js';
import { pointSchema, restoreSchema, seriesSchema, SWEEP_KINDS } from './records.js';
import { MISMATCH, SegmentTable, UNKNOWN, UNVERIFIED } from './segment-table.js';

/** "AIHCKPT1": the last character is the version of the format. */
const MAGIC = 0x41494843_4b505431n;
const HEADER_BYTES = 16;
const CHECKSUM_BYTES = 8;
export const CHECKPOINT_NAME = 'checkpoint';
const TEMPORARY_NAME = 'checkpoint.tmp';

const count = z.number().int().nonnegative();

/** What the receiver has, as far as this store knows. */
export const stateSchema = z.strictObject({
  point: pointSchema,
  committedSeries: seriesSchema,
  /** Digest of `point` at its commit, 16 hex digits; null when this store wasn't there. */
  pointDigest: z
    .string()
    .regex(/^[0-9a-f]{16}$/)
    .nullable(),
  sweep: z
    .strictObject({ kind: z.enum(SWEEP_KINDS), series: seriesSchema, nextSegment: count, stagedLayers: count })
    .nullable(),
  /** Set while the disk is being restored: then the hashes are the disk's own, and `point` is 0. Absent in stores of older programs. */
  restore: restoreSchema.nullable().default(null),
  /** Why this store began anew, for people. */
  origin: z.string().max(500),
});
export type ReceiverState = z.infer<typeof stateSchema>;

const headerSchema = z.strictObject({
  disk: z.custom<DiskId>((v) => typeof v === 'string' && isDiskId(v)),
  sizeBytes: count,
  blockBytes: count,
  /** Every write since this checkpoint was made in this boot, or never reached the disk. */
  bootId: z.string().max(100),
  /** The store was closed: nothing was written since. */
  clean: z.boolean(),
  hashGeneration: count,
  journalGeneration: count,
  state: stateSchema,
});
export type CheckpointHeader = z.infer<typeof headerSchema>;

export interface Checkpoint {
  readonly header: CheckpointHeader;
  readonly table: SegmentTable;
}

const pad8 = (bytes: number): number => Math.ceil(bytes / 8) * 8;

function encodeCheckpoint({ header, table }: Checkpoint): Uint8Array {
  const json = Buffer.from(JSON.stringify(header));
  const segments = table.digests.length;
  const digestsAt = HEADER_BYTES + pad8(json.length);
  const trustAt = digestsAt + segments * 8;
  const checksumAt = trustAt + pad8(segments);
  const out = Buffer.alloc(checksumAt + CHECKSUM_BYTES);
  out.writeBigUInt64LE(MAGIC, 0);
  out.writeUInt32LE(json.length, 8);
  out.writeUInt32LE(segments, 12);
  out.set(json, HEADER_BYTES);
  out.set(bytesOf(table.digests), digestsAt);
  out.set(
    table.trust.map((trust) => (trust === MISMATCH ? UNVERIFIED : trust)),
    trustAt,
  );
  out.writeBigUInt64LE(checksum64(out.subarray(0, checksumAt)), checksumAt);
  return out;
}

function decodeCheckpoint(bytes: Buffer): Checkpoint {
  const checksumAt = bytes.length - CHECKSUM_BYTES;
  if (checksumAt < HEADER_BYTES) throw invalid('the checkpoint is too short');
  if (bytes.readBigUInt64LE(0) !== MAGIC) throw invalid('the checkpoint has an unknown format');
  if (bytes.readBigUInt64LE(checksumAt) !== checksum64(bytes.subarray(0, checksumAt))) {
    throw invalid('the checkpoint is corrupt');
  }
  const jsonBytes = bytes.readUInt32LE(8);
  const segments = bytes.readUInt32LE(12);
  const json: unknown = JSON.parse(bytes.toString('utf8', HEADER_BYTES, HEADER_BYTES + jsonBytes));
  const header = headerSchema.safeParse(json);
  if (!header.success) throw invalid(`the checkpoint isn't valid: ${z.prettifyError(header.error)}`);
  const digestsAt = HEADER_BYTES + pad8(jsonBytes);
  const trustAt = digestsAt + segments * 8;
  if (trustAt + pad8(segments) !== checksumAt) throw invalid('the checkpoint has the wrong size');
  // Copies: the table must not keep the whole file in memory.
  const digests = new BigUint64Array(segments);
  bytesOf(digests).set(bytes.subarray(digestsAt, trustAt));
  const trust = Uint8Array.from(bytes.subarray(trustAt, trustAt + segments));
  if (trust.some((t) => t > UNKNOWN)) throw invalid('the checkpoint has an unknown trust');
  return { header: header.data, table: new SegmentTable(digests, trust) };
}

/** Takes the place of the checkpoint there is, durably. */
export async function writeCheckpoint(folder: StateFolder, checkpoint: Checkpoint): Promise<void> {
  const file = await folder.create(TEMPORARY_NAME);
  try {
    await file.append(encodeCheckpoint(checkpoint), 0);
    await file.sync();
  } finally {
    await file.close();
  }
  await folder.rename(TEMPORARY_NAME, CHECKPOINT_NAME);
  await folder.sync();
}

/** Null when there is none. */
export async function readCheckpoint(folder: StateFolder): Promise<Checkpoint | null> {
  const file = await folder.open(CHECKPOINT_NAME);
  if (file === null) return null;
  try {
    const bytes = await file.sizeBytes();
    if (bytes > HASH_CHECKPOINT_BYTES_MAX) throw invalid('the checkpoint is too large');
    const buffer = Buffer.alloc(bytes);
    file.readAt(buffer, bytes, 0);
    return decodeCheckpoint(buffer);
  } finally {
    await file.close();
  }
}
