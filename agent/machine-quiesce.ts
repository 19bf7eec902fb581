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
import { withFrozen } from './quiesce/freeze.js';
import { freezePlanFor, openMount, type MountedFilesystem } from './quiesce/mounts.js';

export interface FreezeSettings {
  readonly enabled: boolean;
  readonly deadline: number;
}

/** Looks at the mounts only when the fallback is used: mounts change, and most cycles never need them. */
export function quiesceFor(
  sysfs: Sysfs,
  sources: readonly Source[],
  settings: FreezeSettings,
  clock: Clock,
  log: Logger,
): CutContext['quiesce'] {
  if (!settings.enabled) return { unavailable: 'freezing is switched off in the configuration' };
  const plan = freezePlanFor(sysfs, sources);
  if (plan.freeze.length === 0) return { unavailable: 'no filesystem that can be frozen is mounted on the disks' };
  return { use: quiesceOf(plan.freeze, settings.deadline, clock, log) };
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

function quiesceOf(filesystems: readonly MountedFilesystem[], deadlineMs: number, clock: Clock, log: Logger): Quiesce {
  return {
    presync: () => syncAll(filesystems),
    withFrozen: async (beforeFreeze, work) => {
      const outcome = await withFrozen(filesystems, { deadlineMs, clock, log, beforeFreeze }, () => work());
      return outcome.held
        ? { freezeMs: outcome.freezeMs, held: true, reason: '' }
        : { freezeMs: outcome.freezeMs, held: false, reason: `${outcome.reason}: ${outcome.detail}` };
    },
  };
}
