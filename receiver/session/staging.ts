/**
 * Which staged layers of a disk count when a session begins: durable layers of a sweep (first copy, comparison, bulk) that no point holds yet.
 *
 * They are those that the manifest recorded when its epoch began, plus those that its owner made durable later, found by their names.
 * Only the first n count, in the order of (epoch, sequence), where n is how many the agent knows to be durable: later ones were never
 * acknowledged, the agent sends their segments again, and a stale one must not show through.
 */
import { AfterimageError } from '../../shared/errors.js';
import type { DiskEntry, LayerRef, Manifest } from '../catalog/manifest.js';
import { readLayerList } from '../catalog/manifest-io.js';
import { findStaged } from '../catalog/staged-layers.js';
import type { ObjectStore } from '../store/store.js';
import { LayerReader } from '../volume/layer-reader.js';

export const byAge = (a: LayerRef, b: LayerRef): number => a.epoch - b.epoch || a.sequence - b.sequence;

/**
 * The first `wanted` staged layers; null when there are fewer, when one is damaged, or when the machine's keys are not those that they were encrypted with
 * any more: their segments are sent again then.
 */
export async function keepStaged(
  store: ObjectStore,
  manifest: Manifest,
  entry: DiskEntry,
  wanted: number,
): Promise<LayerRef[] | null> {
  if (wanted === 0) return [];
  const recorded = entry.staged === null ? [] : await readLayerList(store, entry.staged);
  const found = await findStaged(store, manifest, entry.id, entry.lastPoint === 0).catch((error: unknown) => {
    if (error instanceof AfterimageError && error.kind === 'corrupt') return null;
    throw error;
  });
  if (found === null) return null;
  const all = [...recorded, ...found].sort(byAge);
  if (all.length < wanted || !(await opens(store, manifest, entry, all[0]))) return null;
  return all.slice(0, wanted);
}

/**
 * Whether the keys at hand open a layer. Asked of the oldest alone: keys are added and never taken away, unless all were lost and the machine has new ones,
 * and what came after that is in those.
 */
async function opens(
  store: ObjectStore,
  manifest: Manifest,
  { id, blockBytes }: DiskEntry,
  layer: LayerRef | undefined,
): Promise<boolean> {
  if (layer === undefined) return true;
  const reader = new LayerReader(store, { machine: manifest.machine.id, disk: id, blockBytes });
  return reader.index(layer).then(
    () => true,
    (error: unknown) => {
      if (error instanceof AfterimageError && (error.code === 'key-missing' || error.kind === 'corrupt')) return false;
      throw error;
    },
  );
}
