/**
 * The objects that a manifest refers to, in an order that stays the same while points come, are merged and go: first each disk's lists and bases, then
 * the history by number of point. A cursor is the place of an object in this order; what was before it is skipped, pages without being read.
 * Holds one page or list at a time.
 */
import type { AfterimageError } from '../../shared/errors.js';
import { LAYER_LIST_BYTES_MAX, MANIFEST_BYTES_MAX } from '../../shared/limits.js';
import type { DiskId } from '../../shared/units.js';
import type { History, LayerRef, Manifest, PageRef } from '../catalog/manifest.js';
import { listMissing, openList, openPage, pageMissing } from '../catalog/manifest-io.js';
import { layerName } from '../catalog/names.js';
import { copyName } from '../catalog/second-copies.js';
import type { ObjectStore } from '../store/store.js';
import { compareLayers } from '../volume/read-plan.js';
import { isCorrupt } from './scrub-concern.js';

export interface LayerTarget {
  readonly kind: 'layer';
  readonly key: string;
  readonly name: string;
  readonly disk: DiskId;
  readonly layer: LayerRef;
}

interface Problem {
  readonly code: string;
  readonly what: string;
}

/** A page or list, read on the way: its own result. */
export interface CatalogTarget {
  readonly kind: 'page' | 'list';
  readonly key: string;
  readonly name: string;
  /** Of a list. */
  readonly disk: DiskId | null;
  readonly page: PageRef | null;
  readonly problem: Problem | null;
  /** Its content is known, from itself or its copy. */
  readonly isReadable: boolean;
  /** What is wrong with its second copy. */
  readonly copyProblem: Problem | null;
  /** It is whole and has no second copy: what that would be. */
  readonly lacksCopy: Buffer | null;
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
      const open = (bytes: Buffer | null): LayerRef[] => {
        if (bytes === null) throw listMissing(list);
        return openList(bytes, list);
      };
      const key = `1/${entry.id}/${which}`;
      const { value: layers, ...state } = await readBoth(store, list.name, LAYER_LIST_BYTES_MAX, open, key > after);
      const target = { ...state, kind: 'list', name: list.name, disk: entry.id, page: null, key } as const;
      if (key > after || !target.isReadable) yield target;
      for (const layer of (layers ?? []).sort(bySegment)) {
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
    const open = (bytes: Buffer | null): History => {
      if (bytes === null) throw pageMissing(page);
      return openPage(bytes, page);
    };
    const key = `2/${pad(page.firstPoint)}`;
    const { value: history, ...state } = await readBoth(store, page.name, MANIFEST_BYTES_MAX, open, key > after);
    const target = { ...state, kind: 'page', key, name: page.name, disk: null, page } as const;
    if (key > after || !target.isReadable) yield target;
    if (history !== null) yield* deltasOf(manifest, history, after);
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

/** An object, and its copy where the walk looks at it or needs it. */
async function readBoth<T>(
  store: ObjectStore,
  name: string,
  bytesMax: number,
  open: (bytes: Buffer | null) => T,
  isLooked: boolean,
): Promise<Pick<CatalogTarget, 'problem' | 'isReadable' | 'copyProblem' | 'lacksCopy'> & { readonly value: T | null }> {
  const own = await readOr(store, name, bytesMax, open);
  if (own.problem === null && !isLooked)
    return { value: own.value, problem: null, isReadable: true, copyProblem: null, lacksCopy: null };
  const copy = await readOr(store, copyName(name), bytesMax, open);
  return {
    value: own.value ?? copy.value,
    problem: own.problem,
    isReadable: own.problem === null || copy.problem === null,
    copyProblem: copy.isMissing ? null : copy.problem,
    lacksCopy: own.problem === null && copy.isMissing ? own.bytes : null,
  };
}

interface Read<T> {
  readonly bytes: Buffer | null;
  readonly value: T | null;
  readonly isMissing: boolean;
  readonly problem: Problem | null;
}

async function readOr<T>(
  store: ObjectStore,
  name: string,
  bytesMax: number,
  open: (bytes: Buffer | null) => T,
): Promise<Read<T>> {
  let isMissing = false;
  try {
    const bytes = await store.get(name, bytesMax);
    isMissing = bytes === null;
    return { bytes, value: open(bytes), isMissing, problem: null };
  } catch (error) {
    if (!isCorrupt(error)) throw error;
    const { code, message } = error as AfterimageError;
    return { bytes: null, value: null, isMissing, problem: { code, what: message } };
  }
}
