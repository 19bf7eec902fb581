/**
 * The tasks of upkeep, in the order in which a run does them, and what is told of each.
 */
export const UPKEEP_TASKS = ['retention', 'merge', 'shortcuts', 'bases', 'gc'] as const;
export type UpkeepTask = (typeof UPKEEP_TASKS)[number];

/** What a task did, for status, metrics and log. */
export interface TaskResult {
  readonly task: UpkeepTask;
  readonly endedAtMs: number;
  /** Manifests committed, points dropped, layers merged away and made, bases and shortcuts built, objects and bytes deleted. */
  readonly commits: number;
  readonly droppedPoints: number;
  readonly mergedLayers: number;
  readonly writtenLayers: number;
  readonly builtBases: number;
  readonly builtShortcuts: number;
  readonly readBytes: number;
  readonly writtenBytes: number;
  readonly deletedObjects: number;
  readonly deletedBytes: number;
  /** Why, in a few lines; more are counted by the last one. */
  readonly reasons: readonly string[];
  readonly problem: string | null;
}

type Figures = { -readonly [K in keyof Omit<TaskResult, 'task' | 'endedAtMs' | 'reasons' | 'problem'>]: TaskResult[K] };
export interface Work extends Figures {
  reasons: string[];
}

export const newWork = (): Work => ({
  commits: 0,
  droppedPoints: 0,
  mergedLayers: 0,
  writtenLayers: 0,
  builtBases: 0,
  builtShortcuts: 0,
  readBytes: 0,
  writtenBytes: 0,
  deletedObjects: 0,
  deletedBytes: 0,
  reasons: [],
});
