/**
 * `afterimage launch-settings MACHINE [--set FILE]`: how a machine is started here. They lie in the store: no receiver has to run.
 */
import { randomUUID } from 'node:crypto';
import { stringify } from 'yaml';
import { usageError } from '../../shared/errors.js';
import type { MachineId } from '../../shared/units.js';
import { launchSettingsSchema, type LaunchSettings } from '../catalog/launch.js';
import { resolveMachine } from '../catalog/machines.js';
import { loadHead } from '../catalog/reader.js';
import { loadLaunchSettings, saveLaunchSettings } from '../catalog/recovery-io.js';
import type { ObjectStore } from '../store/store.js';
import { openConfiguredStore } from './context.js';
import type { CliIo, GlobalOptions } from './io.js';
import { printJson } from './output.js';
import { readYaml } from './read-yaml.js';

export interface LaunchSettingsOptions extends GlobalOptions {
  /** A file, or `-` for standard input. */
  readonly set?: string;
}

export async function launchSettingsCommand(word: string, options: LaunchSettingsOptions, io: CliIo): Promise<void> {
  // What is wrong with a file is said before anything is looked up.
  const wish = options.set === undefined ? null : await readYaml(options.set, launchSettingsSchema, io);
  const store = await openConfiguredStore(options, io);
  try {
    const machine = await resolveMachine(store, word);
    if (wish !== null) {
      await checkDisks(store, machine, wish);
      await saveLaunchSettings({ store, clock: io.clock, randomId: randomUUID }, machine, wish);
    }
    const settings = wish ?? (await loadLaunchSettings(store, machine));
    if (options.json === true) printJson(io, settings);
    else if (wish !== null) io.err.write(`Launch settings of ${word} are replaced; the next start uses them.\n`);
    else if (Object.keys(settings).length === 0) io.err.write(`${word} has none: all follows from its description.\n`);
    else io.out.write(stringify(settings));
  } finally {
    await store.close();
  }
}

/** A disk that doesn't exist would be found out in the middle of a failover. */
async function checkDisks(store: ObjectStore, machine: MachineId, { disks }: LaunchSettings): Promise<void> {
  if (disks === undefined) return;
  const known: readonly string[] = ((await loadHead(store, machine))?.disks ?? []).map((d) => d.id);
  const unknown = disks.filter((disk) => !known.includes(disk));
  if (unknown.length === 0) return;
  throw usageError(
    `the machine has no disk ${unknown.join(', ')}`,
    `Its disks: ${known.join(', ') || 'none yet'}. Nothing was changed.`,
  );
}
