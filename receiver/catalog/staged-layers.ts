/**
 * Layers of sweeps that are durable and that no manifest names: found by their names. They are what an agent goes on from.
 */
import { AfterimageError, corrupt } from '../../shared/errors.js';
import { digestToText } from '../../shared/blocks/hash.js';
import { decodeFooter, decodeLayerHeader, LAYER_FOOTER_BYTES, LAYER_HEADER_BYTES } from '../../shared/layer/layer.js';
import type { DiskId } from '../../shared/units.js';
import type { ObjectStore } from '../store/store.js';
import type { LayerRef, Manifest } from './manifest.js';
import { diskPrefix } from './names.js';

/** A staged layer, or a list of some, that can't be read. */
export interface DamagedStaged {
  readonly object: string;
  readonly error: AfterimageError;
}

/** Durable layers of sweeps that the owner of the manifest's epoch wrote after its last manifest. Throws kind `corrupt` when one is damaged. */
export async function findStaged(
  store: ObjectStore,
  manifest: Manifest,
  disk: DiskId,
  firstCopy: boolean,
): Promise<LayerRef[]> {
  const { layers, damaged } = await lookForStaged(store, manifest, disk, firstCopy);
  if (damaged !== null) throw damaged.error;
  return layers;
}

/**
 * The same, up to the first that is damaged. Those that were staged after it don't count either: which of them an agent goes on from is a number, so none
 * may move up into the place of the damaged one. The agent sends their segments again.
 */
export async function lookForStaged(
  store: ObjectStore,
  manifest: Manifest,
  disk: DiskId,
  firstCopy: boolean,
): Promise<{ readonly layers: LayerRef[]; readonly damaged: DamagedStaged | null }> {
  const names: { readonly name: string; readonly sizeBytes: number; readonly sequence: number }[] = [];
  // Base layers are staged before the first point only; they are what it stands on.
  for (const kind of firstCopy ? ['base', 'delta'] : ['delta']) {
    for await (const { name, sizeBytes } of store.list(`${diskPrefix(manifest.machine.id, disk)}${kind}/`)) {
      const { lastPoint, epoch, sequence } = numbersOf(name);
      if (epoch !== manifest.epoch) continue;
      if (kind === 'delta' && lastPoint <= manifest.lastPoint) continue;
      names.push({ name, sizeBytes, sequence });
    }
  }
  names.sort((a, b) => a.sequence - b.sequence);
  const layers: LayerRef[] = [];
  for (const { name, sizeBytes } of names) {
    try {
      const ref = await refOf(store, name, sizeBytes);
      if (ref.segment !== null) layers.push(ref);
    } catch (error) {
      if (!(error instanceof AfterimageError) || error.kind !== 'corrupt') throw error;
      return { layers, damaged: { object: name, error } };
    }
  }
  return { layers, damaged: null };
}

/** `…/<last point>-<epoch>-<sequence>`: the end of both kinds of names. */
function numbersOf(name: string): { lastPoint: number; epoch: number; sequence: number } {
  const match = /(\d+)-(\d+)-(\d+)$/.exec(name);
  if (match === null) return { lastPoint: 0, epoch: -1, sequence: 0 };
  return { lastPoint: Number(match[1]), epoch: Number(match[2]), sequence: Number(match[3]) };
}

async function refOf(store: ObjectStore, name: string, sizeBytes: number): Promise<LayerRef> {
  if (sizeBytes < LAYER_HEADER_BYTES + LAYER_FOOTER_BYTES)
    throw corrupt('layer-truncated', `layer ${name} has ${sizeBytes} bytes: too few for any`);
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
