/**
 * Cancel of a failover that isn't committed: the copy ends, home goes on with what it has. Points that the copy made stay in the chain; home compares.
 * Also of one that had not come so far when its receiver was lost: there is no copy then, but home's workload may have been shut down for it.
 */
import { CLOSE } from '../../../shared/wire/close-codes.js';
import { takeGeneration } from '../take-generation.js';
import type { OperationDefinition, TaskDefinition } from '../task.js';
import { discardCopies, expectedGeneration } from './ending.js';
import { checkOwner, PREREQUISITES } from './shared-tasks.js';

const endMachine: TaskDefinition = {
  name: 'End virtual machine',
  run: async (context) => {
    const { failover } = context.content;
    // Nothing is changed that a failed cancel would have to tell of: home stays as it is.
    if (failover === null) return { state: 'Skipped', detail: 'none runs' };
    await context.set({ passed: true });
    if (failover.receiver !== context.settings.receiver) {
      return {
        detail: `receiver ${failover.receiverName} does not answer: it is fenced, and ends the guest as soon as it learns of it`,
      };
    }
    await discardCopies(context, ['previousInstance']);
    return { detail: 'guest and volumes are gone; its points stay' };
  },
};

/** The generation is raised first: until home's right is recorded, nobody may write. */
const giveBack: TaskDefinition = {
  name: 'Give home the right back',
  run: async (context) => {
    const { parts, machine, job } = context;
    const expected = await expectedGeneration(context);
    const generation = await takeGeneration(parts, machine, job.id, expected);
    return {
      detail: `generation ${generation}`,
      change: (content) => ({ ...content, failover: null, home: { mode: 'replicate', generation } }),
    };
  },
};

const resume: TaskDefinition = {
  name: 'Resume source',
  run: async (context) => {
    await context.parts.home.resumeHome(context.machine);
    await context.parts.home.disconnect(context.machine, CLOSE.comeAnew, 'the failover was cancelled: home goes on');
    return { detail: 'home replicates as soon as its agent connects' };
  },
};

export const cancel: OperationDefinition = {
  tasks: [
    {
      name: PREREQUISITES,
      run: async (context) => ({ detail: await checkOwner(context, context.content.failover) }),
    },
    endMachine,
    giveBack,
    resume,
  ],
  undo: () => Promise.resolve(),
};
