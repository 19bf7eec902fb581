/**
 * Test failover and its cleanup: a copy that is thrown away. Neither touches the chain or home.
 */
import { recorded, type OperationDefinition, type TaskDefinition } from '../task.js';
import { discardCopies } from './ending.js';
import {
  bootCheck,
  checkOwner,
  checkProvider,
  PREREQUISITES,
  prepareDisks,
  processLatest,
  startMachine,
} from './shared-tasks.js';

export const testFailover: OperationDefinition = {
  tasks: [
    { name: PREREQUISITES, run: async (context) => ({ detail: await checkProvider(context, 'test') }) },
    processLatest(false),
    prepareDisks('test'),
    startMachine('test'),
    bootCheck('test'),
  ],
  undo: async (context) => {
    if (context.job.data['keepCopy'] !== true || context.job.data['cancelled'] === true) {
      await discardCopies(context, ['instance']);
    }
  },
};

const endTest: TaskDefinition = {
  name: 'Delete test virtual machine',
  run: async (context) => {
    const { instance } = context.content.testFailover;
    if (instance === null) return { state: 'Skipped', detail: 'there is none' };
    if (instance.receiver !== context.settings.receiver) {
      return { detail: `receiver ${instance.receiverName} does not answer; it removes what it has when it is back` };
    }
    await context.copies.discard(instance.id, context);
    return { detail: 'guest, volumes and sockets are gone' };
  },
};

/** A drill has succeeded when the test did and nothing of it is left. */
const record: TaskDefinition = {
  name: 'Record the result',
  run: async (context) => {
    const { request, job } = context;
    const succeeded = recorded(job, 'originTest') === 'TestFailoverCompleted';
    const notes = request.operation === 'cleanup' && request.notes !== '' ? `; notes: ${request.notes}` : '';
    return {
      detail: `the test failover ${succeeded ? 'succeeded' : 'did not succeed'}${notes}`,
      data: { drillSucceeded: succeeded },
    };
  },
};

export const cleanup: OperationDefinition = {
  tasks: [
    {
      name: PREREQUISITES,
      run: async (context) => ({ detail: await checkOwner(context, context.content.testFailover.instance) }),
    },
    endTest,
    record,
  ],
  undo: () => Promise.resolve(),
};
