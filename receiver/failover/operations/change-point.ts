/**
 * Change of the recovery point: the copy is thrown away and another begins with the chosen point. What the copy wrote stays in the chain up to its
 * last point. The new copy has a generation of its own, so that points made before and after are told apart; see README, "One way on".
 */
import { messageOf } from '../../../shared/errors.js';
import type { OperationDefinition, TaskDefinition } from '../task.js';
import { discardCopies } from './ending.js';
import {
  bootCheck,
  checkProvider,
  PREREQUISITES,
  prepareDisks,
  processLatest,
  startMachine,
  startReplication,
  takeOverGeneration,
} from './shared-tasks.js';

const endMachine: TaskDefinition = {
  name: 'End virtual machine',
  run: async (context) => {
    const { copies, job } = context;
    const previous = job.data['previousInstance'];
    if (typeof previous !== 'string') return { state: 'Skipped', detail: 'none runs' };
    await context.set({ passed: true });
    await copies.kill(previous, context);
    const copy = copies.get(previous);
    await copy?.stopServing();
    const last = await copy?.pointNow('last cut before the change of the recovery point').then(
      (point) => `its last point is ${point}`,
      (error: unknown) => `what it wrote since its last point is lost: ${messageOf(error)}`,
    );
    await copies.discard(previous, context);
    return { detail: last ?? 'it was not open' };
  },
};

export const changePoint: OperationDefinition = {
  tasks: [
    { name: PREREQUISITES, run: async (context) => ({ detail: await checkProvider(context, 'failover') }) },
    processLatest(true),
    endMachine,
    takeOverGeneration,
    prepareDisks('failover'),
    startReplication,
    startMachine('failover'),
    bootCheck('failover'),
  ],
  undo: async (context) => {
    if (context.job.data['passed'] === true) await discardCopies(context, ['previousInstance', 'instance']);
  },
};
