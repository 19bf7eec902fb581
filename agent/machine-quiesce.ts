/**
 * The cut's fallback for this machine: which filesystems lie on its disks now, and how they are flushed and frozen.
 */
import { closeSync } from 'node:fs';
import type { Logger } from 'pino';
import type { Clock } from '../shared/clock.js';
import { syncfsAsync } from '../shared/native/libc.js';
import type { CutContext, Quiesce } from './cycle/cut.js';
import type { Source } from './disks/footprint.js';
import type { Sysfs } from './disks/sysfs.js';
import { withFrozen, type FreezeOptions } from './quiesce/freeze.js';
import { freezePlanFor, openMount, type MountedFilesystem } from './quiesce/mounts.js';

export interface FreezeSettings {
  readonly enabled: boolean;
  readonly deadline: number;
}

export interface MachineFreeze {
  readonly quiesce: CutContext['quiesce'];
  /** What would be frozen, in that order. */
  readonly filesystems: readonly MountedFilesystem[];
}

/** Of the mounts as they are now: they change. */
export function quiesceFor(
  sysfs: Sysfs,
  sources: readonly Source[],
  settings: FreezeSettings,
  notePath: string,
  clock: Clock,
  log: Logger,
): MachineFreeze {
  const not = (unavailable: string): MachineFreeze => ({ quiesce: { unavailable }, filesystems: [] });
  if (!settings.enabled) return not('freezing is switched off in the configuration');
  const filesystems = freezePlanFor(sysfs, sources).freeze;
  if (filesystems.length === 0) return not('no filesystem that can be frozen is mounted on the disks');
  return {
    quiesce: { use: quiesceOf(filesystems, { deadlineMs: settings.deadline, notePath, clock, log }) },
    filesystems,
  };
}

/** Writes what the filesystems on these disks hold back. */
export async function syncFilesystems(sysfs: Sysfs, sources: readonly Source[]): Promise<void> {
  await syncAll(freezePlanFor(sysfs, sources).freeze);
}

async function syncAll(filesystems: readonly MountedFilesystem[]): Promise<void> {
  for (const filesystem of filesystems) {
    const fd = openMount(filesystem);
    try {
      await syncfsAsync(fd);
    } finally {
      closeSync(fd);
    }
  }
}

function quiesceOf(filesystems: readonly MountedFilesystem[], options: FreezeOptions): Quiesce {
  return {
    presync: () => syncAll(filesystems),
    withFrozen: async (beforeFreeze, work) => {
      const outcome = await withFrozen(filesystems, { ...options, beforeFreeze }, work);
      const { freezeMs, held } = outcome;
      const reason = outcome.held ? '' : `${outcome.reason}: ${outcome.detail}`;
      return { freezeMs, held, reason, level: 'filesystem', mayFreeze: false };
    },
  };
}
