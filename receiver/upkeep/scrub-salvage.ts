/**
 * What can be had of a damaged layer: its index, read or made anew from its chunks and proven by the checksum in the manifest, and which of its
 * blocks are bad. Reads only.
 */
import { digestToText } from '../../shared/blocks/hash.js';
import { AfterimageError } from '../../shared/errors.js';
import { CHUNK_HEADER_BYTES, CHUNK_VERSION_SEALED, decodeChunkHeader, SEAL_BYTES } from '../../shared/layer/chunk.js';
import {
  decodeFooter,
  decodeIndex,
  LAYER_FOOTER_BYTES,
  LAYER_HEADER_BYTES,
  LayerIndexBuilder,
  type LayerIndex,
} from '../../shared/layer/layer.js';
import { CHUNK_FRAME_BYTES_MAX, LAYER_STORED_BYTES_MAX } from '../../shared/limits.js';
import type { LayerRef } from '../catalog/manifest.js';
import { layerName } from '../catalog/names.js';
import type { ObjectStore } from '../store/store.js';
import type { LayerOwner } from '../volume/layer-reader.js';
import { isCorrupt } from './scrub-concern.js';
import { checkLayer, type LayerReport } from './scrub-layer.js';

export interface Salvaged {
  readonly report: LayerReport;
  /** Null: nobody knows what the layer held. */
  readonly index: LayerIndex | null;
  readonly badChunks: ReadonlySet<number>;
}

export async function salvageLayer(store: ObjectStore, owner: LayerOwner, layer: LayerRef): Promise<Salvaged> {
  const report = await checkLayer({ store, owner, layer, plain: true });
  if (report.index !== null && !hasHashes(report.index)) throw withoutKeys(report.name);
  if (report.index !== null) return { report, index: report.index, badChunks: new Set(report.badChunks) };
  // Each chunk says how long it is and proves itself; if they lead to the very index that the manifest names, every one of them is the layer's.
  const index = await indexOfChunks(store, layerName(owner.machine, owner.disk, layer), layer);
  return { report, index, badChunks: new Set() };
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

async function indexOfChunks(store: ObjectStore, name: string, layer: LayerRef): Promise<LayerIndex | null> {
  const info = await store.head(name);
  if (info === null || info.sizeBytes > 2 * LAYER_STORED_BYTES_MAX) return null;
  const builder = new LayerIndexBuilder();
  try {
    while (builder.offset + CHUNK_HEADER_BYTES <= info.sizeBytes) {
      const chunk = await chunkAt(store, name, builder.offset, info.sizeBytes);
      if (chunk === null) break;
      builder.append(chunk, decodeChunkHeader(chunk));
      if (builder.offset >= layer.sizeBytes) break;
    }
    const tail = builder.finish();
    const footer = decodeFooter(tail.subarray(tail.length - LAYER_FOOTER_BYTES), builder.offset + tail.length, name);
    const isIt =
      builder.offset + tail.length === layer.sizeBytes && digestToText(footer.indexChecksum) === layer.indexChecksum;
    return isIt ? decodeIndex(tail.subarray(0, tail.length - LAYER_FOOTER_BYTES), footer, name) : null;
  } catch (error) {
    if (isCorrupt(error)) return null;
    throw error;
  }
}

/** Bytes of the chunk that begins at `offset`, as its header has it; null when none begins there. */
async function chunkAt(store: ObjectStore, name: string, offset: number, objectBytes: number): Promise<Buffer | null> {
  if (offset < LAYER_HEADER_BYTES) return null;
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
