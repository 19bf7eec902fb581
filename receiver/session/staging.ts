/**
 * Which staged layers of a disk count when a session begins: durable layers of a sweep (first copy, comparison, bulk) that no point holds yet.
 *
 * They are those that the manifest recorded when its epoch began, plus those that its owner made durable later, found by their names.
 * Only the first n count, in the order of (epoch, sequence), where n is how many the agent knows to be durable: later ones were never
 * acknowledged, the agent sends their segments again, and a stale one must not show through.
 */
import { AfterimageError } from '../../shared/errors.js';
import { digestToText } from '../../shared/blocks/hash.js';
import { decodeFooter, decodeLayerHeader, LAYER_FOOTER_BYTES, LAYER_HEADER_BYTES } from '../../shared/layer/layer.js';
import type { DiskId } from '../../shared/units.js';
import type { DiskEntry, LayerRef, Manifest } from '../catalog/manifest.js';
import { readLayerList } from '../catalog/manifest-io.js';
import { diskPrefix } from '../catalog/names.js';
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

/** Durable layers of sweeps that the owner of the manifest's epoch wrote after its last manifest. */
async function findStaged(
  store: ObjectStore,
  manifest: Manifest,
  disk: DiskId,
  firstCopy: boolean,
): Promise<LayerRef[]> {
  const found: LayerRef[] = [];
  // Base layers are staged before the first point only; they are what it stands on.
  for (const kind of firstCopy ? ['base', 'delta'] : ['delta']) {
    for await (const object of store.list(`${diskPrefix(manifest.machine.id, disk)}${kind}/`)) {
      const { lastPoint, epoch } = numbersOf(object.name);
      if (epoch !== manifest.epoch) continue;
      if (kind === 'delta' && lastPoint <= manifest.lastPoint) continue;
      const ref = await refOf(store, object.name, object.sizeBytes);
      if (ref.segment !== null) found.push(ref);
    }
  }
  return found;
}

/** `…/<last point>-<epoch>-<sequence>`: the end of both kinds of names. */
function numbersOf(name: string): { lastPoint: number; epoch: number } {
  const match = /(\d+)-(\d+)-\d+$/.exec(name);
  return match === null ? { lastPoint: 0, epoch: -1 } : { lastPoint: Number(match[1]), epoch: Number(match[2]) };
}

async function refOf(store: ObjectStore, name: string, sizeBytes: number): Promise<LayerRef> {
  const header = decodeLayerHeader(await store.read(name, 0, LAYER_HEADER_BYTES), name);
  const footer = decodeFooter(
    await store.read(name, sizeBytes - LAYER_FOOTER_BYTES, LAYER_FOOTER_BYTES),
    sizeBytes,
    name,
  );
  const { kind, firstPoint, lastPoint, segment, epoch, sequence } = header;
  return {
    kind,
    firstPoint,
    lastPoint,
    segment,
    epoch,
    sequence,
    sizeBytes,
    indexChecksum: digestToText(footer.indexChecksum),
  };
}
