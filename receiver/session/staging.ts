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

export const byAge = (a: LayerRef, b: LayerRef): number => a.epoch - b.epoch || a.sequence - b.sequence;

/** The first `wanted` staged layers; null when there are fewer, or when one is damaged: their segments are sent again then. */
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
  return all.length < wanted ? null : all.slice(0, wanted);
}
