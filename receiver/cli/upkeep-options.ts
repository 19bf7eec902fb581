/** Options of `afterimage upkeep`, apart from its work: the command line is made without loading that. */
import type { UpkeepTask } from '../upkeep/task-result.js';
import type { GlobalOptions } from './io.js';

export const UPKEEP_TASK_NAMES: readonly UpkeepTask[] = ['retention', 'merge', 'shortcuts', 'bases', 'gc'];

export interface UpkeepOptions extends GlobalOptions {
  readonly task?: UpkeepTask;
  readonly dryRun?: boolean;
}
