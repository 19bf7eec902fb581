/**
 * `afterimage jobs MACHINE [--job ID]`: what was done with a machine, by which steps, and what came of it.
 */
import { usageError } from '../../shared/errors.js';
import { isUuid } from '../../shared/units.js';
import type { Job } from '../catalog/recovery.js';
import type { RecoveryService, RecoveryView } from '../failover/operations.js';
import { configuredSocket, openReceiver } from './context.js';
import type { CliIo, GlobalOptions } from './io.js';
import { oneLine, taskLines, titleOf, tookText } from './job-view.js';
import { localIso, printJson, table } from './output.js';
import { viewOf } from './run-operation.js';

export interface JobsOptions extends GlobalOptions {
  readonly job?: string;
}

export async function jobsCommand(word: string, options: JobsOptions, io: CliIo): Promise<void> {
  const service = await openReceiver(options, io);
  const view = await viewOf(service, word, await configuredSocket(options));
  if (options.job !== undefined) {
    const job = await jobOf(service, view, options.job);
    if (options.json === true) printJson(io, job);
    else io.out.write(jobText(job, view.machine.name, io.clock.nowMs()));
    return;
  }
  const jobs = jobsOf(view);
  if (options.json === true) printJson(io, { machine: view.machine, jobs });
  else if (jobs.length === 0) io.err.write(`Nothing was done with machine ${view.machine.name} yet.\n`);
  else io.out.write(jobsTable(jobs, io.clock.nowMs()));
}

/** Newest first: the running one, then those that ended. */
const jobsOf = ({ recovery }: RecoveryView): Job[] =>
  recovery === null ? [] : [...(recovery.job === null ? [] : [recovery.job]), ...recovery.jobs];

/** By its id, or by a beginning of it among the jobs that are shown. */
async function jobOf(service: RecoveryService, view: RecoveryView, word: string): Promise<Job> {
  const id = word.toLowerCase();
  if (isUuid(id)) return service.job(view.machine.id, id);
  const fits = jobsOf(view).filter((job) => job.id.startsWith(id));
  const [only] = fits;
  if (only !== undefined && fits.length === 1) return only;
  const what = fits.length === 0 ? 'fits no job' : `fits ${fits.length} jobs`;
  throw usageError(`"${word}" ${what} of ${view.machine.name}`, `See \`afterimage jobs ${view.machine.name}\`.`);
}

const jobsTable = (jobs: readonly Job[], nowMs: number): string =>
  table(
    [
      { title: 'JOB' },
      { title: 'OPERATION' },
      { title: 'STATE' },
      { title: 'BEGAN' },
      { title: 'TOOK', right: true },
      { title: 'RESULT' },
    ],
    jobs.map((job) => [
      job.id,
      job.operation,
      job.state,
      localIso(job.startedAtMs),
      tookText(job, nowMs),
      oneLine(job.error?.message ?? currentTask(job)?.name ?? ''),
    ]),
  );

const currentTask = (job: Job): Job['tasks'][number] | undefined => job.tasks.find((t) => t.state === 'Started');

function jobText(job: Job, machine: string, nowMs: number): string {
  const parts = [
    `${titleOf(job, machine)}: ${job.state}, began ${localIso(job.startedAtMs)}, ${tookText(job, nowMs)}\n`,
  ];
  const lines = taskLines(job, nowMs);
  job.tasks.forEach((task, at) => {
    parts.push(`${lines[at] ?? ''}\n`, ...task.output.map((line) => `    | ${oneLine(line)}\n`));
  });
  if (job.error !== null) {
    parts.push(`${job.error.message}\n`);
    if (job.error.hint !== null) parts.push(`  ${job.error.hint}\n`);
  }
  return parts.join('');
}
