/**
 * Builds shortcuts, each proven as merges are, and the list that names them; the caller commits. On a crash they are orphans.
 */
import type { LayerRef } from '../catalog/manifest.js';
import { writeLayerList } from '../catalog/manifest-io.js';
import { layerListName } from '../catalog/names.js';
import { compareLayers } from '../volume/read-plan.js';
import type { ListEdit } from './apply-edit.js';
import type { DiskHistory } from './history.js';
import { indexesOf, readerOf, writeWinners, type MergeDeps, type Written } from './merge-layers.js';
import type { ShortcutStep } from './shortcut-plan.js';
import { winnersOf } from './winners.js';

/** What a run of layers holds at its end. */
export async function buildShortcut(
  deps: MergeDeps,
  { disk, inputs, firstPoint, lastPoint }: ShortcutStep,
  { entry: { blockBytes } }: DiskHistory,
): Promise<Written> {
  const reader = readerOf(deps, disk, blockBytes);
  const winners = winnersOf(await indexesOf(reader, inputs));
  return writeWinners(deps, reader, winners, { disk, blockBytes, kind: 'delta', segment: null, firstPoint, lastPoint });
}

/** The disk's list in its new state. */
export async function shortcutEdit(
  { store, owned, nextSequence = owned.nextSequence }: Pick<MergeDeps, 'store' | 'owned' | 'nextSequence'>,
  { entry }: DiskHistory,
  shortcuts: readonly LayerRef[],
): Promise<ListEdit> {
  const before = entry.shortcuts ?? null;
  if (shortcuts.length === 0) return { before, after: null };
  const name = layerListName(owned.manifest.machine.id, entry.id, owned.epoch, nextSequence());
  return { before, after: await writeLayerList(store, name, [...shortcuts].sort(compareLayers)) };
}
