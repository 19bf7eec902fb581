/**
 * What an operator can ask of a machine, as it arrives over the control socket, and what they get to see. Shapes only.
 */
import { z } from 'zod';
import { DISKS_PER_MACHINE_MAX } from '../../shared/limits.js';
import type { MachineId } from '../../shared/units.js';
import { bootCheckSchema } from '../catalog/launch.js';
import type { ManifestOwner } from '../catalog/manifest.js';
import type { Job, Operation, Recovery } from '../catalog/recovery.js';

/** `Latest` and `Latest processed` are the same point here: what is committed is processed. Words as in catalog/point-selector.ts, or a number. */
const pointSchema = z.string().min(1).max(100).default('latest');
const timeoutMs = z.number().int().positive();

const startOptions = {
  point: pointSchema,
  provider: z.enum(['qemu', 'command', 'none']).optional(),
  /** Instead of the one in the launch settings. */
  bootCheck: bootCheckSchema.optional(),
};

/** Disks, by id or device, without which the point is taken although it lacks them. Absent: none; a point named by number is taken as it is. */
const withoutDisks = z.array(z.string().min(1).max(200)).max(DISKS_PER_MACHINE_MAX).optional();

export const operationRequestSchema = z.discriminatedUnion('operation', [
  z.strictObject({ operation: z.literal('test-failover'), ...startOptions, withoutDisks }),
  z.strictObject({ operation: z.literal('cleanup'), notes: z.string().max(2000).default('') }),
  z.strictObject({
    operation: z.literal('failover'),
    ...startOptions,
    withoutDisks,
    /** Try to shut the workload at home down and to get its last cut first; go on without when that fails. */
    shutdown: z.boolean().default(false),
    /** Commit at once when it succeeds. */
    commit: z.boolean().default(false),
  }),
  z.strictObject({
    operation: z.literal('planned-failover'),
    ...startOptions,
    commit: z.boolean().default(false),
    hookTimeoutMs: timeoutMs.default(10 * 60_000),
  }),
  z.strictObject({ operation: z.literal('commit') }),
  z.strictObject({
    operation: z.literal('change-point'),
    ...startOptions,
    withoutDisks,
    point: z.string().min(1).max(100),
  }),
  /** Of the running job, if there is one; else of a failover that isn't committed: home goes on, what the copy wrote since is given up. */
  z.strictObject({ operation: z.literal('cancel') }),
  z.strictObject({ operation: z.literal('reprotect') }),
  z.strictObject({
    operation: z.literal('failback'),
    /** How long the guest may take to power off before the job gives up (or ends it, with `force`). */
    shutdownTimeoutMs: timeoutMs.default(5 * 60_000),
    force: z.boolean().default(false),
  }),
]);
export type OperationRequest = z.infer<typeof operationRequestSchema>;
/** What a client sends: fields with defaults may be left out. */
export type OperationInput = z.input<typeof operationRequestSchema>;

/** What is going on with the copy of a machine that runs on this receiver's host. */
export interface InstanceView {
  readonly id: string;
  readonly guest: string;
  readonly disks: readonly {
    readonly disk: string;
    readonly uri: string;
    readonly sizeBytes: number;
    readonly localBytes: number;
    /** Blocks that are local, of those that hold data at the point; null while that is not known. */
    readonly hydratedPercent: number | null;
    readonly changedBytes: number;
  }[];
  /** What would be lost if this host died now; null for a test. */
  readonly dataAtRisk: { readonly seconds: number; readonly bytes: number } | null;
  readonly lastPoint: number | null;
  /** Why it isn't replicated, when it isn't. */
  readonly problem: string | null;
}

export interface RecoveryView {
  readonly machine: { readonly id: MachineId; readonly name: string };
  readonly lastPoint: number;
  readonly generation: number;
  readonly recovery: Recovery | null;
  readonly allowedOperations: readonly {
    readonly operation: Operation;
    readonly allowed: boolean;
    readonly reason: string;
  }[];
  /** Of copies that run on this receiver's host. */
  readonly instances: readonly InstanceView[];
  /** `replicating`, `restoring` or null: the session of the agent at home, at this receiver. */
  readonly homeAgent: 'replicating' | 'restoring' | null;
  /** The other receiver that had it last, and that may live; null when it is here, or nowhere that is known. */
  readonly homeAt: ManifestOwner | null;
}

export interface RecoveryService {
  list(): Promise<readonly RecoveryView[]>;
  view(machine: MachineId): Promise<RecoveryView>;
  /** Validates and begins; resolves to the job, which goes on by itself. Throws kind `usage` or `refused` with nothing changed. */
  begin(machine: MachineId, request: OperationRequest): Promise<Job>;
  /** As of its last step. Throws kind `not-found`. */
  job(machine: MachineId, id: string): Promise<Job>;
}
