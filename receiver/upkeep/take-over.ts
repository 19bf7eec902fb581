/**
 * Takes a machine over for upkeep alone: nobody writes it now, and its history must be kept all the same. The truth stays what it is, with one care: layers of
 * a sweep that only their names tell of (their owner's epoch ends here) are recorded, so that the agent goes on from them when it is back.
 */
import { AfterimageError } from '../../shared/errors.js';
import type { MachineId } from '../../shared/units.js';
import type { DiskEntry, Manifest } from '../catalog/manifest.js';
import { readLayerList, writeLayerList } from '../catalog/manifest-io.js';
import { layerListName } from '../catalog/names.js';
import { OwnedMachine, type CatalogDeps } from '../catalog/owned-machine.js';
import { loadRecovery } from '../catalog/recovery-io.js';
import { findStaged } from '../catalog/staged-layers.js';
import type { ObjectStore } from '../store/store.js';

/** Whether no copy of the machine runs or is being made: its receiver would end the guest when it finds itself fenced. */
export async function isUnused(store: ObjectStore, machine: MachineId): Promise<boolean> {
  const recovery = await loadRecovery(store, machine);
  return recovery === null || (recovery.failover === null && recovery.job?.state !== 'InProgress');
}

/** `mayTake` is asked right before each try: throws when somebody else has the machine after all. */
export function takeOverForUpkeep(
  deps: CatalogDeps,
  machine: MachineId,
  mayTake: () => Promise<void>,
): Promise<OwnedMachine> {
  return OwnedMachine.takeOver(deps, machine, async (previous, epoch, nextSequence) => {
    if (previous === null) throw nothingThere(machine);
    const disks: DiskEntry[] = [];
    for (const entry of previous.disks) disks.push(await withStaged(deps.store, previous, entry, epoch, nextSequence));
    await mayTake();
    return { ...previous, disks };
  });
}

async function withStaged(
  store: ObjectStore,
  manifest: Manifest,
  entry: DiskEntry,
  epoch: number,
  nextSequence: () => number,
): Promise<DiskEntry> {
  const found = await findStaged(store, manifest, entry.id, entry.lastPoint === 0);
  if (found.length === 0) return entry;
  const recorded = entry.staged === null ? [] : await readLayerList(store, entry.staged);
  const name = layerListName(manifest.machine.id, entry.id, epoch, nextSequence());
  return { ...entry, staged: await writeLayerList(store, name, [...recorded, ...found]) };
}

const nothingThere = (machine: MachineId): AfterimageError =>
  new AfterimageError(`machine ${machine} has no recovery point yet`, {
    code: 'machine-empty',
    kind: 'not-found',
    hint: 'Its first copy is not complete; see the state of its agent.',
  });
