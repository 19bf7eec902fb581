/**
 * What is known of application-consistent points over a restart of the agent: `<stateDir>/application-points.json`, written after each try. A cache: when it
 * is lost or damaged, the next point comes earlier than scheduled.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { replaceFileDurably } from '../../../shared/durable-file.js';

const historySchema = z.strictObject({
  version: z.literal(1),
  lastTryAtMs: z.number().nullable(),
  /** Of scheduled points; an operator's are tries, too, but their failures say nothing about the schedule. */
  failuresInARow: z.int().nonnegative(),
  /** The newest application-consistent point. */
  lastPoint: z.strictObject({ number: z.int(), cutAtMs: z.number() }).nullable(),
  /** Why the last one was not to be had; '' when it was. */
  lastFailure: z.string(),
});
export type PointHistory = Omit<z.infer<typeof historySchema>, 'version'>;

export const NO_HISTORY: PointHistory = { lastTryAtMs: null, failuresInARow: 0, lastPoint: null, lastFailure: '' };

export interface HistoryStore {
  load(): Promise<PointHistory>;
  keep(history: PointHistory): Promise<void>;
}

export function historyIn(stateDir: string): HistoryStore {
  const path = join(stateDir, 'application-points.json');
  return {
    load: async () => {
      try {
        const { version: _, ...history } = historySchema.parse(JSON.parse(await readFile(path, 'utf8')));
        return history;
      } catch {
        return NO_HISTORY;
      }
    },
    keep: (history) => replaceFileDurably(path, `${JSON.stringify({ version: 1, ...history })}\n`, { mode: 0o600 }),
  };
}
