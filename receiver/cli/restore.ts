/**
 * `afterimage restore MACHINE --point P --to TARGET`: a recovery point onto devices or files. All targets are checked before the first is written.
 */
import { join } from 'node:path';
import { checksum64, digestToText } from '../../shared/blocks/hash.js';
import { usageError } from '../../shared/errors.js';
import { formatBytes, formatDuration } from '../../shared/units.js';
import { resolveMachine } from '../catalog/machines.js';
import type { RecoveryPoint } from '../catalog/manifest.js';
import type { PinnedPoint } from '../catalog/pinned-point.js';
import { parsePointSelector } from '../catalog/point-selector.js';
import type { MachineReader, PointDisk } from '../catalog/reader.js';
import { lackingDisks, lackingText, type LackingDisk } from '../catalog/whole-machine.js';
import type { ObjectStore } from '../store/store.js';
import { IndexCache } from '../volume/index-cache.js';
import { checkRestore, runRestore, type CheckedRestore, type RestoreResult } from '../volume/restore.js';
import { openTarget, type RestoreTarget } from '../volume/target.js';
import type { TargetFormat } from '../volume/target-format.js';
import { startThreadsFor } from '../volume/threads/pool.js';
import { openConfiguredStore } from './context.js';
import type { CliIo, GlobalOptions } from './io.js';
import { planDisk } from './disk-at-point.js';
import { localIso, printJson, tellConcerns } from './output.js';
import { openReadable, pinForCommand } from './pinned.js';
import { progressView } from './progress-view.js';

export interface RestoreOptions extends GlobalOptions {
  readonly point: string;
  readonly disk?: string;
  readonly to: readonly string[];
  readonly sparse?: boolean;
  readonly format?: TargetFormat;
  readonly force?: boolean;
  readonly readBack?: boolean;
  readonly state: string;
}

/**
 * Which disk goes where: `--to DISK=TARGET`, or `--to TARGET` when only one disk is meant. `lacking`: disks of the machine that the point was made without;
 * each disk that it has can be restored, by its name.
 */
export function assignTargets(
  disks: readonly PointDisk[],
  options: Pick<RestoreOptions, 'to' | 'disk'>,
  lacking: readonly LackingDisk[] = [],
): Map<PointDisk, string> {
  const ids = disks.map((d) => d.disk).join(', ');
  const byId = (id: string): PointDisk => {
    const found = disks.find((d) => d.disk === id);
    if (found !== undefined) return found;
    const lacked = lacking.find((d) => d.id === id);
    const hint =
      lacked === undefined
        ? ''
        : ` Point ${lacked.lastPoint} is the last that has it: give --point ${lacked.lastPoint}.`;
    throw usageError(`the point ${lacked === undefined ? 'has no' : 'lacks'} disk ${id}`, `Its disks: ${ids}.${hint}`);
  };
  const only = options.disk === undefined ? undefined : byId(options.disk);
  const assigned = new Map<PointDisk, string>();
  for (const to of options.to) {
    const [before = '', ...rest] = to.split('=');
    // A path may hold an equals sign: what is before it counts as a disk only if it is one.
    const isDisk = [...disks.map((d) => d.disk), ...lacking.map((d) => d.id)].some((id) => id === before);
    const named = rest.length > 0 && isDisk ? byId(before) : undefined;
    // The one disk that a point holds is not the one that is meant when it lacks another.
    const disk = named ?? only ?? (disks.length === 1 && lacking.length === 0 ? disks[0] : undefined);
    if (disk === undefined)
      throw usageError(
        `--to ${to} does not say which disk${lacking.length === 0 ? '' : `, and the point lacks ${lackingText(lacking)}`}`,
        `Give --to DISK=TARGET; disks: ${ids}.`,
      );
    if (assigned.has(disk)) throw usageError(`disk ${disk.disk} has two targets`);
    assigned.set(disk, named === undefined ? to : rest.join('='));
  }
  if (only !== undefined && !assigned.has(only))
    throw usageError(`disk ${only.disk} has no target`, 'Give --to TARGET.');
  const targets = [...assigned.values()];
  if (new Set(targets).size < targets.length) throw usageError('two disks have the same target');
  return assigned;
}

/** Beside a file; for a device in a folder of ours, under a name made of its identity. */
function journalPath(target: RestoreTarget, stateFolder: string): string {
  if (target.kind === 'file') return `${target.path}.afterimage-restore`;
  return join(stateFolder, `restore-${digestToText(checksum64(Buffer.from(target.identity, 'utf8')))}.journal`);
}

async function check(
  store: ObjectStore,
  machine: MachineReader,
  point: RecoveryPoint,
  disk: PointDisk,
  target: RestoreTarget,
  options: RestoreOptions,
  cache: IndexCache,
  io: CliIo,
): Promise<CheckedRestore> {
  const planned = await planDisk(store, machine, point, disk, cache, io.signal);
  return checkRestore({
    ...planned,
    target,
    journalPath: journalPath(target, options.state),
    force: options.force === true,
    readBack: options.readBack === true,
    signal: io.signal,
    clock: io.clock,
  });
}

async function run(checked: CheckedRestore, io: CliIo): Promise<RestoreResult> {
  const view = await progressView(io, checked.job.disk.disk);
  try {
    return await runRestore({ ...checked, job: { ...checked.job, onProgress: view.onProgress } });
  } finally {
    view.stop();
  }
}

function say(io: CliIo, checked: CheckedRestore, result: RestoreResult): void {
  const kept = result.keptBytes > 0 ? ` (${formatBytes(result.keptBytes)} kept from an earlier run)` : '';
  const proof = result.readBack ? 'read back and proven' : 'proven';
  io.err.write(
    `disk ${checked.job.disk.disk} → ${checked.job.target.path}: ${formatBytes(result.sizeBytes)} in ${formatDuration(result.durationMs)}${kept}, ${proof} by digest ${result.digest}\n`,
  );
}

export async function restoreCommand(machineWord: string, options: RestoreOptions, io: CliIo): Promise<void> {
  const selector = parsePointSelector(options.point);
  const store = await openConfiguredStore(options, io);
  startThreadsFor(store);
  const targets: RestoreTarget[] = [];
  const cache = new IndexCache();
  let pinned: PinnedPoint | null = null;
  try {
    const id = await resolveMachine(store, machineWord);
    pinned = await pinForCommand(store, id, selector, 'restore', options, io, openReadable);
    const { view: machine, point, lost } = pinned;
    if (options.json !== true) tellConcerns(io, machine.concerns);
    const signal = AbortSignal.any([io.signal, lost]);
    const assigned = assignTargets(point.disks, options, lackingDisks(machine.manifest, point));
    const checked: CheckedRestore[] = [];
    for (const [disk, path] of assigned) {
      const target = await openTarget(path, {
        sizeBytes: disk.sizeBytes,
        sparse: options.sparse === true,
        format: options.format ?? 'raw',
      });
      targets.push(target);
      checked.push(await check(store, machine, point, disk, target, options, cache, { ...io, signal }));
    }
    const done: object[] = [];
    for (const one of checked) {
      const result = await run(one, io);
      if (options.json !== true) say(io, one, result);
      done.push({ disk: one.job.disk.disk, target: one.job.target.path, ...result });
    }
    if (options.json === true) {
      const { id, name } = machine.manifest.machine;
      const { concerns } = machine;
      printJson(io, {
        machine: { id, name },
        point: point.number,
        cutAt: localIso(point.cutAtMs),
        disks: done,
        concerns,
      });
    }
  } catch (error) {
    // Whatever was told to stop says that it was cancelled; this is why.
    if (pinned?.lost.aborted === true) throw pinned.lost.reason;
    throw error;
  } finally {
    for (const target of targets) await target.close();
    await pinned?.release();
    await store.close();
  }
}
