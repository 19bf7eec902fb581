/** Options of `afterimage upkeep`, apart from its work: the command line is made without loading that. */
import type { UpkeepTask } from '../upkeep/machine-upkeep.js';
import type { GlobalOptions } from './io.js';

export const UPKEEP_TASK_NAMES: readonly UpkeepTask[] = ['retention', 'merge', 'bases', 'gc'];

export interface UpkeepOptions extends GlobalOptions {
  readonly task?: UpkeepTask;
  readonly dryRun?: boolean;
}
