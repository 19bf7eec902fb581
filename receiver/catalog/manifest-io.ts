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
import { createWithCopy, highestOfEither, readEither } from './second-copies.js';
import { keysOf } from './store-keys.js';

const checksumText = (bytes: Buffer): string => digestToText(checksum64(bytes));

/** The highest manifest of a machine, or null when there is none. */
export async function readHighestManifest(store: ObjectStore, machine: MachineId): Promise<Manifest | null> {
  const highest = await highestOfEither(store, manifestPrefix(machine));
  if (highest === null) return null;
  return readManifest(store, machine, numberOfName(highest));
}

/** The same as it is stored, whatever keys are at hand: digests may be hidden. */
export async function readHighestAsStored(store: ObjectStore, machine: MachineId): Promise<Manifest | null> {
  const highest = await highestOfEither(store, manifestPrefix(machine));
  return highest === null ? null : readAsStored(store, machine, numberOfName(highest));
}

export async function readManifest(store: ObjectStore, machine: MachineId, number: number): Promise<Manifest> {
  const found = await readAsStored(store, machine, number);
  return { ...found, tail: { ...found.tail, points: await shown(store, machine, found.tail.points) } };
}

async function readAsStored(store: ObjectStore, machine: MachineId, number: number): Promise<Manifest> {
  const name = manifestName(machine, number);
  const found = await readEither(store, name, MANIFEST_BYTES_MAX, (bytes) => openManifest(bytes, machine, number));
  if (found === null) throw corrupt('manifest-missing', `manifest ${name} is not in the store`);
  return found;
}

/** A manifest as it is stored: digests may be hidden. */
export function openManifest(bytes: Buffer, machine: MachineId, number: number): Manifest {
  const name = manifestName(machine, number);
  const manifest = openSealedJson(bytes, manifestSchema, MANIFEST_VERSION, name);
  if (manifest.number === number && manifest.machine.id === machine) return manifest;
  throw corrupt(
    'manifest-misplaced',
    `object ${name} holds manifest ${manifest.number} of machine ${manifest.machine.id}`,
  );
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
  const shows = (d: RecoveryPoint['disks'][number]): boolean => d.hashCheck === undefined && !isHiddenDigest(d.digest);
  if (!points.some((point) => point.disks.some(shows))) return [...points];
  const cipher = await keysOf(store).cipherForWriting(machine);
  if (cipher.writesAs !== 'receiver') return [...points];
  return points.map((point) => ({
    ...point,
    disks: point.disks.map((d) => (shows(d) ? { ...d, digest: cipher.hideDigest(d.disk, d.digest) } : d)),
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
  const read = await readEither(store, page.name, MANIFEST_BYTES_MAX, (bytes) => openPage(bytes, page));
  if (read === null) throw pageMissing(page);
  const { points, deltas } = read;
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
  const layers = await readEither(store, list.name, LAYER_LIST_BYTES_MAX, (bytes) => openList(bytes, list));
  if (layers === null) throw listMissing(list);
  return layers;
}

export const pageMissing = (page: PageRef): AfterimageError =>
  corrupt('history-missing', `history page ${page.name} is not in the store`);

export const listMissing = (list: ListRef): AfterimageError =>
  corrupt('list-missing', `layer list ${list.name} is not in the store`);

/** A page as it is stored: digests may be hidden. */
export function openPage(bytes: Buffer, page: PageRef): History {
  if (checksumText(bytes) !== page.checksum)
    throw corrupt('history-checksum', `history page ${page.name} is not what its manifest names`);
  return openSealedJson(bytes, historyPageSchema, MANIFEST_VERSION, page.name);
}

export function openList(bytes: Buffer, list: ListRef): LayerRef[] {
  if (checksumText(bytes) !== list.checksum)
    throw corrupt('list-checksum', `layer list ${list.name} is not what its manifest names`);
  const { layers } = openSealedJson(bytes, layerListSchema, MANIFEST_VERSION, list.name);
  if (layers.length === list.count) return layers;
  throw corrupt('list-invalid', `list ${list.name} has ${layers.length} layers, its manifest says ${list.count}`);
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
  // The copy after it: a name that two tried to take has the copy of who got it.
  if ((await createWithCopy(store, name, bytes)) === 'created') return;
  // Epoch and sequence make the name ours alone: what is there can only be our own earlier try.
  const there = await store.get(name, LAYER_LIST_BYTES_MAX);
  if (there === null || !there.equals(bytes)) throw corrupt('name-taken', `object ${name} exists with other content`);
}
