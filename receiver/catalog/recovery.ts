/**
 * Where a machine stands with failover: its state, the copies of it that run in the recovery site, its jobs. One numbered, immutable object per step
 * (`machines/<m>/recovery/<n>`); creating the next number is the only way on, so of two operations at once one loses and says so.
 * Names of states, jobs and tasks are Site Recovery's. Schema only; reading and writing are in recovery-io.ts.
 */
import { z } from 'zod';
import { isDiskId, isUuid, type DiskId, type MachineId } from '../../shared/units.js';
import { launchSettingsSchema } from './launch.js';
import type { RecoveryPoint } from './manifest.js';

export const RECOVERY_VERSION = 1;

const count = z.number().int().nonnegative();
const uuid = z.string().refine(isUuid, 'not a UUID');
const machineId = z.custom<MachineId>((v) => typeof v === 'string' && isUuid(v), 'not a machine id');
const diskId = z.custom<DiskId>((v) => typeof v === 'string' && isDiskId(v), 'not a disk id');

export const PROTECTION_STATES = [
  /** Replicated from where it is active (see activeLocation): from home by its agent, or from the recovery site by its volumes with home following. */
  'Protected',
  'UnplannedFailoverInitiated',
  'UnplannedFailoverCompleted',
  'UnplannedFailoverFailed',
  'PlannedFailoverInitiated',
  'PlannedFailoverCompleted',
  'PlannedFailoverFailed',
  'ChangeRecoveryPointInitiated',
  'ChangeRecoveryPointFailed',
  'CommitFailoverInProgressOnRecovery',
  'CommitFailoverCompleted',
  'CommitFailoverFailedOnRecovery',
  'CancelFailoverInProgressOnRecovery',
  'CancelFailoverFailedOnRecovery',
  'ReprotectInitiated',
  'ReprotectFailed',
] as const;
export const protectionStateSchema = z.enum(PROTECTION_STATES);
export type ProtectionState = z.infer<typeof protectionStateSchema>;

export const testFailoverStateSchema = z.enum([
  'None',
  'TestFailoverInitiated',
  'TestFailoverCompleted',
  'TestFailoverFailed',
  'TestFailoverCleanupInitiated',
]);
export type TestFailoverState = z.infer<typeof testFailoverStateSchema>;

/** What a boot check found. */
export const bootResultSchema = z.strictObject({
  type: z.string(),
  passed: z.boolean(),
  detail: z.string().max(2000),
  /** From the start of the guest. */
  tookMs: z.number().nonnegative(),
  atMs: count,
});
export type BootResult = z.infer<typeof bootResultSchema>;

/** A running copy of the machine, made of writable volumes on one receiver's host. */
export const instanceSchema = z.strictObject({
  id: uuid,
  kind: z.enum(['test', 'failover']),
  /** The receiver whose host has the volumes. */
  receiver: uuid,
  receiverName: z.string(),
  provider: z.enum(['qemu', 'command', 'none']),
  /** The point that it began with. */
  point: count,
  /** Generation under which its own points are committed; a test has that of the machine and commits none. */
  generation: count,
  createdAtMs: count,
  settings: launchSettingsSchema,
  /** Of the point; its digests stay in the manifests, which hide them where the receiver encrypts. Older programs wrote them here and ask for the field: it is empty. */
  disks: z.array(z.strictObject({ disk: diskId, sizeBytes: count, blockBytes: count, digest: z.string() })),
  bootCheck: bootResultSchema.nullable(),
  /** From the command to the end of the boot check (to the start of the guest without one). */
  rtoMs: count.nullable(),
});
export type Instance = z.infer<typeof instanceSchema>;

/** The disks of a point as they stand in the record of a copy: nothing that tells what they hold. */
export const disksOfCopy = (disks: RecoveryPoint['disks']): Instance['disks'] =>
  disks.map(({ disk, sizeBytes, blockBytes }) => ({ disk, sizeBytes, blockBytes, digest: '' }));

export const taskSchema = z.strictObject({
  name: z.string(),
  state: z.enum(['Pending', 'Started', 'Succeeded', 'Failed', 'Cancelled', 'Skipped']),
  startedAtMs: count.nullable(),
  endedAtMs: count.nullable(),
  /** Result or reason, for people. */
  detail: z.string().max(2000),
  /** Output of scripts; the newest lines. */
  output: z.array(z.string().max(1000)).max(200),
});
export type Task = z.infer<typeof taskSchema>;

export const OPERATIONS = [
  'test-failover',
  'cleanup',
  'failover',
  'planned-failover',
  'commit',
  'change-point',
  'cancel',
  'reprotect',
  'failback',
] as const;
export const operationSchema = z.enum(OPERATIONS);
export type Operation = z.infer<typeof operationSchema>;

/** Values that a job's tasks hand on, so that it can be resumed: ids and numbers that were chosen. */
const jobDataSchema = z.record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.null()]));

export const jobSchema = z.strictObject({
  id: uuid,
  operation: operationSchema,
  state: z.enum(['InProgress', 'Succeeded', 'Failed', 'Cancelled']),
  /** The receiver that carries it out (and resumes it after a crash). */
  receiver: uuid,
  startedAtMs: count,
  endedAtMs: count.nullable(),
  /** The request as it was validated; see failover/operations.ts. */
  request: z.record(z.string(), z.unknown()),
  data: jobDataSchema,
  tasks: z.array(taskSchema),
  error: z.strictObject({ code: z.string(), message: z.string(), hint: z.string().nullable() }).nullable(),
});
export type Job = z.infer<typeof jobSchema>;

export const recoverySchema = z.strictObject({
  version: z.literal(RECOVERY_VERSION),
  number: count.min(1),
  writeId: z.string(),
  writtenAtMs: count,
  machine: machineId,
  state: protectionStateSchema,
  stateReason: z.string().max(2000),
  activeLocation: z.enum(['Primary', 'Recovery']),
  /** The machine as it runs in the recovery site in earnest. */
  failover: instanceSchema.nullable(),
  testFailover: z.strictObject({ state: testFailoverStateSchema, instance: instanceSchema.nullable() }),
  /**
   * What the agent at home may do: `replicate` (its generation is raised to `generation` when the manifest has that one), be `refused`, or `restore`
   * (pull points onto its disks, commit nothing).
   */
  home: z.discriminatedUnion('mode', [
    z.strictObject({ mode: z.literal('replicate'), generation: count }),
    z.strictObject({ mode: z.literal('refused'), reason: z.string().max(500) }),
    z.strictObject({ mode: z.literal('restore'), reason: z.string().max(500) }),
  ]),
  /** At most one at a time. */
  job: jobSchema.nullable(),
  /** Ended jobs, newest first. */
  jobs: z.array(jobSchema),
});
export type Recovery = z.infer<typeof recoverySchema>;

/** A machine that nothing was ever done with. */
export const initialRecovery = (
  machine: MachineId,
  generation: number,
): Omit<Recovery, 'version' | 'number' | 'writeId' | 'writtenAtMs'> => ({
  machine,
  state: 'Protected',
  stateReason: '',
  activeLocation: 'Primary',
  failover: null,
  testFailover: { state: 'None', instance: null },
  home: { mode: 'replicate', generation },
  job: null,
  jobs: [],
});
