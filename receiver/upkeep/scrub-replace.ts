/**
 * Puts layers in the place of damaged ones of a disk, wherever the catalog has them: in the history, or in the disk's list of bases; or leaves a shortcut
 * out. One manifest commits all of it. Throws code `history-moved` when the catalog is not what was planned upon any more; nothing is changed then.
 */
import type { DiskId } from '../../shared/units.js';
import type { LayerRef } from '../catalog/manifest.js';
import { writeLayerList } from '../catalog/manifest-io.js';
import { layerListName } from '../catalog/names.js';
import { isSameRun } from '../catalog/shortcuts.js';
import { applyEdit, NO_EDIT, type CatalogEdit } from './apply-edit.js';
import { shortcutEdit } from './build-shortcuts.js';
import type { MachineHistory } from './history.js';
import { isSameLayer } from './scrub-rebuild.js';
import type { Patient, RepairDeps } from './scrub-repair.js';

export interface Replaced {
  readonly layer: LayerRef;
  readonly outputs: readonly LayerRef[];
}

/** `drop`: points that are not listed any more with it. */
export async function replaceLayers(
  { store, owned }: Pick<RepairDeps, 'store' | 'owned'>,
  history: MachineHistory,
  disk: DiskId,
  replaced: readonly Replaced[],
  drop: ReadonlySet<number>,
  check: CatalogEdit['check'] = NO_EDIT.check,
): Promise<void> {
  const of = history.disks.get(disk);
  if (of === undefined) return;
  const isListed = ({ layer }: Replaced): boolean => of.listedBases.some((base) => isSameLayer(base, layer));
  const listed = replaced.filter(isListed);
  const replace = replaced
    .filter((one) => !isListed(one))
    .map(({ layer, outputs }) => ({ disk, inputs: [layer], outputs }));
  let bases = NO_EDIT.bases;
  if (listed.length > 0) {
    const name = layerListName(history.manifest.machine.id, disk, owned.epoch, owned.nextSequence());
    const kept = of.listedBases.filter((base) => !listed.some(({ layer }) => isSameLayer(base, layer)));
    const after = await writeLayerList(store, name, [...kept, ...listed.flatMap(({ outputs }) => outputs)]);
    bases = new Map([[disk, { before: of.entry.bases, after }]]);
  }
  await applyEdit(store, owned, history, { ...NO_EDIT, drop, check, replace, bases });
  owned.landed(replaced.flatMap(({ outputs }) => outputs));
}

/** A damaged shortcut goes, with all its parts: what it stood for is read instead. */
export async function dropShortcut(
  { store, owned }: Pick<RepairDeps, 'store' | 'owned'>,
  history: MachineHistory,
  { disk, layer }: Pick<Patient, 'disk' | 'layer'>,
): Promise<void> {
  const of = history.disks.get(disk);
  if (of === undefined) return;
  const left = (of.shortcuts ?? []).filter((other) => !isSameRun(other, layer));
  await applyEdit(store, owned, history, {
    ...NO_EDIT,
    shortcuts: new Map([[disk, await shortcutEdit({ store, owned }, of, left)]]),
  });
}
