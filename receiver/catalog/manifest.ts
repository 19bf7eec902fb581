/**
 * The manifest: a machine's whole truth at its number, and the pages and lists that keep it small.
 * Schemas only; reading and committing are in catalog.ts.
 *
 * The newest points and their deltas stand in the manifest (`tail`); older ones in immutable history pages that it names, so that a commit
 * costs the same however long the history is. Base layers (one per segment) stand in a list object for the same reason.
 */
import { z } from 'zod';
import { groupRecordSchema } from '../../shared/wire/group-record.js';
import { labelSchema, quiesceRecordSchema } from '../../shared/wire/quiesce-record.js';
import { isDiskId, isUuid, type DiskId, type MachineId, type SeriesId } from '../../shared/units.js';

export const MANIFEST_VERSION = 1;

const count = z.number().int().nonnegative();
const hex64 = z.string().regex(/^[0-9a-f]{16}$/);
const machineId = z.custom<MachineId>((v) => typeof v === 'string' && isUuid(v), 'not a machine id');
const diskId = z.custom<DiskId>((v) => typeof v === 'string' && isDiskId(v), 'not a disk id');
const seriesId = z.custom<SeriesId>((v) => typeof v === 'string' && isUuid(v), 'not a series id');

/** One layer object. `indexChecksum` and `sizeBytes` are kept outside it, so that a lost or misdirected write is found. */
export const layerRefSchema = z.strictObject({
  kind: z.enum(['delta', 'base']),
  firstPoint: count,
  lastPoint: count,
  /** Base layers and layers of a sweep hold one segment; null for the layer of a cycle. */
  segment: count.nullable(),
  epoch: count,
  sequence: count,
  sizeBytes: count,
  indexChecksum: hex64,
});
export type LayerRef = z.infer<typeof layerRefSchema>;

export const consistencySchema = z.enum(['crash', 'filesystem', 'application']);
export type Consistency = z.infer<typeof consistencySchema>;

export const pointDiskSchema = z.strictObject({
  disk: diskId,
  sizeBytes: count,
  blockBytes: count,
  /**
   * XOR of all block hashes at the cut: what every restore is checked against. Where the receiver encrypts, it stands in the object encrypted, and is
   * decrypted as it is read (manifest-io.ts); it stays as it is for readers without the key.
   */
  digest: z.string().regex(/^([0-9a-f]{16}|k[0-9a-f]{32})$/),
  /** Check value of the key of the block hashes; absent where these are plain. */
  hashCheck: hex64.optional(),
});

export const pointSchema = z.strictObject({
  number: count.min(1),
  /** Wall time of the cut on the source, ms since 1970; for people and for picking a point by time, never for order. */
  cutAtMs: count,
  committedAtMs: count,
  generation: count,
  /** Id of the agent's cycle: lets an agent whose acknowledgement was lost learn that its commit succeeded. */
  cycle: z.string(),
  consistency: consistencySchema,
  /** Why this consistency and not a stronger one, or why this point is special (`first copy`, `comparison after …`). */
  reason: z.string().max(500),
  /** An operator's name for it. */
  label: labelSchema.optional(),
  /** How it was quiesced; absent where nobody asked for more than crash consistency. */
  quiesce: quiesceRecordSchema.optional(),
  /** It was cut together with those of other machines. Whether theirs were committed as well: group-points.ts. */
  group: groupRecordSchema.optional(),
  /** Disks that were protected and could not be part of it: away, or unreadable. A disk that was given up is not among them. Absent: none. */
  without: z.array(diskId).optional(),
  disks: z.array(pointDiskSchema),
  stats: z.strictObject({
    passes: count,
    cutMs: z.number().nonnegative(),
    freezeMs: z.number().nonnegative(),
    changedBytes: count,
    storedBytes: count,
  }),
});
export type RecoveryPoint = z.infer<typeof pointSchema>;

export const diskDeltaSchema = z.strictObject({ disk: diskId, layer: layerRefSchema });
export type DiskDelta = z.infer<typeof diskDeltaSchema>;

/** Points and deltas, ascending: the manifest's tail and a history page have the same shape. */
export const historySchema = z.strictObject({ points: z.array(pointSchema), deltas: z.array(diskDeltaSchema) });
export type History = z.infer<typeof historySchema>;

export const historyPageSchema = z.strictObject({ version: z.literal(MANIFEST_VERSION), ...historySchema.shape });

export const pageRefSchema = z.strictObject({
  name: z.string(),
  firstPoint: count,
  lastPoint: count,
  checksum: hex64,
});
export type PageRef = z.infer<typeof pageRefSchema>;

export const layerListSchema = z.strictObject({
  version: z.literal(MANIFEST_VERSION),
  layers: z.array(layerRefSchema),
});

export const listRefSchema = z.strictObject({ name: z.string(), count, checksum: hex64 });
export type ListRef = z.infer<typeof listRefSchema>;

export const diskEntrySchema = z.strictObject({
  id: diskId,
  /** For people: the device path and label at the time. */
  device: z.string(),
  sizeBytes: count,
  blockBytes: count,
  series: seriesId.nullable(),
  /** Base layers; null until the first copy is part of a point. */
  bases: listRefSchema.nullable(),
  /** Durable layers that no point holds yet: a first copy or comparison in progress, as known when the epoch began. */
  staged: listRefSchema.nullable(),
  /** Layers that are read in place of many small ones (shortcuts.ts). Absent: none. */
  shortcuts: listRefSchema.optional(),
  /** Last point that holds this disk; 0 for none. */
  lastPoint: count,
  /** As in that point. */
  hashCheck: hex64.optional(),
});
export type DiskEntry = z.infer<typeof diskEntrySchema>;

export const descriptionSchema = z.strictObject({
  hostname: z.string(),
  os: z.string(),
  cpus: count,
  memoryBytes: count,
  firmware: z.enum(['bios', 'uefi', 'unknown']),
  nics: z.array(z.strictObject({ name: z.string(), mac: z.string(), addresses: z.array(z.string()) })),
});
export type MachineDescription = z.infer<typeof descriptionSchema>;

/** The receiver that took the machine over: for people, and a hint for other receivers. Who may write is decided by the epoch alone. */
export const manifestOwnerSchema = z.strictObject({
  receiver: z.string().refine(isUuid, 'not a UUID'),
  name: z.string(),
  /** host:port as agents reach it. */
  address: z.string(),
});
export type ManifestOwner = z.infer<typeof manifestOwnerSchema>;

export const manifestSchema = z.strictObject({
  version: z.literal(MANIFEST_VERSION),
  number: count.min(1),
  /** Random id of this write: a retry after a time-out recognises its own success. */
  writeId: z.string(),
  writtenAtMs: count,
  epoch: count.min(1),
  /** Number of the manifest that began this epoch; it is never deleted. 0: not known. */
  epochStart: count.default(0),
  /** Null: not known (an older program, a tool). */
  owner: manifestOwnerSchema.nullable().default(null),
  generation: count.min(1),
  machine: z.strictObject({ id: machineId, name: z.string(), description: descriptionSchema.nullable() }),
  lastPoint: count,
  disks: z.array(diskEntrySchema),
  pages: z.array(pageRefSchema),
  tail: historySchema,
});
export type Manifest = z.infer<typeof manifestSchema>;

/** Who a machine is: written at enrolment, the highest number counts. */
export const identitySchema = z.strictObject({
  version: z.literal(MANIFEST_VERSION),
  number: count.min(1),
  machine: machineId,
  name: z.string(),
  /** SHA-256 of the certificate in DER, hex. */
  certificate: z.string().regex(/^[0-9a-f]{64}$/),
  hardwareId: z.string(),
  generation: count.min(1),
  enrolledAtMs: count,
});
export type MachineIdentity = z.infer<typeof identitySchema>;
