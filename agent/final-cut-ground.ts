/**
 * What a final cut stands on beside the disks: the note that the workload was shut down, which outlives the process and a power cut, and the operator's
 * commands. A simulation passes its own. Owns no state.
 */
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { replaceFileDurably, syncFolder } from '../shared/durable-file.js';
import { errnoOf } from '../shared/errors.js';
import { runHook } from './hook.js';

export interface FinalCutGround {
  readonly note: {
    /** As people find it. */
    readonly path: string;
    /** Null when there is none. */
    load(): Promise<string | null>;
    /** Resolved: it is there, whole, whatever happens. */
    keep(text: string): Promise<void>;
    remove(): Promise<void>;
  };
  readonly runHook: typeof runHook;
}

export function finalCutGround(stateDir: string): FinalCutGround {
  const path = join(stateDir, 'final-cut.json');
  const load = async (): Promise<string | null> => {
    try {
      return await readFile(path, 'utf8');
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return null;
      throw error;
    }
  };
  return {
    note: {
      path,
      load,
      keep: (text) => replaceFileDurably(path, text, { mode: 0o600 }),
      remove: async () => {
        await rm(path, { force: true });
        await syncFolder(stateDir);
      },
    },
    runHook,
  };
}
