/**
 * Failover, planned or not: the right to write is taken over, and a copy of the machine runs here.
 */
import { AfterimageError, messageOf, usageError } from '../../../shared/errors.js';
import { isNewest } from '../choose-point.js';
import { StepTimes } from '../step-times.js';
import { type OperationDefinition, type TaskContext, type TaskDefinition } from '../task.js';
import {
  bootCheck,
  checkOwner,
  checkProvider,
  mustBeWhole,
  PREREQUISITES,
  prepareDisks,
  processLatest,
  startMachine,
  startReplication,
  takeOverGeneration,
} from './shared-tasks.js';
import { MachineReader } from '../../catalog/reader.js';
import { callOver } from './call-over.js';
import { discardCopies } from './ending.js';

/** Time for the workload's hook when an unplanned failover tries to shut its source down. */
const ATTEMPT_TIMEOUT_MS = 2 * 60_000;

export const prerequisites: TaskDefinition = {
  name: PREREQUISITES,
  run: async (context) => {
    const { request, content } = context;
    if (request.operation === 'planned-failover' && !isNewest(request.point)) {
      throw usageError(
        `a planned failover goes on with the last cut, not with point ${request.point}`,
        'Use `failover`.',
      );
    }
    if (request.operation === 'planned-failover') {
      // Before anything is shut down for it: the last cut goes on from there.
      const view = await MachineReader.open(context.parts.store, context.machine);
      await mustBeWhole(view, view.manifest.lastPoint, 'the newest');
    }
    const owner = await checkOwner(context, content.failover);
    const provider = await checkProvider(context, 'failover');
    return { detail: owner === '' ? provider : `${owner}; ${provider}` };
  },
};

interface LastCut {
  readonly point: number;
  /** How the agent came here; empty: it was here. */
  readonly came: string;
  readonly times: StepTimes;
}

/** Asks the agent at home for a cut after which nothing is written any more. */
async function finalCut(context: TaskContext, hookTimeoutMs: number): Promise<LastCut> {
  const came = await callOver(context);
  // Recorded before: whoever goes on with this job knows that the workload may have been shut down.
  await context.set({ sourceDown: true });
  const times = new StepTimes(context.parts.clock);
  const { point } = await context.parts.home.finalCut(context.machine, {
    hookTimeoutMs,
    signal: context.signal,
    onStep: ({ step, detail }) => {
      times.note(step);
      context.progress(`${step}: ${detail}`);
    },
  });
  return { point, came, times };
}

const lastCutText = ({ point, came, times }: LastCut, what: string): string =>
  [came, `last cut: point ${point}${what}`, times.text()].filter((part) => part !== '').join('; ');

const shutDownSource: TaskDefinition = {
  name: 'Shut down source',
  run: async (context) => {
    const { request, job, machine, parts } = context;
    if (request.operation === 'failover') {
      if (!request.shutdown) return { state: 'Skipped', detail: 'not asked for' };
      try {
        const cut = await finalCut(context, ATTEMPT_TIMEOUT_MS);
        return { detail: lastCutText(cut, ''), data: { finalPointSeen: cut.point, ...cut.times.data() } };
      } catch (error) {
        if (context.signal.aborted || !(error instanceof AfterimageError)) throw error;
        return {
          state: 'Failed',
          detail: `the failover goes on without: ${messageOf(error)}`,
          data: { sourceDown: false },
        };
      }
    }
    if (job.data['originState'] === 'PlannedFailoverFailed') {
      const { manifest } = await MachineReader.open(parts.store, machine);
      return { state: 'Skipped', detail: 'was shut down before', data: { finalPoint: manifest.lastPoint } };
    }
    const timeoutMs = request.operation === 'planned-failover' ? request.hookTimeoutMs : ATTEMPT_TIMEOUT_MS;
    const cut = await finalCut(context, timeoutMs);
    return { detail: lastCutText(cut, '; nothing is lost'), data: { finalPoint: cut.point, ...cut.times.data() } };
  },
};

const commitTask: TaskDefinition = {
  name: 'Commit',
  run: async (context) => {
    const { request, job } = context;
    if (!('commit' in request) || !request.commit) return { state: 'Skipped', detail: 'not asked for' };
    if (typeof job.data['bootFailed'] === 'string') {
      return { state: 'Skipped', detail: 'left to the operator, since the boot check did not pass' };
    }
    return { detail: 'committed', data: { committed: true } };
  },
};

async function undo(context: TaskContext): Promise<void> {
  const { job, parts, machine } = context;
  if (job.data['passed'] === true) await discardCopies(context, ['instance']);
  else if (job.data['sourceDown'] === true) await parts.home.resumeHome(machine);
}

export const failover: OperationDefinition = {
  tasks: [
    prerequisites,
    shutDownSource,
    processLatest(true),
    takeOverGeneration,
    prepareDisks('failover'),
    startReplication,
    startMachine('failover'),
    bootCheck('failover'),
    commitTask,
  ],
  undo,
};
