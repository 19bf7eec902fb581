/**
 * Jobs as data: how they begin, how their tasks go on, how they end. Pure; each result is the next content of the recovery object.
 *
 * What a job keeps in `data` so that it can be resumed:
 * `originState`, `originLocation`: where it came from; `passed`: it has changed what can't be changed back, so failing leads to its operation's failed state;
 * `noReturn`: it may only go on; `phase` `undo`: it failed or was cancelled and puts things back; everything else belongs to its tasks.
 */
import { RECOVERY_JOBS_MAX, TASK_OUTPUT_BYTES_MAX } from '../../shared/limits.js';
import { AfterimageError, messageOf } from '../../shared/errors.js';
import type { Job, Recovery, Task } from '../catalog/recovery.js';
import type { OperationRequest } from './operations.js';
import { placeAfter, sinceOf } from './states.js';

/** A recovery object's content: what writeRecovery takes. */
export type RecoveryContent = Omit<Recovery, 'version' | 'number' | 'writeId' | 'writtenAtMs'>;

export const contentOf = (recovery: Recovery): RecoveryContent => {
  const { version: _v, number: _n, writeId: _w, writtenAtMs: _a, ...content } = recovery;
  return content;
};

const DETAIL_MAX = 2000;
const LINE_MAX = 1000;
const LINES_MAX = 200;
const short = (text: string, max: number): string => (text.length > max ? `${text.slice(0, max - 1)}…` : text);

/** The last lines that fit. */
function newest(lines: readonly string[]): string[] {
  const kept = lines.slice(-LINES_MAX).map((line) => short(line, LINE_MAX));
  let from = kept.length;
  for (let bytes = 0; from > 0; from--) {
    bytes += Buffer.byteLength(JSON.stringify(kept[from - 1])) + 1;
    if (bytes > TASK_OUTPUT_BYTES_MAX) break;
  }
  return kept.slice(from);
}

export const taskNamed = (name: string): Task => ({
  name,
  state: 'Pending',
  startedAtMs: null,
  endedAtMs: null,
  detail: '',
  output: [],
});

export interface NewJob {
  readonly id: string;
  readonly receiver: string;
  readonly request: OperationRequest;
  readonly tasks: readonly string[];
  readonly nowMs: number;
  readonly data?: Job['data'];
}

/** The machine with a job that has just begun. */
export function beginJob(content: RecoveryContent, begin: NewJob): RecoveryContent {
  const { operation, ...request } = begin.request;
  const job: Job = {
    id: begin.id,
    operation,
    state: 'InProgress',
    receiver: begin.receiver,
    startedAtMs: begin.nowMs,
    endedAtMs: null,
    request,
    data: {
      originState: content.state,
      originLocation: content.activeLocation,
      originReason: content.stateReason,
      ...begin.data,
    },
    tasks: begin.tasks.map(taskNamed),
    error: null,
  };
  const test = content.testFailover;
  return {
    ...content,
    ...placeAfter(operation, 'begun', sinceOf(job)),
    testFailover:
      operation === 'test-failover'
        ? { ...test, state: 'TestFailoverInitiated' }
        : operation === 'cleanup'
          ? { ...test, state: 'TestFailoverCleanupInitiated' }
          : test,
    job,
  };
}

export const withData = (job: Job, data: Job['data']): Job => ({ ...job, data: { ...job.data, ...data } });

export function withTask(job: Job, name: string, change: Partial<Task>): Job {
  const tasks = job.tasks.map((t) =>
    t.name !== name
      ? t
      : {
          ...t,
          ...change,
          detail: short(change.detail ?? t.detail, DETAIL_MAX),
          output: newest(change.output ?? t.output),
        },
  );
  return { ...job, tasks };
}

export const requestOf = (job: Job): OperationRequest =>
  ({ operation: job.operation, ...job.request }) as OperationRequest;

/** Why a job ends otherwise than it should, in a form that its data can hold. */
export interface Failure {
  readonly code: string;
  readonly message: string;
  readonly hint: string | null;
  readonly isCancelled: boolean;
}

export function failureOf(error: unknown, isCancelled: boolean): Failure {
  const known = error instanceof AfterimageError ? error : null;
  return {
    code: known?.code ?? 'internal',
    message: short(messageOf(error), DETAIL_MAX - 500),
    hint: known?.hint ?? null,
    isCancelled,
  };
}

/** Of a job whose receiver was asked whether it lives, and didn't answer. */
export const LOST_WITH_RECEIVER: Failure = {
  code: 'receiver-gone',
  message: 'the receiver that ran it does not answer',
  hint: 'When it is back it leaves the job alone, and ends what it had begun.',
  isCancelled: false,
};

export const undoData = (failure: Failure): Job['data'] => ({
  phase: 'undo',
  failureCode: failure.code,
  failureMessage: failure.message,
  failureHint: failure.hint,
  cancelled: failure.isCancelled,
});

export const failureFrom = (data: Job['data']): Failure => ({
  code: String(data['failureCode']),
  message: String(data['failureMessage']),
  hint: data['failureHint'] == null ? null : String(data['failureHint']),
  isCancelled: data['cancelled'] === true,
});

/** The machine after its job: ended well, failed or cancelled. */
export function endJob(content: RecoveryContent, nowMs: number, failure: Failure | null, reason = ''): RecoveryContent {
  if (content.job === null) return content;
  const { job } = content;
  const since = sinceOf(job);
  const outcome = failure === null ? 'succeeded' : failure.isCancelled ? 'cancelled' : 'failed';
  const tasks = job.tasks.map((t): Task => {
    if (t.state === 'Pending') return { ...t, state: failure === null ? 'Skipped' : 'Cancelled' };
    if (t.state !== 'Started') return t;
    const state = failure === null ? 'Succeeded' : failure.isCancelled ? 'Cancelled' : 'Failed';
    return { ...t, state, endedAtMs: nowMs, detail: failure === null ? t.detail : short(failure.message, DETAIL_MAX) };
  });
  const ended: Job = {
    ...job,
    state: failure === null ? 'Succeeded' : failure.isCancelled ? 'Cancelled' : 'Failed',
    endedAtMs: nowMs,
    tasks,
    error: failure === null ? null : { code: failure.code, message: failure.message, hint: failure.hint },
  };
  const place = placeAfter(job.operation, outcome, since);
  const isBack = place.state === since.state && place.activeLocation === since.activeLocation;
  const failed = `${job.operation} ${failure?.isCancelled === true ? 'was cancelled' : 'failed'}: ${failure?.message ?? ''}`;
  return {
    ...content,
    ...place,
    stateReason: short(
      failure === null ? reason : isBack ? String(job.data['originReason'] ?? '') : failed,
      DETAIL_MAX,
    ),
    testFailover: testAfter(content, job, failure),
    job: null,
    jobs: [ended, ...content.jobs].slice(0, RECOVERY_JOBS_MAX),
  };
}

function testAfter(content: RecoveryContent, job: Job, failure: Failure | null): RecoveryContent['testFailover'] {
  const test = content.testFailover;
  if (job.operation === 'cleanup') {
    return failure === null ? { state: 'None', instance: null } : { ...test, state: 'TestFailoverFailed' };
  }
  if (job.operation !== 'test-failover') return test;
  if (failure === null) return { ...test, state: 'TestFailoverCompleted' };
  return failure.isCancelled && test.instance === null
    ? { state: 'None', instance: null }
    : { ...test, state: 'TestFailoverFailed' };
}
