/**
 * Layers of sweeps that are durable and that no manifest names: found by their names. They are what an agent goes on from.
 */
import { digestToText } from '../../shared/blocks/hash.js';
import { decodeFooter, decodeLayerHeader, LAYER_FOOTER_BYTES, LAYER_HEADER_BYTES } from '../../shared/layer/layer.js';
import type { DiskId } from '../../shared/units.js';
import type { ObjectStore } from '../store/store.js';
import type { LayerRef, Manifest } from './manifest.js';
import { diskPrefix } from './names.js';

/** Durable layers of sweeps that the owner of the manifest's epoch wrote after its last manifest. */
export async function findStaged(
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
