/**
 * The objects that a manifest refers to, in an order that stays the same while points come, are merged and go: first each disk's lists and bases, then
 * the history by number of point. A cursor is the place of an object in this order; what was before it is skipped, pages without being read.
 * Holds one page or list at a time.
 */
import { AfterimageError, corrupt, messageOf } from '../../shared/errors.js';
import type { DiskId } from '../../shared/units.js';
import type { History, LayerRef, Manifest, PageRef } from '../catalog/manifest.js';
import { readHistoryPage, readLayerList } from '../catalog/manifest-io.js';
import { layerName } from '../catalog/names.js';
import type { ObjectStore } from '../store/store.js';
import { compareLayers } from '../volume/read-plan.js';

export interface LayerTarget {
  readonly kind: 'layer';
  readonly key: string;
  readonly name: string;
  readonly disk: DiskId;
  readonly layer: LayerRef;
}

/** A page or list, read on the way: its own result. */
export interface CatalogTarget {
  readonly kind: 'page' | 'list';
  readonly key: string;
  readonly name: string;
  /** Of a list. */
  readonly disk: DiskId | null;
  readonly page: PageRef | null;
  readonly problem: { readonly code: string; readonly what: string } | null;
}

export type ScrubTarget = LayerTarget | CatalogTarget;

const pad = (n: number): string => String(n).padStart(12, '0');
const pointOfKey = (key: string): number => (key.startsWith('2/') ? Number(key.slice(2, 14)) : 0);

/** Everything after `cursor` (null: from the beginning). Throws only what is not the fault of an object. */
export async function* walkObjects(
  store: ObjectStore,
  manifest: Manifest,
  cursor: string | null,
): AsyncGenerator<ScrubTarget> {
  const after = cursor ?? '';
  if (!after.startsWith('2/')) yield* walkBases(store, manifest, after);
  yield* walkHistory(store, manifest, after);
}

async function* walkBases(store: ObjectStore, manifest: Manifest, after: string): AsyncGenerator<ScrubTarget> {
  const machine = manifest.machine.id;
  // In the order of the keys: "a/" comes after "a-b/".
  for (const entry of [...manifest.disks].sort((a, b) => (`${a.id}/` < `${b.id}/` ? -1 : 1))) {
    // Above all that a name of a layer can hold.
    if (`1/${entry.id}/~` < after) continue;
    for (const [which, list] of [
      ['bases', entry.bases],
      ['shortcuts', entry.shortcuts ?? null],
      ['staged', entry.staged],
    ] as const) {
      if (list === null) continue;
      const layers = await readOr(async () => {
        const found = await readLayerList(store, list);
        if (found.length === list.count) return found;
        throw corrupt('list-invalid', `list ${list.name} has ${found.length} layers, its manifest says ${list.count}`);
      });
      const common = { kind: 'list', name: list.name, disk: entry.id, page: null } as const;
      if ('problem' in layers) {
        yield { ...common, key: `1/${entry.id}/${which}`, problem: layers.problem };
        continue;
      }
      const key = `1/${entry.id}/${which}`;
      if (key > after) yield { ...common, key, problem: null };
      for (const layer of layers.value.sort(bySegment)) {
        const at = `${pad(layer.segment ?? 0)}/${pad(layer.lastPoint)}-${pad(layer.epoch)}-${pad(layer.sequence)}`;
        const target = `1/${entry.id}/${which}/${at}`;
        if (target <= after) continue;
        yield { kind: 'layer', key: target, name: layerName(machine, entry.id, layer), disk: entry.id, layer };
      }
    }
  }
}

const bySegment = (a: LayerRef, b: LayerRef): number => (a.segment ?? 0) - (b.segment ?? 0) || compareLayers(a, b);

async function* walkHistory(store: ObjectStore, manifest: Manifest, after: string): AsyncGenerator<ScrubTarget> {
  const from = pointOfKey(after);
  for (const page of manifest.pages) {
    if (page.lastPoint < from) continue;
    const read = await readOr(() => readHistoryPage(store, page));
    const key = `2/${pad(page.firstPoint)}`;
    const common = { kind: 'page', key, name: page.name, disk: null, page } as const;
    if ('problem' in read) {
      yield { ...common, problem: read.problem };
      continue;
    }
    if (key > after) yield { ...common, problem: null };
    yield* deltasOf(manifest, read.value, after);
  }
  yield* deltasOf(manifest, manifest.tail, after);
}

function* deltasOf(manifest: Manifest, history: History, after: string): Generator<LayerTarget> {
  const targets = history.deltas.map(({ disk, layer }): LayerTarget => {
    const key = `2/${pad(layer.lastPoint)}/${disk}/${pad(layer.epoch)}-${pad(layer.sequence)}`;
    return { kind: 'layer', key, name: layerName(manifest.machine.id, disk, layer), disk, layer };
  });
  for (const target of targets.sort((a, b) => (a.key < b.key ? -1 : 1))) if (target.key > after) yield target;
}

/** What is read, or what is wrong with it. */
async function readOr<T>(
  read: () => Promise<T>,
): Promise<{ readonly value: T } | { readonly problem: { readonly code: string; readonly what: string } }> {
  try {
    return { value: await read() };
  } catch (error) {
    if (!(error instanceof AfterimageError) || error.kind !== 'corrupt') throw error;
    return { problem: { code: error.code, what: messageOf(error) } };
  }
}
