/**
 * Commits an edit of a machine's history: writes the pages that change, then one manifest that names them. Whoever else commits meanwhile is waited
 * for at most as long as a manifest takes: pages are written before, and in the turn of the commit it is only seen that nothing moved.
 * Throws code `history-moved` when somebody changed what was planned upon; nothing is changed then. On a crash before the manifest, pages are orphans.
 */
import { AfterimageError } from '../../shared/errors.js';
import { failpoint } from '../../shared/failpoints.js';
import type { DiskId } from '../../shared/units.js';
import type { DiskEntry, ListRef, Manifest, PageRef } from '../catalog/manifest.js';
import { writeHistoryPage } from '../catalog/manifest-io.js';
import { historyName, writtenUnder } from '../catalog/names.js';
import type { ManifestContent, OwnedMachine } from '../catalog/owned-machine.js';
import type { ObjectStore } from '../store/store.js';
import { editPages, editTail, isPageRef, pageRange, touchesTail, type HistoryEdit } from './edit-history.js';
import type { MachineHistory } from './history.js';

/** A list in place of the one that it was made from; null: there is none. */
export interface ListEdit {
  readonly before: ListRef | null;
  readonly after: ListRef | null;
}

export interface CatalogEdit extends HistoryEdit {
  /** By disk. */
  readonly bases: ReadonlyMap<DiskId, ListEdit>;
  readonly shortcuts: ReadonlyMap<DiskId, ListEdit>;
  /** Asked in the turn of the commit, when nobody else can: throws when the edit must not be made after all. */
  readonly check: (current: Manifest) => Promise<void>;
}

export const NO_EDIT: CatalogEdit = {
  drop: new Set(),
  replace: [],
  bases: new Map(),
  shortcuts: new Map(),
  check: () => Promise.resolve(),
};

export async function applyEdit(
  store: ObjectStore,
  owned: OwnedMachine,
  history: MachineHistory,
  edit: CatalogEdit,
  nextSequence = owned.nextSequence,
): Promise<Manifest> {
  const edited = editPages(history.pages, edit);
  const written: { readonly epoch: number; readonly sequence: number }[] = [];
  const pages: PageRef[] = [];
  for (const page of edited.pages) {
    if (isPageRef(page)) {
      pages.push(page);
      continue;
    }
    const { first, last } = pageRange(page.points);
    const name = historyName(history.manifest.machine.id, first, last, owned.epoch, nextSequence());
    pages.push(await writeHistoryPage(store, name, page));
    const under = writtenUnder(name);
    if (under !== null) written.push(under);
  }
  const change = async (current: Manifest): Promise<ManifestContent> => {
    const before = history.manifest.pages;
    const added = current.pages.slice(before.length);
    if (before.some((page, i) => current.pages[i]?.name !== page.name)) throw moved('its history pages are others now');
    if (added.length > 0 && touchesTail(history.manifest.tail, edit, edited)) throw moved('its tail became a page');
    const tail = editTail(current.tail, edit, edited);
    if (tail === null) throw moved('layers that were to be replaced are gone');
    for (const entry of current.disks) {
      const [bases, shortcuts] = [edit.bases.get(entry.id), edit.shortcuts.get(entry.id)];
      if (bases !== undefined && entry.bases?.name !== bases.before?.name)
        throw moved(`the base layers of disk ${entry.id} are others now`);
      if (shortcuts !== undefined && entry.shortcuts?.name !== shortcuts.before?.name)
        throw moved(`the shortcuts of disk ${entry.id} are others now`);
    }
    await edit.check(current);
    const disks = current.disks.map((entry) => withLists(entry, edit));
    return { ...current, pages: [...pages, ...added], tail, disks };
  };
  try {
    failpoint('receiver.upkeep.pages-written');
    const manifest = await owned.commit(change);
    failpoint('receiver.upkeep.committed');
    return manifest;
  } catch (error) {
    // A commit in doubt may name them yet.
    if (error instanceof AfterimageError && error.code === 'history-moved') owned.landed(written);
    throw error;
  }
}

function withLists(entry: DiskEntry, edit: CatalogEdit): DiskEntry {
  const bases = edit.bases.get(entry.id);
  const shortcuts = edit.shortcuts.get(entry.id);
  const { shortcuts: before, ...rest } = entry;
  const after = shortcuts === undefined ? (before ?? null) : shortcuts.after;
  return {
    ...rest,
    bases: bases === undefined ? entry.bases : bases.after,
    ...(after === null ? {} : { shortcuts: after }),
  };
}

const moved = (what: string): AfterimageError =>
  new AfterimageError(`the machine's history changed while upkeep worked on it: ${what}`, {
    code: 'history-moved',
    kind: 'refused',
    hint: 'Nothing was changed; it is tried again.',
  });
