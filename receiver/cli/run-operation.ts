/**
 * Begins an operation at the receiver and watches its job to the end. The job is the receiver's: whoever stops watching doesn't stop it.
 */
import { AfterimageError } from '../../shared/errors.js';
import { JOB_POLL_MS, JOB_WATCH_RETRY_MS } from '../../shared/limits.js';
import type { MachineId } from '../../shared/units.js';
import { pickMachine } from '../catalog/machines.js';
import type { Job } from '../catalog/recovery.js';
import type { OperationRequest, RecoveryService, RecoveryView } from '../failover/operations.js';
import { confirm } from './confirm.js';
import { configuredSocket, openReceiver } from './context.js';
import type { CliIo, GlobalOptions } from './io.js';
import { jobView, oneLine, titleOf, tookText, type JobView } from './job-view.js';
import { printJson } from './output.js';

export interface RunOptions extends GlobalOptions {
  /** False with --no-wait. */
  readonly wait: boolean;
  readonly yes?: boolean;
}

/** What is asked before an operation that gives something up; null where nothing is. */
export type Question = (view: RecoveryView) => string | null;

/** Lines of a failed task's output that are shown at once; all of them are in `afterimage jobs`. */
const OUTPUT_SHOWN = 10;

/** The machine that a word means, among those that the receiver knows. */
export async function viewOf(service: RecoveryService, word: string, socket: string): Promise<RecoveryView> {
  const machines = (await service.list()).map((view) => view.machine);
  return service.view(pickMachine(word, machines, `the receiver on ${socket}`));
}

export async function runOperation(
  word: string,
  request: OperationRequest,
  question: Question,
  options: RunOptions,
  io: CliIo,
): Promise<void> {
  const service = await openReceiver(options, io);
  const view = await viewOf(service, word, await configuredSocket(options));
  // What isn't allowed is refused by the receiver, with its reason: no need to ask a person first.
  const isAllowed = view.allowedOperations.some((o) => o.operation === request.operation && o.allowed);
  const asked = options.yes === true || !isAllowed ? null : question(view);
  if (asked !== null) await confirm(io, asked);
  const { id, name } = view.machine;
  const begun = await service.begin(id, request);
  if (!options.wait) {
    if (options.json === true) printJson(io, begun);
    else io.out.write(`${begun.id}\n`);
    return;
  }
  const silent: JobView = { show: () => undefined, note: () => undefined };
  const shown = options.json === true ? silent : jobView(io, name);
  const job = await watchJob(service, id, name, begun, shown, io);
  if (options.json === true) printJson(io, job);
  conclude(job, request, name, options, io);
}

async function watchJob(
  service: RecoveryService,
  machine: MachineId,
  name: string,
  begun: Job,
  view: JobView,
  io: CliIo,
): Promise<Job> {
  let job = begun;
  let silentSinceMs: number | null = null;
  for (;;) {
    if (silentSinceMs === null) view.show(job);
    if (job.state !== 'InProgress') return job;
    await io.clock.sleep(JOB_POLL_MS, io.signal);
    try {
      job = await service.job(machine, job.id);
      silentSinceMs = null;
    } catch (error) {
      if (io.signal.aborted) throw goesOn(job, name);
      if (!(error instanceof AfterimageError) || error.kind !== 'disconnected') throw error;
      // A receiver that is started again goes on with its jobs.
      const now = io.clock.monotonicMs();
      if (silentSinceMs === null) view.note(`${error.message}; waiting for it`);
      silentSinceMs ??= now;
      if (now - silentSinceMs > JOB_WATCH_RETRY_MS) throw error;
    }
  }
}

const goesOn = (job: Job, name: string): AfterimageError =>
  new AfterimageError(`no longer watching: ${titleOf(job, name)} goes on at the receiver`, {
    code: 'watch-ended',
    kind: 'cancelled',
    hint: `See \`afterimage jobs ${name} --job ${job.id}\`; end it with \`afterimage cancel ${name}\`.`,
  });

function conclude(job: Job, request: OperationRequest, name: string, options: RunOptions, io: CliIo): void {
  const { operation } = request;
  // Whoever cancels a job wants to see it cancelled.
  const isDone = job.state === 'Succeeded' || (operation === 'cancel' && job.state === 'Cancelled');
  if (isDone) {
    if (options.json === true) return;
    io.err.write(`${titleOf(job, name)}: ${job.state} after ${tookText(job, io.clock.nowMs())}\n`);
    const next = nextStep(request, name);
    if (next !== null) io.err.write(`  ${next}\n`);
    return;
  }
  if (options.json !== true) sayOutput(job, io);
  const { code, message, hint } = job.error ?? { code: 'job-cancelled', message: 'it was cancelled', hint: null };
  throw new AfterimageError(`${titleOf(job, name)}: ${job.state}: ${message}`, {
    code,
    kind: job.state === 'Cancelled' ? 'cancelled' : 'io',
    hint: hint ?? `See \`afterimage status ${name}\` for what can be done.`,
  });
}

function sayOutput(job: Job, io: CliIo): void {
  for (const task of job.tasks) {
    if (task.state !== 'Failed') continue;
    for (const line of task.output.slice(-OUTPUT_SHOWN)) io.err.write(`  | ${oneLine(line)}\n`);
  }
}

function nextStep(request: OperationRequest, name: string): string | null {
  switch (request.operation) {
    case 'test-failover':
      return `See it with \`afterimage status ${name}\`; end it with \`afterimage cleanup ${name}\`.`;
    case 'failover':
    case 'planned-failover':
      return request.commit ? reprotectStep(name) : commitStep(name);
    case 'change-point':
      return commitStep(name);
    case 'commit':
      return reprotectStep(name);
    case 'reprotect':
      return `When home should take over again: \`afterimage failback ${name}\`.`;
    case 'cleanup':
    case 'cancel':
    case 'failback':
      return null;
  }
}

const commitStep = (name: string): string =>
  `Look at it, then \`afterimage commit ${name}\`; or \`afterimage change-point ${name} --point P\`, or \`afterimage cancel ${name}\`.`;
const reprotectStep = (name: string): string => `To bring home up to date: \`afterimage reprotect ${name}\`.`;
