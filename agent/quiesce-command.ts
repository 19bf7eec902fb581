/**
 * `afterimage-agent quiesce --dry-run`: what would be frozen and quiesced for a stronger point, and why. Changes nothing and needs no running agent.
 */
import { existsSync } from 'node:fs';
import { usageError } from '../shared/errors.js';
import type { AgentConfig } from './config.js';
import type { Source } from './disks/footprint.js';
import { inspectDevice } from './disks/inspect.js';
import { locateDisk } from './disks/locate.js';
import { Sysfs } from './disks/sysfs.js';
import { loadProtection } from './protection.js';
import { planOfMachine } from './quiesce/plan/machine-plan.js';
import type { QuiescePlan } from './quiesce/plan/plan.js';

/** `devices`: to be looked at instead of the protected disks. */
export async function dryRun(
  config: AgentConfig,
  configPath: string,
  devices: readonly string[],
  newUuid: () => string,
): Promise<QuiescePlan> {
  const sysfs = new Sysfs();
  const { disks, kept } = await loadProtection(config.stateDir);
  const paths = devices.length > 0 ? devices : disks.map((disk) => locateDisk(sysfs, disk.id, kept) ?? disk.path);
  if (paths.length === 0)
    throw usageError('no disk is protected', 'Name devices, or `afterimage-agent protect DEVICE` first.');
  const sources: Source[] = [];
  for (const path of paths) {
    // A protected disk that is away has no filesystems either.
    if (devices.length === 0 && !existsSync(path)) continue;
    sources.push(inspectDevice(path, { sysfs, protectedDisks: [], kept, newUuid }).source);
  }
  return planOfMachine(sysfs, sources, config, configPath, false);
}
