/**
 * Reading and writing the catalog's objects: manifests, history pages, layer lists. No decisions here.
 */
import { checksum64, digestToText } from '../../shared/blocks/hash.js';
import { AfterimageError, corrupt } from '../../shared/errors.js';
import { LAYER_LIST_BYTES_MAX, MANIFEST_BYTES_MAX } from '../../shared/limits.js';
import type { MachineId } from '../../shared/units.js';
import type { ObjectStore } from '../store/store.js';
import { isHiddenDigest } from '../../shared/crypto/machine-cipher.js';
import {
  historyPageSchema,
  layerListSchema,
  MANIFEST_VERSION,
  manifestSchema,
  type History,
  type LayerRef,
  type ListRef,
  type Manifest,
  type PageRef,
  type RecoveryPoint,
} from './manifest.js';
import { boundaryPrefix, machineOfName, manifestName, manifestPrefix, numberOfName } from './names.js';
import { openSealedJson, sealJson } from './sealed-json.js';
import { keysOf } from './store-keys.js';

const checksumText = (bytes: Buffer): string => digestToText(checksum64(bytes));

/** The highest manifest of a machine, or null when there is none. */
export async function readHighestManifest(store: ObjectStore, machine: MachineId): Promise<Manifest | null> {
  let highest: string | null = null;
  for await (const object of store.list(manifestPrefix(machine))) highest = object.name;
  if (highest === null) return null;
  return readManifest(store, machine, numberOfName(highest));
}

export async function readManifest(store: ObjectStore, machine: MachineId, number: number): Promise<Manifest> {
  const name = manifestName(machine, number);
  const bytes = await store.get(name, MANIFEST_BYTES_MAX);
  if (bytes === null) throw corrupt('manifest-missing', `manifest ${name} is not in the store`);
  const manifest = openSealedJson(bytes, manifestSchema, MANIFEST_VERSION, name);
  if (manifest.number !== number || manifest.machine.id !== machine) {
    throw corrupt(
      'manifest-misplaced',
      `object ${name} holds manifest ${manifest.number} of machine ${manifest.machine.id}`,
    );
  }
  return { ...manifest, tail: { ...manifest.tail, points: await shown(store, machine, manifest.tail.points) } };
}

/** The bytes of a manifest. */
export async function sealManifest(store: ObjectStore, manifest: Manifest): Promise<Buffer> {
  const points = await hidden(store, manifest.machine.id, manifest.tail.points);
  return sealJson({ ...manifest, tail: { ...manifest.tail, points } });
}

/** Points as they are stored: digests of plain hashes are encrypted where the receiver encrypts. */
async function hidden(
  store: ObjectStore,
  machine: MachineId,
  points: readonly RecoveryPoint[],
): Promise<RecoveryPoint[]> {
  const cipher = await keysOf(store).cipherOf(machine);
  if (cipher.writesAs !== 'receiver') return [...points];
  return points.map((point) => ({
    ...point,
    disks: point.disks.map((d) =>
      d.hashCheck === undefined ? { ...d, digest: cipher.hideDigest(d.disk, d.digest) } : d,
    ),
  }));
}

/** Points as they are used. Without the key they stay as they are: they can be listed, and whoever needs a digest hears which key is missing. */
async function shown(
  store: ObjectStore,
  machine: MachineId,
  points: readonly RecoveryPoint[],
): Promise<RecoveryPoint[]> {
  if (!points.some((p) => p.disks.some((d) => isHiddenDigest(d.digest)))) return [...points];
  const cipher = await keysOf(store).cipherOf(machine);
  if (!cipher.canShowDigests) return [...points];
  return points.map((point) => ({
    ...point,
    disks: point.disks.map((d) => ({ ...d, digest: cipher.showDigest(d.disk, d.digest) })),
  }));
}

/** Highest number up to which manifests are gone for good; 0 when nothing was ever deleted. */
export async function readBoundary(store: ObjectStore, machine: MachineId): Promise<number> {
  let boundary = 0;
  for await (const object of store.list(boundaryPrefix(machine))) boundary = numberOfName(object.name);
  return boundary;
}

export async function readHistoryPage(store: ObjectStore, page: PageRef): Promise<History> {
  const machine = machineOfName(page.name);
  const bytes = await store.get(page.name, MANIFEST_BYTES_MAX);
  if (bytes === null) throw corrupt('history-missing', `history page ${page.name} is not in the store`);
  if (checksumText(bytes) !== page.checksum)
    throw corrupt('history-checksum', `history page ${page.name} is not what its manifest names`);
  const { points, deltas } = openSealedJson(bytes, historyPageSchema, MANIFEST_VERSION, page.name);
  return { points: machine === null ? points : await shown(store, machine, points), deltas };
}

export async function writeHistoryPage(store: ObjectStore, name: string, history: History): Promise<PageRef> {
  const machine = machineOfName(name);
  const points = machine === null ? history.points : await hidden(store, machine, history.points);
  const bytes = sealJson({ version: MANIFEST_VERSION, ...history, points });
  mustBeReadable(name, bytes);
  await createNew(store, name, bytes);
  const numbers = history.points.map((p) => p.number);
  return { name, firstPoint: Math.min(...numbers), lastPoint: Math.max(...numbers), checksum: checksumText(bytes) };
}

export async function readLayerList(store: ObjectStore, list: ListRef): Promise<LayerRef[]> {
  const bytes = await store.get(list.name, LAYER_LIST_BYTES_MAX);
  if (bytes === null) throw corrupt('list-missing', `layer list ${list.name} is not in the store`);
  if (checksumText(bytes) !== list.checksum)
    throw corrupt('list-checksum', `layer list ${list.name} is not what its manifest names`);
  return openSealedJson(bytes, layerListSchema, MANIFEST_VERSION, list.name).layers;
}

export async function writeLayerList(store: ObjectStore, name: string, layers: readonly LayerRef[]): Promise<ListRef> {
  const bytes = sealJson({ version: MANIFEST_VERSION, layers });
  await createNew(store, name, bytes);
  return { name, count: layers.length, checksum: checksumText(bytes) };
}

/** What can't be read again must never be named. */
export function mustBeReadable(name: string, bytes: Buffer): void {
  if (bytes.length <= MANIFEST_BYTES_MAX) return;
  throw new AfterimageError(`object ${name} would have ${bytes.length} bytes, ${MANIFEST_BYTES_MAX} is the most`, {
    code: 'manifest-too-large',
    kind: 'refused',
    hint: 'Nothing was committed. Fewer disks per machine, or a policy that keeps fewer points, make it smaller.',
  });
}

async function createNew(store: ObjectStore, name: string, bytes: Buffer): Promise<void> {
  if ((await store.createIfAbsent(name, bytes)) === 'created') return;
  // Epoch and sequence make the name ours alone: what is there can only be our own earlier try.
  const there = await store.get(name, LAYER_LIST_BYTES_MAX);
  if (there === null || !there.equals(bytes)) throw corrupt('name-taken', `object ${name} exists with other content`);
}
