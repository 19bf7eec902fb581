/**
 * Takes a machine over for upkeep alone: nobody writes it now, and its history must be kept all the same. The truth stays what it is, with one care: layers of
 * a sweep that only their names tell of (their owner's epoch ends here) are recorded, so that the agent goes on from them when it is back. Where one is
 * damaged, it and those after it are set aside: no point needs them, their agent sends those segments again, and garbage collection removes them.
 */
import { AfterimageError } from '../../shared/errors.js';
import type { MachineId } from '../../shared/units.js';
import type { DiskEntry, LayerRef, Manifest } from '../catalog/manifest.js';
import { readLayerList, writeLayerList } from '../catalog/manifest-io.js';
import { layerListName } from '../catalog/names.js';
import { OwnedMachine, type CatalogDeps } from '../catalog/owned-machine.js';
import { loadRecovery } from '../catalog/recovery-io.js';
import { lookForStaged, type DamagedStaged } from '../catalog/staged-layers.js';
import type { ObjectStore } from '../store/store.js';

/** Whether no copy of the machine runs or is being made: its receiver would end the guest when it finds itself fenced. */
export async function isUnused(store: ObjectStore, machine: MachineId): Promise<boolean> {
  const recovery = await loadRecovery(store, machine);
  return recovery === null || (recovery.failover === null && recovery.job?.state !== 'InProgress');
}

/** What was set aside, and why, for people. */
export interface SetAside {
  readonly object: string;
  readonly why: string;
}

/** `mayTake` is asked right before each try: throws when somebody else has the machine after all. */
export async function takeOverForUpkeep(
  deps: CatalogDeps,
  machine: MachineId,
  mayTake: () => Promise<void>,
): Promise<{ readonly owned: OwnedMachine; readonly setAside: readonly SetAside[] }> {
  let setAside: SetAside[] = [];
  const owned = await OwnedMachine.takeOver(deps, machine, async (previous, epoch, nextSequence) => {
    if (previous === null) throw nothingThere(machine);
    setAside = [];
    const say = ({ object, error }: DamagedStaged): void => void setAside.push({ object, why: error.message });
    const disks: DiskEntry[] = [];
    for (const entry of previous.disks)
      disks.push(await withStaged(deps.store, previous, entry, epoch, nextSequence, say));
    await mayTake();
    return { ...previous, disks };
  });
  return { owned, setAside };
}

async function withStaged(
  store: ObjectStore,
  manifest: Manifest,
  entry: DiskEntry,
  epoch: number,
  nextSequence: () => number,
  say: (damaged: DamagedStaged) => void,
): Promise<DiskEntry> {
  const recorded = await recordedOf(store, entry);
  if ('error' in recorded) {
    say(recorded);
    return { ...entry, staged: null };
  }
  const { layers, damaged } = await lookForStaged(store, manifest, entry.id, entry.lastPoint === 0);
  if (damaged !== null) say(damaged);
  if (layers.length === 0) return entry;
  const name = layerListName(manifest.machine.id, entry.id, epoch, nextSequence());
  return { ...entry, staged: await writeLayerList(store, name, [...recorded.layers, ...layers]) };
}

async function recordedOf(
  store: ObjectStore,
  { staged }: DiskEntry,
): Promise<{ readonly layers: readonly LayerRef[] } | DamagedStaged> {
  if (staged === null) return { layers: [] };
  try {
    return { layers: await readLayerList(store, staged) };
  } catch (error) {
    if (!(error instanceof AfterimageError) || error.kind !== 'corrupt') throw error;
    return { object: staged.name, error };
  }
}

const nothingThere = (machine: MachineId): AfterimageError =>
  new AfterimageError(`machine ${machine} has no recovery point yet`, {
    code: 'machine-empty',
    kind: 'not-found',
    hint: 'Its first copy is not complete; see the state of its agent.',
  });
