/**
 * Records of the hash store's journal: what they say and how they look in bytes. Pure.
 *
 *   0 u64 checksum of all that follows, seeded with generation and offset, so that a record at the wrong place doesn't count
 *   8 u32 bytes after this header (a multiple of 8) · 12 u32 bytes of JSON
 *  16 JSON, padded to 8 · digests u64 × segments · hashes u64 × hashes · segments u32 × segments · blocks u32 × blocks, padded to 8
 *
 * A record that changes hashes also carries the digests that its segments have afterwards. So it can be applied again and again:
 * nothing is derived from a file that may hold the change already.
 */
import { z } from 'zod';
import { checksum64 } from '../../../shared/blocks/hash.js';
import { HASH_RECORD_BYTES_MAX } from '../../../shared/limits.js';
import { isUuid, type PointNumber, type SegmentNumber, type SeriesId } from '../../../shared/units.js';
import { invalid, misuse } from './errors.js';
import { bytesOf } from './lanes.js';

export const RECORD_HEADER_BYTES = 16;

/** New hashes and the digests of their segments afterwards. `blocks` is empty when `hashes` are all of one segment. */
export interface Patch {
  readonly segments: Uint32Array;
  readonly digests: BigUint64Array;
  readonly blocks: Uint32Array;
  readonly hashes: BigUint64Array;
}

export const SWEEP_KINDS = ['first-copy', 'comparison', 'bulk'] as const;
export type SweepKind = (typeof SWEEP_KINDS)[number];

const count = z.number().int().nonnegative();
const uuid = z.string().refine(isUuid, 'not a UUID');
export const seriesSchema = z.custom<SeriesId>((v) => typeof v === 'string' && isUuid(v)).nullable();
export const pointSchema = z.custom<PointNumber>((v) => count.safeParse(v).success);

/** A point of the disk and its digest. */
const baseSchema = z.strictObject({ point: pointSchema, digest: z.string().regex(/^[0-9a-f]{16}$/) });
/** While the disk is being restored: what its hashes are worth; see README.md. */
export const restoreSchema = z.strictObject({
  series: seriesSchema,
  base: baseSchema.nullable(),
  exactSegments: count,
});
export type RestoreState = z.infer<typeof restoreSchema>;

const metaSchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('sweep-begin'), kind: z.enum(SWEEP_KINDS), series: seriesSchema }),
  z.strictObject({ type: z.literal('sweep-end') }),
  z.strictObject({ type: z.literal('staged'), segment: count, madeLayer: z.boolean() }),
  z.strictObject({ type: z.literal('replaced') }),
  z.strictObject({ type: z.literal('prepared'), cycle: uuid }),
  z.strictObject({ type: z.literal('committed'), cycle: uuid, point: pointSchema, series: seriesSchema }),
  z.strictObject({ type: z.literal('dropped'), cycle: uuid }),
  z.strictObject({ type: z.literal('restore-begin'), restore: restoreSchema }),
  z.strictObject({ type: z.literal('learned'), exactSegments: count }),
  z.strictObject({ type: z.literal('restored'), point: pointSchema, series: seriesSchema }),
]);
export type RecordMeta = z.infer<typeof metaSchema>;

const envelopeSchema = z.strictObject({
  meta: metaSchema,
  patch: z.strictObject({ segments: count, hashes: count, blocks: count }).nullable(),
});

export interface JournalRecord {
  readonly meta: RecordMeta;
  readonly patch: Patch | null;
}

/** Where a record stands. */
export interface Place {
  readonly generation: number;
  readonly offset: number;
}

const pad8 = (bytes: number): number => Math.ceil(bytes / 8) * 8;

const checksumOf = (record: Uint8Array, place: Place): bigint =>
  checksum64(record.subarray(8), (BigInt(place.generation) << 32n) | BigInt(place.offset));

export function encodeRecord(record: JournalRecord, place: Place): Uint8Array {
  const { meta, patch } = record;
  const sizes = patch && { segments: patch.segments.length, hashes: patch.hashes.length, blocks: patch.blocks.length };
  const json = Buffer.from(JSON.stringify({ meta, patch: sizes }));
  const arrays = patch === null ? [] : [patch.digests, patch.hashes, patch.segments, patch.blocks];
  const bodyBytes = pad8(pad8(json.length) + arrays.reduce((sum, array) => sum + array.byteLength, 0));
  if (bodyBytes > HASH_RECORD_BYTES_MAX) throw misuse(`a record of ${bodyBytes} bytes is too large`);
  const out = Buffer.alloc(RECORD_HEADER_BYTES + bodyBytes);
  out.writeUInt32LE(bodyBytes, 8);
  out.writeUInt32LE(json.length, 12);
  out.set(json, RECORD_HEADER_BYTES);
  let at = RECORD_HEADER_BYTES + pad8(json.length);
  for (const array of arrays) {
    out.set(bytesOf(array), at);
    at += array.byteLength;
  }
  out.writeBigUInt64LE(checksumOf(out, place), 0);
  return out;
}

/** Bytes of a whole record by its header; null when that can't be one. */
export function recordBytes(header: Buffer): number | null {
  const bodyBytes = header.readUInt32LE(8);
  if (bodyBytes === 0 || bodyBytes % 8 !== 0 || bodyBytes > HASH_RECORD_BYTES_MAX) return null;
  return RECORD_HEADER_BYTES + bodyBytes;
}

/** Decodes a whole record; null when it was torn. `bytes` must begin at a multiple of 8 in memory; the arrays point into it. */
export function decodeRecord(bytes: Buffer, place: Place): JournalRecord | null {
  if (bytes.readBigUInt64LE(0) !== checksumOf(bytes, place)) return null;
  const jsonBytes = bytes.readUInt32LE(12);
  const json: unknown = JSON.parse(bytes.toString('utf8', RECORD_HEADER_BYTES, RECORD_HEADER_BYTES + jsonBytes));
  const envelope = envelopeSchema.safeParse(json);
  if (!envelope.success) throw invalid('the journal holds a record of an unknown kind');
  const { meta, patch: sizes } = envelope.data;
  if (sizes === null) return { meta, patch: null };
  let at = bytes.byteOffset + RECORD_HEADER_BYTES + pad8(jsonBytes);
  const next = (elementBytes: number, elements: number): number => {
    const start = at;
    at += elementBytes * elements;
    return start;
  };
  const patch = {
    digests: new BigUint64Array(bytes.buffer, next(8, sizes.segments), sizes.segments),
    hashes: new BigUint64Array(bytes.buffer, next(8, sizes.hashes), sizes.hashes),
    segments: new Uint32Array(bytes.buffer, next(4, sizes.segments), sizes.segments),
    blocks: new Uint32Array(bytes.buffer, next(4, sizes.blocks), sizes.blocks),
  };
  return { meta, patch };
}

/** The patch that sets all hashes of one segment. */
export const segmentPatch = (segment: SegmentNumber, hashes: BigUint64Array, digest: bigint): Patch => ({
  segments: Uint32Array.of(segment),
  digests: BigUint64Array.of(digest),
  blocks: new Uint32Array(0),
  hashes,
});
