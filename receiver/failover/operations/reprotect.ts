/**
 * Reprotect: the other direction. The copy replicates since its first second; now home's disks follow, continuously (follow.ts).
 */
import type { OperationDefinition, TaskDefinition } from '../task.js';
import { callHome, followOnce, prepareHome, reportText } from './home-sync.js';
import { openCopy, PREREQUISITES } from './shared-tasks.js';

/** The copy is open and replicated: nothing can follow a copy that isn't. */
export const copyIsSound: TaskDefinition = {
  name: PREREQUISITES,
  run: async (context) => {
    const copy = await openCopy(context, 'failover');
    await copy.startReplication(context.signal);
    await copy.refreshGuest();
    return { detail: `the copy is replicated; its guest: ${copy.guest}` };
  },
};

const synchronize: TaskDefinition = {
  name: 'Synchronize data',
  run: async (context) => {
    await callHome(context, 'the machine is reprotected: home follows');
    return { detail: reportText(await followOnce(context, 'reprotect')) };
  },
};

export const reprotect: OperationDefinition = {
  tasks: [copyIsSound, prepareHome, synchronize],
  undo: () => Promise.resolve(),
};
