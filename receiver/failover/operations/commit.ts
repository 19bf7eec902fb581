/** Commit: the failover stands, home's own state is given up. A record and nothing else. */
import type { OperationDefinition } from '../task.js';
import { PREREQUISITES } from './shared-tasks.js';

export const commit: OperationDefinition = {
  tasks: [
    {
      name: PREREQUISITES,
      run: ({ content }) => {
        const at = content.failover === null ? 'nowhere' : `at receiver ${content.failover.receiverName}`;
        return Promise.resolve({ detail: `the machine runs ${at}` });
      },
    },
    {
      name: 'Commit',
      run: () => Promise.resolve({ detail: 'from here the way home is a failback' }),
    },
  ],
  undo: () => Promise.resolve(),
};
