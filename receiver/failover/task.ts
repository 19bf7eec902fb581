/**
 * What an operation is made of. Each task can be run again from its beginning, whatever an earlier try had done: a job that was interrupted goes on
 * with the task that was under way.
 */
import type { MachineId } from '../../shared/units.js';
import type { Job } from '../catalog/recovery.js';
import type { CheckContext } from './compute/provider.js';
import type { Copies } from './copies.js';
import type { RecoveryContent } from './jobs.js';
import type { OperationRequest } from './operations.js';
import type { FailoverParts, FailoverSettings } from './parts.js';

export interface TaskContext extends CheckContext {
  readonly machine: MachineId;
  readonly parts: FailoverParts;
  readonly settings: FailoverSettings;
  readonly copies: Copies;
  readonly request: OperationRequest;
  /** As recorded last. */
  readonly content: RecoveryContent;
  readonly job: Job;
  /** Records a step now, before anything that must not happen without it. */
  readonly update: (change: (content: RecoveryContent) => RecoveryContent) => Promise<void>;
  readonly set: (data: Job['data']) => Promise<void>;
  /** What the task is doing, for whoever looks at the job. */
  readonly progress: (detail: string) => void;
}

export interface TaskResult {
  readonly detail: string;
  /** Default: `Succeeded`. `Failed` says that the job goes on without it. */
  readonly state?: 'Succeeded' | 'Skipped' | 'Failed';
  readonly data?: Job['data'];
  /** Recorded together with the task's end. */
  readonly change?: (content: RecoveryContent) => RecoveryContent;
}

export interface TaskDefinition {
  readonly name: string;
  readonly run: (context: TaskContext) => Promise<TaskResult>;
}

export interface OperationDefinition {
  readonly tasks: readonly TaskDefinition[];
  /** Puts back what a failed or cancelled job has done, as far as its operation allows; may be run again. */
  readonly undo: (context: TaskContext) => Promise<void>;
}

/** A value that an earlier task of the job has recorded. */
export function recorded(job: Job, key: string): string {
  const value = job.data[key];
  if (typeof value === 'string') return value;
  throw new Error(`job ${job.id} has no ${key}`);
}

export function recordedNumber(job: Job, key: string): number {
  const value = job.data[key];
  if (typeof value === 'number') return value;
  throw new Error(`job ${job.id} has no number ${key}`);
}
