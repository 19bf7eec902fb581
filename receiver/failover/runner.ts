/**
 * Runs one job to its end, or as far as it came before the process stopped. Each task's beginning and end is recorded before anything follows.
 *
 * Promises: a job that was interrupted goes on with the task that was under way; a failing store or connection is tried again for a bounded time, then
 * the job fails with its reason and puts back what it can; past its point of no return it is tried until it succeeds. A job that somebody else has
 * taken away is left alone.
 */
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { failpoint } from '../../shared/failpoints.js';
import { TASK_BACKOFF_MAX_MS, TASK_BACKOFF_MIN_MS, TASK_RETRY_MS } from '../../shared/limits.js';
import type { Job, Operation } from '../catalog/recovery.js';
import { writeJob } from '../catalog/recovery-records.js';
import type { MachineId } from '../../shared/units.js';
import { placeAfter } from './states.js';
import {
  endJob,
  failureFrom,
  failureOf,
  requestOf,
  undoData,
  withData,
  withTask,
  type Failure,
  type RecoveryContent,
} from './jobs.js';
import type { Copies } from './copies.js';
import { DEFINITIONS } from './operations/index.js';
import type { FailoverParts, FailoverSettings } from './parts.js';
import { contentOf } from './jobs.js';
import { isTransient, type Steps } from './steps.js';
import type { TaskContext, TaskDefinition, TaskResult } from './task.js';

export interface RunnerDeps {
  readonly parts: FailoverParts;
  readonly settings: FailoverSettings;
  readonly copies: Copies;
}

const LINES_MAX = 200;
const slug = (name: string): string => name.toLowerCase().replaceAll(' ', '-');
const taskFailpoint = (operation: Operation, task: string, at: 'begin' | 'end'): void =>
  failpoint(`failover.${operation}.${slug(task)}.${at}`);

export class JobRunner {
  readonly #deps: RunnerDeps;
  readonly #machine: MachineId;
  readonly #steps: Steps;
  readonly #stopped: AbortSignal;
  readonly #cancelled = new AbortController();
  #detail = '';
  #output: string[] = [];

  constructor(deps: RunnerDeps, machine: MachineId, steps: Steps, stopped: AbortSignal) {
    this.#deps = deps;
    this.#machine = machine;
    this.#steps = steps;
    this.#stopped = stopped;
  }

  /** The job with what its running task says of itself, which no object holds yet. */
  get job(): Job | null {
    const { job } = this.#steps.current;
    const running = job?.tasks.find((t) => t.state === 'Started');
    if (job === null || running === undefined) return job;
    return withTask(job, running.name, { detail: this.#detail, output: this.#output });
  }

  /** Ends the job as soon as its task lets go. */
  cancel(): void {
    this.#cancelled.abort();
  }

  /** Resolves when the job has ended or the process stops. Rejects, kind `fenced`, when somebody else has taken the job away. */
  async run(): Promise<void> {
    const { operation } = this.#job;
    const definition = DEFINITIONS[operation];
    if (this.#job.data['phase'] !== 'undo') {
      try {
        for (const task of definition.tasks) await this.#task(task);
        return await this.#end(null);
      } catch (error) {
        if (this.#stopped.aborted || isMoved(error)) throw error;
        const isCancelled = this.#cancelled.signal.aborted;
        this.#log('warn', error, `job ${operation} ${isCancelled ? 'is cancelled' : 'failed'}: ${messageOf(error)}`);
        await this.#steps.update((c) => recordUndo(c, failureOf(error, isCancelled)));
      }
    }
    const failure = failureFrom(this.#job.data);
    await this.#end(await this.#undo(definition.undo, failure));
  }

  get #job(): Job {
    const { job } = this.#steps.current;
    if (job === null) throw new Error('there is no job');
    return job;
  }

  #log(level: 'warn' | 'info', err: unknown, text: string): void {
    this.#deps.parts.log[level]({ err, machine: this.#machine, job: this.#job.id }, text);
  }

  async #task(task: TaskDefinition): Promise<void> {
    const { operation } = this.#job;
    const before = this.#job.tasks.find((t) => t.name === task.name);
    if (before === undefined || !['Pending', 'Started'].includes(before.state)) return;
    this.#detail = '';
    this.#output = [...before.output];
    const { clock } = this.#deps.parts;
    if (before.state === 'Pending') {
      await this.#steps.update((c) =>
        inJob(c, (job) => withTask(job, task.name, { state: 'Started', startedAtMs: clock.nowMs() })),
      );
    }
    taskFailpoint(operation, task.name, 'begin');
    const signal = AbortSignal.any([this.#stopped, this.#cancelled.signal]);
    const result = await this.#retried(signal, () => task.run(this.#context(signal)));
    taskFailpoint(operation, task.name, 'end');
    await this.#steps.update((c) => inJob(result.change?.(c) ?? c, (job) => this.#finished(job, task.name, result)));
    // A cancel that came too late for the task is heard between two tasks, unless the job may only go on.
    if (this.#cancelled.signal.aborted && this.#job.data['noReturn'] !== true) {
      throw new AfterimageError('cancelled by the operator', { code: 'cancelled', kind: 'cancelled' });
    }
  }

  #finished(job: Job, name: string, result: TaskResult): Job {
    const { state = 'Succeeded', detail, data = {} } = result;
    const endedAtMs = this.#deps.parts.clock.nowMs();
    return withData(withTask(job, name, { state, endedAtMs, detail, output: this.#output }), data);
  }

  /** Tries again what failed for want of the store or a connection. */
  async #retried<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    const { clock } = this.#deps.parts;
    const startedMs = clock.monotonicMs();
    for (let waitMs = TASK_BACKOFF_MIN_MS; ; waitMs = Math.min(waitMs * 2, TASK_BACKOFF_MAX_MS)) {
      try {
        return await work();
      } catch (error) {
        const isLate = clock.monotonicMs() - startedMs >= TASK_RETRY_MS;
        const mustGoOn = this.#job.data['noReturn'] === true && !this.#stopped.aborted;
        if (!isTransient(error) || (!mustGoOn && (isLate || signal.aborted))) throw error;
        this.#detail = `tried again after: ${messageOf(error)}`;
        this.#log('warn', error, `a task is tried again after: ${messageOf(error)}`);
        await clock.sleep(waitMs, mustGoOn ? this.#stopped : signal);
      }
    }
  }

  /** What could not be put back is added to the reason: the operator has to know. */
  async #undo(undo: (context: TaskContext) => Promise<void>, failure: Failure): Promise<Failure> {
    try {
      await this.#retried(this.#stopped, () => undo(this.#context(this.#stopped)));
      return failure;
    } catch (error) {
      if (this.#stopped.aborted || isMoved(error)) throw error;
      this.#log('warn', error, `a failed job could not be put back: ${messageOf(error)}`);
      return { ...failure, message: `${failure.message}; and putting things back failed: ${messageOf(error)}` };
    }
  }

  async #end(failure: Failure | null): Promise<void> {
    const { clock, store } = this.#deps.parts;
    const nowMs = clock.nowMs();
    const end = (c: RecoveryContent): RecoveryContent =>
      asCommitted(endJob(c, nowMs, failure, reasonOf(c.job)), failure);
    const ended = end(contentOf(this.#steps.current)).jobs[0];
    if (ended !== undefined)
      await this.#retried(this.#stopped, () => writeJob(store, this.#machine, ended)).catch((error: unknown) => {
        // The newest jobs stand in the recovery object as well.
        this.#log('warn', error, `the record of a job could not be written: ${messageOf(error)}`);
      });
    if (this.#stopped.aborted) return;
    await this.#steps.update(end);
    this.#deps.parts.log.info(
      { machine: this.#machine, job: ended?.id, state: ended?.state },
      `job ${ended?.operation ?? ''} has ended: ${ended?.state ?? ''}`,
    );
  }

  #context(signal: AbortSignal): TaskContext {
    const { parts, settings, copies } = this.#deps;
    const steps = this.#steps;
    const job = (): Job => this.#job;
    return {
      machine: this.#machine,
      parts,
      settings,
      copies,
      signal,
      request: requestOf(job()),
      get content() {
        return contentOf(steps.current);
      },
      get job() {
        return job();
      },
      update: (change) => steps.update(change),
      set: (data) => steps.update((c) => inJob(c, (j) => withData(j, data))),
      say: (line) => {
        this.#output = [...this.#output, line].slice(-LINES_MAX);
      },
      progress: (detail) => {
        this.#detail = detail;
      },
    };
  }
}

const isMoved = (error: unknown): boolean => error instanceof AfterimageError && error.code === 'recovery-moved';

const inJob = (content: RecoveryContent, change: (job: Job) => Job): RecoveryContent => ({
  ...content,
  job: content.job && change(content.job),
});

const recordUndo = (content: RecoveryContent, failure: Failure): RecoveryContent =>
  inJob(content, (job) => withData(job, undoData(failure)));

const reasonOf = (job: Job | null): string => {
  const found = job?.data['bootFailed'];
  return typeof found === 'string' ? found : '';
};

/** A failover that was to be committed at once. */
const asCommitted = (content: RecoveryContent, failure: Failure | null): RecoveryContent => {
  const ended = content.jobs[0];
  if (failure !== null || ended?.data['committed'] !== true) return content;
  return { ...content, ...placeAfter('commit', 'succeeded', { ...content, passed: false }) };
};
