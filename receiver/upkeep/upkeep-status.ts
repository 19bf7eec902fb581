/**
 * What upkeep knows of a machine, as plain data for /status, /metrics and the command line.
 */
import type { MachineId } from '../../shared/units.js';
import type { Count } from './gc-plan.js';
import type { MachineUpkeep } from './machine-upkeep.js';
import type { DiskRead } from './disk-loads.js';
import type { SetAside } from './take-over.js';
import type { TaskResult } from './task-result.js';

export interface MachineUpkeepStatus {
  readonly machine: MachineId;
  readonly name: string;
  readonly running: boolean;
  /** The last run of each task. */
  readonly tasks: readonly TaskResult[];
  /** What the last garbage collection found: objects that the manifest names, and others by why they stay. Null before the first. */
  readonly objects: Readonly<Record<string, Count>> | null;
  /** Names that nobody knows, and objects that are named and not there. */
  readonly unknown: readonly string[];
  readonly missing: readonly string[];
  /** Staged objects that were found damaged when the machine was taken over, since the start: how many, and the last of them. */
  readonly setAside: { readonly count: number; readonly last: readonly SetAside[] };
  /** What a restore of the newest point reads of each disk, against one fresh base; empty before the first run. */
  readonly reads: readonly DiskRead[];
}

export function statusOf(
  machine: MachineId,
  name: string,
  upkeep: MachineUpkeep,
  running: boolean,
): MachineUpkeepStatus {
  const { plan = null, locked = { objects: 0, bytes: 0 } } = upkeep.garbage ?? {};
  return {
    machine,
    name,
    running,
    tasks: [...upkeep.results.values()],
    objects:
      plan === null
        ? null
        : { ...Object.fromEntries(plan.kept), ...(locked.objects > 0 ? { 'locked by the store': locked } : {}) },
    unknown: plan?.unknown.slice(0, 20) ?? [],
    missing: plan?.missing.slice(0, 20) ?? [],
    setAside: upkeep.setAside,
    reads: upkeep.reads,
  };
}
