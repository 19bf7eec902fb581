/**
 * Bringing home's disks to the copy's newest point while the copy runs on: for reprotect once, for failback until little is left.
 */
import { CLOSE } from '../../../shared/wire/close-codes.js';
import { formatBytes } from '../../../shared/units.js';
import type { RestoreReport } from '../../session/home-agent.js';
import type { TaskContext, TaskDefinition } from '../task.js';
import { openCopy } from './shared-tasks.js';
import { withData } from '../jobs.js';

/** From here home's disks are overwritten: it can't go on with its own any more. */
export const prepareHome: TaskDefinition = {
  name: 'Prepare home',
  run: async (context) => {
    if (context.content.home.mode !== 'restore') {
      await context.update((content) => ({
        ...content,
        home: { mode: 'restore', reason: 'the machine runs in the recovery site; home follows' },
        job: content.job && withData(content.job, { passed: true }),
      }));
    } else await context.set({ passed: true });
    return { detail: 'its agent pulls points onto its disks and commits none' };
  },
};

/** Its agent may be at another receiver, in a session from before or because we were taken for gone, and nothing moves it from there but a call. */
export async function restoreHome(context: TaskContext, point: number, final: boolean): Promise<RestoreReport> {
  const { parts, machine, signal } = context;
  const release = parts.fleet?.call(machine);
  try {
    return await parts.home.restore(
      machine,
      { point, final },
      {
        signal,
        onStep: ({ step, detail, percent }) =>
          context.progress(`point ${point}: ${step}${percent === null ? '' : ` ${Math.floor(percent)} %`} ${detail}`),
      },
    );
  } finally {
    release?.();
  }
}

export const reportText = (report: RestoreReport): string =>
  `point ${report.point}: ${formatBytes(report.dataBytes)} of blocks moved, ${formatBytes(report.sentBytes)} in all`;

/** One round: a point of now, and home brought to it. */
export async function followOnce(context: TaskContext, reason: string): Promise<RestoreReport> {
  const copy = await openCopy(context, 'failover');
  await copy.startReplication(context.signal);
  const point = await copy.pointNow(reason);
  context.progress(`point ${point}: waiting for the agent at home`);
  return restoreHome(context, point, false);
}

/** An agent that was refused asks again seldom; one that has a session of another kind is told to come anew. */
export async function callHome(context: TaskContext, text: string): Promise<void> {
  if (context.parts.home.stateOf(context.machine) === 'replicating') {
    await context.parts.home.disconnect(context.machine, CLOSE.comeAnew, text);
  }
}
