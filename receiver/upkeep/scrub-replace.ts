/**
 * Puts layers in the place of a damaged one, wherever the catalog has it: in the history, or in a disk's list of bases. One manifest commits it.
 * Throws code `history-moved` when the catalog is not what was planned upon any more; nothing is changed then.
 */
import type { LayerRef } from '../catalog/manifest.js';
import { writeLayerList } from '../catalog/manifest-io.js';
import { layerListName } from '../catalog/names.js';
import { compareLayers } from '../volume/read-plan.js';
import { applyEdit, NO_EDIT, type CatalogEdit } from './apply-edit.js';
import type { MachineHistory } from './history.js';
import type { Patient, RepairDeps } from './scrub-repair.js';

/** `drop`: points that are not listed any more with it. */
export async function replaceLayer(
  { store, owned }: Pick<RepairDeps, 'store' | 'owned'>,
  history: MachineHistory,
  { disk, layer }: Pick<Patient, 'disk' | 'layer'>,
  outputs: readonly LayerRef[],
  drop: ReadonlySet<number>,
  check: CatalogEdit['check'] = NO_EDIT.check,
): Promise<void> {
  const of = history.disks.get(disk);
  if (of === undefined) return;
  const isIt = (other: LayerRef): boolean => other.segment === layer.segment && compareLayers(other, layer) === 0;
  const isListed = layer.kind === 'base' && of.listedBases.some(isIt);
  if (!isListed) {
    await applyEdit(store, owned, history, { ...NO_EDIT, drop, check, replace: [{ disk, inputs: [layer], outputs }] });
  } else {
    const name = layerListName(history.manifest.machine.id, disk, owned.epoch, owned.nextSequence());
    const after = await writeLayerList(store, name, [...of.listedBases.filter((other) => !isIt(other)), ...outputs]);
    const bases = new Map([[disk, { before: of.entry.bases, after }]]);
    await applyEdit(store, owned, history, { ...NO_EDIT, drop, check, bases });
  }
  owned.landed(outputs);
}
