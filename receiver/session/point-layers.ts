/**
 * The layers of a disk that a commit adds to a point: finished here, so durable before the manifest names them. On a crash they are orphans.
 */
import type { DiskLayers } from '../catalog/commit-content.js';
import type { DiskEntry, LayerRef, Manifest } from '../catalog/manifest.js';
import { readLayerList, writeLayerList } from '../catalog/manifest-io.js';
import { layerListName } from '../catalog/names.js';
import type { OwnedMachine } from '../catalog/owned-machine.js';
import type { ObjectStore } from '../store/store.js';
import { protocolError } from '../../shared/wire/messages.js';
import type { DiskIngest } from './disk-ingest.js';

export async function layersOf(store: ObjectStore, disk: DiskIngest, owned: OwnedMachine): Promise<DiskLayers> {
  const entry = disk.entry;
  if (entry === undefined) throw protocolError(`disk ${disk.id} is not in the manifest`);
  const cycle = await disk.finishCycle();
  const newBases = disk.staged.filter((l) => l.kind === 'base');
  const deltas = [...disk.staged.filter((l) => l.kind === 'delta'), ...cycle];
  let bases = null;
  if (entry.bases === null || newBases.length > 0) {
    const known: LayerRef[] = entry.bases === null ? [] : await readLayerList(store, entry.bases);
    const name = layerListName(owned.manifest.machine.id, disk.id, owned.epoch, owned.nextSequence());
    bases = await writeLayerList(store, name, [...known, ...newBases]);
  }
  const storedBytes = cycle.reduce((sum, l) => sum + l.sizeBytes, 0);
  return { entry, bases, deltas, storedBytes, hashCheck: disk.hashCheck };
}

/** A list of bases was made longer: the one that it was made from must still be the disk's. */
export function mustStand(current: Manifest, entry: DiskEntry): void {
  const now = current.disks.find((d) => d.id === entry.id)?.bases?.name;
  if (now !== entry.bases?.name) throw new Error(`the base layers of disk ${entry.id} changed during its first copy`);
}
