/**
 * From a machine's catalog to a planned disk at a point: what restore and verify have in common.
 */
import type { RecoveryPoint } from '../catalog/manifest.js';
import type { MachineReader, PointDisk } from '../catalog/reader.js';
import type { ObjectStore } from '../store/store.js';
import type { IndexCache } from '../volume/index-cache.js';
import { LayerReader } from '../volume/layer-reader.js';
import { planPoint } from '../volume/plan-point.js';
import type { ReadPlan } from '../volume/read-plan.js';

export interface PlannedDisk {
  readonly reader: LayerReader;
  readonly plan: ReadPlan;
  readonly point: number;
  readonly disk: PointDisk;
}

export async function planDisk(
  store: ObjectStore,
  machine: MachineReader,
  point: RecoveryPoint,
  disk: PointDisk,
  cache: IndexCache,
  signal: AbortSignal,
): Promise<PlannedDisk> {
  const owner = { machine: machine.manifest.machine.id, disk: disk.disk, blockBytes: disk.blockBytes };
  const reader = new LayerReader(store, owner, cache);
  await reader.keys.require(disk);
  const layers = await machine.layersFor(disk.disk, point.number);
  return { reader, plan: await planPoint(reader, disk, layers, signal), point: point.number, disk };
}
