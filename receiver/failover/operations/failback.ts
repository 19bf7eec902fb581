/**
 * Failback: home is brought up to the copy, the copy ends, home gets the right to write back.
 *
 * Until the generation is raised everything can be put back: the guest is started again. From then on the job only goes on. Home may write only when
 * its right is recorded, which happens after the guest is down, replication has stopped and the generation is raised: a crash between two of
 * these leaves nobody who may write, never two.
 */
import { FAILBACK_REST_BYTES, FAILBACK_ROUNDS_MAX } from '../../../shared/limits.js';
import { asSeriesId, formatDuration } from '../../../shared/units.js';
import { CLOSE } from '../../../shared/wire/close-codes.js';
import type { ManifestContent } from '../../catalog/owned-machine.js';
import type { Job } from '../../catalog/recovery.js';
import type { RestoreReport } from '../../session/home-agent.js';
import { takeGeneration } from '../take-generation.js';
import { recorded, recordedNumber, type OperationDefinition, type TaskContext, type TaskDefinition } from '../task.js';
import { expectedGeneration } from './ending.js';
import { callHome, followOnce, prepareHome, reportText, restoreHome } from './home-sync.js';
import { copyIsSound } from './reprotect.js';
import { openCopy } from './shared-tasks.js';

const SERIES = 'series.';

/** What went home in all rounds of the job, for its record. */
function withMoved(job: Job, reports: readonly RestoreReport[]): Job['data'] {
  const sum = (key: string, of: (report: RestoreReport) => number): Job['data'] => ({
    [key]: reports.reduce((bytes, report) => bytes + of(report), Number(job.data[key] ?? 0)),
  });
  return { ...sum('movedDataBytes', (r) => r.dataBytes), ...sum('movedBytes', (r) => r.sentBytes) };
}

const synchronize: TaskDefinition = {
  name: 'Synchronize data',
  run: async (context) => {
    await callHome(context, 'the machine comes home: its disks are brought up to date first');
    let report = await followOnce(context, 'failback');
    const reports = [report];
    while (reports.length < FAILBACK_ROUNDS_MAX && report.dataBytes > FAILBACK_REST_BYTES) {
      context.say(`round ${reports.length}: ${reportText(report)}`);
      report = await followOnce(context, 'failback');
      reports.push(report);
    }
    const rounds = reports.length === 1 ? 'one round' : `${reports.length} rounds`;
    return { detail: `${rounds}; ${reportText(report)}`, data: withMoved(context.job, reports) };
  },
};

const shutDown: TaskDefinition = {
  name: 'Shut down virtual machine',
  run: async (context) => {
    const { request, parts } = context;
    if (request.operation !== 'failback') throw new Error('not a failback');
    const copy = await openCopy(context, 'failover');
    if (context.job.data['guestDown'] !== true)
      await context.set({ guestDown: true, shutdownAtMs: parts.clock.nowMs() });
    const { shutdownTimeoutMs: timeoutMs, force } = request;
    const { signal, say } = context;
    const how = await copy.provider.shutdown(copy.spec, { timeoutMs, force, signal, say });
    await copy.refreshGuest();
    return {
      detail:
        how === 'clean' ? 'powered off' : how === 'forced' ? 'did not power off in time and was ended' : 'did not run',
      data: { downAtMs: parts.clock.nowMs() },
    };
  },
};

/** After it no point is made any more: home is brought to exactly this one. */
const lastCut: TaskDefinition = {
  name: 'Last cut',
  run: async (context) => {
    if (context.job.data['replicationStopped'] !== true) {
      const copy = await openCopy(context, 'failover');
      await copy.startReplication(context.signal);
      await copy.stopServing();
      const point = await copy.pointNow('last cut of the failback');
      await context.set({ replicationStopped: true, lastPoint: point });
    }
    await context.copies.release(recorded(context.job, 'previousInstance'));
    return { detail: `point ${recordedNumber(context.job, 'lastPoint')} holds everything that the copy wrote` };
  },
};

const restoreTask: TaskDefinition = {
  name: 'Restore home',
  run: async (context) => {
    const { parts, machine, job } = context;
    const report = await restoreHome(context, recordedNumber(job, 'lastPoint'), true);
    const series: Job['data'] = {};
    for (const [disk, id] of parts.home.seriesAfterRestore(machine)) series[`${SERIES}${disk}`] = id;
    return { detail: `${reportText(report)}; proven by digest`, data: { ...series, ...withMoved(job, [report]) } };
  },
};

/** Home tracks its disks under these series since they were restored: it goes on with differences alone. */
const withSeries =
  (job: Job) =>
  (content: ManifestContent): ManifestContent => ({
    ...content,
    disks: content.disks.map((disk) => {
      const series = job.data[`${SERIES}${disk.id}`];
      return typeof series === 'string' ? { ...disk, series: asSeriesId(series) } : disk;
    }),
  });

const giveBack: TaskDefinition = {
  name: 'Give home the right back',
  run: async (context) => {
    const { parts, machine, job } = context;
    const expected = await expectedGeneration(context);
    if (job.data['noReturn'] !== true) await context.set({ noReturn: true });
    const generation = await takeGeneration(parts, machine, job.id, expected, withSeries(job));
    const nowMs = parts.clock.nowMs();
    const downMs = Math.max(0, nowMs - recordedNumber(context.job, 'shutdownAtMs'));
    return {
      detail: `generation ${generation}; ${formatDuration(downMs)} after the guest was asked to power off`,
      data: { homeGrantedAtMs: nowMs, downtimeMs: downMs },
      change: (content) => ({ ...content, failover: null, home: { mode: 'replicate', generation } }),
    };
  },
};

const cleanUp: TaskDefinition = {
  name: 'Clean up',
  run: async (context) => {
    const { parts, machine, copies, job } = context;
    await parts.home.disconnect(machine, CLOSE.comeAnew, 'the machine is home again: replicate');
    await copies.discard(recorded(job, 'previousInstance'), context);
    return { detail: 'guest and volumes are gone' };
  },
};

/** The guest is started again if it was shut down. */
async function undo(context: TaskContext): Promise<void> {
  if (context.job.data['guestDown'] !== true || context.job.data['noReturn'] === true) return;
  if (context.job.data['replicationStopped'] === true) await context.set({ replicationStopped: false });
  const copy = await openCopy(context, 'failover');
  await copy.startReplication(context.signal);
  await copy.start(context);
  await copy.refreshGuest();
}

export const failback: OperationDefinition = {
  tasks: [copyIsSound, prepareHome, synchronize, shutDown, lastCut, restoreTask, giveBack, cleanUp],
  undo,
};
