/** Restores a point of a synthetic chain, as the command does. */
import { MachineReader } from '../../receiver/catalog/reader.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { LayerReader } from '../../receiver/volume/layer-reader.js';
import { planPoint } from '../../receiver/volume/plan-point.js';
import { checkRestore, runRestore, type RestoreJob, type RestoreResult } from '../../receiver/volume/restore.js';
import type { ReadPlan } from '../../receiver/volume/read-plan.js';
import { openTarget } from '../../receiver/volume/target.js';
import type { TargetFormat } from '../../receiver/volume/target-format.js';
import type { DiskId, MachineId } from '../../shared/units.js';

export interface Planned {
  readonly reader: LayerReader;
  readonly plan: ReadPlan;
  readonly point: number;
  readonly disk: RestoreJob['disk'];
}

export async function planOf(store: ObjectStore, machine: MachineId, disk: DiskId, number: number): Promise<Planned> {
  const view = await MachineReader.open(store, machine);
  const point = await view.findPoint({ by: 'number', number });
  const at = view.diskOf(point, disk);
  const reader = new LayerReader(store, { machine, disk, blockBytes: at.blockBytes });
  return { reader, plan: await planPoint(reader, at, await view.layersFor(disk, number)), point: number, disk: at };
}

export interface RestoreTo extends Partial<
  Pick<RestoreJob, 'force' | 'readBack' | 'signal' | 'onProgress' | 'syncBytes' | 'composed'>
> {
  readonly path: string;
  readonly sparse?: boolean;
  readonly format?: TargetFormat;
  readonly journalPath?: string;
}

export async function restoreTo(planned: Planned, to: RestoreTo): Promise<RestoreResult> {
  const { path, sparse, format, journalPath, ...rest } = to;
  const target = await openTarget(path, {
    sizeBytes: planned.disk.sizeBytes,
    sparse: sparse ?? true,
    format: format ?? 'raw',
  });
  try {
    const journal = journalPath ?? `${target.path}.afterimage-restore`;
    return await runRestore(await checkRestore({ ...planned, force: false, ...rest, target, journalPath: journal }));
  } finally {
    await target.close();
  }
}
