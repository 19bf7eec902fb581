/**
 * What can be had of a damaged layer: its index, and which of its blocks are bad. A broken index is made anew from the chunks and proven by the checksum in
 * the manifest. One whose hashes the receiver encrypts can't come out the same twice: what its chunks say is given as unproven. Reads only.
 */
import { checksum64, digestFromText, digestToText } from '../../shared/blocks/hash.js';
import { AfterimageError } from '../../shared/errors.js';
import {
  CHUNK_HEADER_BYTES,
  CHUNK_VERSION_SEALED,
  decodeChunkHeader,
  SEAL_BYTES,
  type ChunkHeader,
} from '../../shared/layer/chunk.js';
import {
  decodeFooter,
  decodeIndex,
  INDEX_SEAL_BYTES,
  indexSealOf,
  LAYER_FOOTER_BYTES,
  LAYER_HEADER_BYTES,
  LayerIndexBuilder,
  type LayerIndex,
} from '../../shared/layer/layer.js';
import { CHUNK_FRAME_BYTES_MAX, LAYER_INDEX_BYTES_MAX, LAYER_STORED_BYTES_MAX } from '../../shared/limits.js';
import type { LayerRef } from '../catalog/manifest.js';
import { layerName } from '../catalog/names.js';
import type { ObjectStore } from '../store/store.js';
import { DiskKeys } from '../volume/disk-keys.js';
import type { LayerOwner } from '../volume/layer-reader.js';
import { isCorrupt } from './scrub-concern.js';
import { checkLayer, type LayerReport } from './scrub-layer.js';

export interface Salvaged {
  readonly report: LayerReport;
  /** Null: nobody knows what the layer held. */
  readonly index: LayerIndex | null;
  /** False: the index says what the chunks say that are there; that they are all of them is for the digests of points to prove. */
  readonly isProven: boolean;
  readonly badChunks: ReadonlySet<number>;
}

export async function salvageLayer(store: ObjectStore, owner: LayerOwner, layer: LayerRef): Promise<Salvaged> {
  const report = await checkLayer({ store, owner, layer, plain: true });
  if (report.index !== null && !hasHashes(report.index)) throw withoutKeys(report.name);
  if (report.index !== null) {
    return { report, index: report.index, isProven: true, badChunks: new Set(report.badChunks) };
  }
  const found = await indexOfChunks(store, owner, layer).catch((error: unknown) => {
    if (isCorrupt(error)) return null;
    throw error;
  });
  return { report, index: found?.index ?? null, isProven: found?.isProven ?? false, badChunks: new Set() };
}

/** An encrypted index that was read without its key says where blocks are, not what they are: nothing could be proven. */
function hasHashes(index: LayerIndex): boolean {
  let blocks = 0;
  for (let i = 0; i < index.first.length; i++) if (index.zero[i] !== 1) blocks += index.count[i] ?? 0;
  return index.hashes.length === blocks;
}

const withoutKeys = (name: string): AfterimageError =>
  new AfterimageError(`layer ${name} can't be mended without the key that it is encrypted with`, {
    code: 'repair-keys',
    kind: 'refused',
    hint: 'Give this receiver the key, or let one that has it run the scrub.',
  });

type Found = Pick<Salvaged, 'isProven'> & { readonly index: LayerIndex };

async function indexOfChunks(store: ObjectStore, owner: LayerOwner, layer: LayerRef): Promise<Found | null> {
  const name = layerName(owner.machine, owner.disk, layer);
  const info = await store.head(name);
  if (info === null || info.sizeBytes > 2 * LAYER_STORED_BYTES_MAX) return null;
  const walk = await walkChunks(store, name, new DiskKeys(store, owner.machine, owner.disk), layer, info.sizeBytes);
  return (await indexBehind(store, name, layer, walk, info.sizeBytes)) ?? indexFrom(name, layer, walk);
}

interface Walk {
  readonly keys: DiskKeys;
  /** Of all chunks that were met; null: some of them can't be opened here. */
  readonly builder: LayerIndexBuilder | null;
  /** The receiver encrypts: hashes are known of chunks that were opened alone. */
  readonly isSealed: boolean;
  /** Where the last of them ends: there the index begins, when none is broken. */
  readonly end: number;
}

/** From the beginning on, as long as each chunk says how long it is and proves itself. */
async function walkChunks(
  store: ObjectStore,
  name: string,
  keys: DiskKeys,
  layer: LayerRef,
  objectBytes: number,
): Promise<Walk> {
  let builder: LayerIndexBuilder | null = new LayerIndexBuilder();
  let isSealed = false;
  let end = LAYER_HEADER_BYTES;
  while (end + CHUNK_HEADER_BYTES <= Math.min(objectBytes, layer.sizeBytes)) {
    const bytes = await chunkAt(store, name, end, objectBytes);
    const header = bytes === null ? null : headerOf(bytes);
    if (bytes === null || header === null) break;
    const hidesHashes = header.seal?.keyed === false;
    isSealed ||= hidesHashes;
    if (hidesHashes && !(await keys.canOpen(header.seal))) builder = null;
    const open = hidesHashes && builder !== null ? await keys.open({ number: 0, bytes, header }) : { bytes, header };
    builder?.append(open.bytes, open.header, bytes.length);
    end += bytes.length;
  }
  return { keys, builder, isSealed, end };
}

/** Null: it is no chunk, or a broken one. */
function headerOf(bytes: Buffer): ChunkHeader | null {
  try {
    return decodeChunkHeader(bytes);
  } catch (error) {
    if (isCorrupt(error)) return null;
    throw error;
  }
}

/** The index that stands behind the chunks, when it is the one of the manifest: what was broken is the footer alone. */
async function indexBehind(
  store: ObjectStore,
  name: string,
  layer: LayerRef,
  { keys, end }: Walk,
  objectBytes: number,
): Promise<Found | null> {
  const indexBytes = layer.sizeBytes - LAYER_FOOTER_BYTES - end;
  if (indexBytes <= 0 || indexBytes > LAYER_INDEX_BYTES_MAX || end + indexBytes > objectBytes) return null;
  const bytes = await store.read(name, end, indexBytes);
  const indexChecksum = digestFromText(layer.indexChecksum);
  if (checksum64(bytes) !== indexChecksum) return null;
  if (!(await keys.canOpen(indexSealOf(bytes)))) throw withoutKeys(name);
  const footer = { indexOffset: end, indexBytes, indexChecksum };
  return { index: decodeIndex(bytes, footer, name, await keys.indexOpener(bytes)), isProven: true };
}

/** The index that follows from the chunks, when it has the size of the one that the manifest names, and its checksum unless that can't be. */
function indexFrom(name: string, layer: LayerRef, { builder, isSealed, end }: Walk): Found | null {
  if (builder === null) throw withoutKeys(name);
  const tail = builder.finish();
  const sizeBytes = end + tail.length + (isSealed ? INDEX_SEAL_BYTES : 0);
  const footer = decodeFooter(tail.subarray(tail.length - LAYER_FOOTER_BYTES), end + tail.length, name);
  const isProven = digestToText(footer.indexChecksum) === layer.indexChecksum;
  if (sizeBytes !== layer.sizeBytes || (!isProven && !isSealed)) return null;
  return { index: decodeIndex(tail.subarray(0, tail.length - LAYER_FOOTER_BYTES), footer, name), isProven };
}

/** Bytes of the chunk that begins at `offset`, as its header has it; null when none begins there. */
async function chunkAt(store: ObjectStore, name: string, offset: number, objectBytes: number): Promise<Buffer | null> {
  const head = await store.read(name, offset, CHUNK_HEADER_BYTES);
  const lengthBytes =
    CHUNK_HEADER_BYTES +
    (head.readUInt8(12) === CHUNK_VERSION_SEALED ? SEAL_BYTES : 0) +
    head.readUInt16LE(14) * 8 +
    head.readUInt32LE(16) * 8 +
    head.readUInt32LE(24);
  if (lengthBytes > CHUNK_FRAME_BYTES_MAX || offset + lengthBytes > objectBytes) return null;
  return store.read(name, offset, lengthBytes);
}
