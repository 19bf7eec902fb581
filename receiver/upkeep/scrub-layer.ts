/**
 * Reads one layer from end to end and says all that is wrong with it. Every byte of it is covered: header and index by their checksums and by what the
 * manifest says, each chunk by its own, and nothing may lie between them. Marks nothing; an error of the store itself is thrown, as it says nothing about the layer.
 */
import { AfterimageError, corrupt, messageOf } from '../../shared/errors.js';
import { decodeChunkHeader } from '../../shared/layer/chunk.js';
import {
  checkIdentity,
  decodeFooter,
  decodeIndex,
  decodeLayerHeader,
  indexSealOf,
  LAYER_FOOTER_BYTES,
  LAYER_HEADER_BYTES,
  type LayerIndex,
} from '../../shared/layer/layer.js';
import { digestToText } from '../../shared/blocks/hash.js';
import {
  CHUNK_FRAME_BYTES_MAX,
  CHUNK_PLAIN_BYTES_MAX,
  LAYER_INDEX_BYTES_MAX,
  READ_BYTES_MAX,
} from '../../shared/limits.js';
import type { LayerRef } from '../catalog/manifest.js';
import { layerName } from '../catalog/names.js';
import type { ObjectStore } from '../store/store.js';
import { provePieces } from '../volume/chunk-check.js';
import { DiskKeys } from '../volume/disk-keys.js';
import { spansOf, type LayerOwner } from '../volume/layer-reader.js';
import { allPieces } from '../volume/verify.js';

export interface Problem {
  readonly code: string;
  readonly what: string;
}

export interface LayerReport {
  readonly name: string;
  /** Empty: the layer is whole. */
  readonly problems: readonly Problem[];
  /** Null: it can't be read, or is another's; readers refuse the whole layer then, whatever its chunks are. */
  readonly index: LayerIndex | null;
  /** Chunks whose blocks can't be had, by number. */
  readonly badChunks: readonly number[];
  readonly readBytes: number;
}

export interface LayerCheck {
  readonly store: ObjectStore;
  readonly owner: LayerOwner;
  readonly layer: LayerRef;
  /** Also decompress every chunk and compare each block with its hash: finds what was wrong before it was stored. */
  readonly plain?: boolean;
  /** Asked before so many bytes are read. */
  readonly pace?: (bytes: number) => Promise<void>;
}

type Read = (offset: number, lengthBytes: number) => Promise<Buffer>;

export async function checkLayer(check: LayerCheck): Promise<LayerReport> {
  const { owner, layer } = check;
  const name = layerName(owner.machine, owner.disk, layer);
  const problems: Problem[] = [];
  let readBytes = 0;
  const note = (error: unknown): void => {
    problems.push({ code: codeOf(error), what: messageOf(error) });
  };
  const broken = (error: unknown): LayerReport => {
    note(error);
    return { name, problems, index: null, badChunks: [], readBytes };
  };
  let read: Read;
  try {
    read = await openLayer(check, name, (bytes) => (readBytes += bytes));
  } catch (error) {
    return broken(error);
  }
  try {
    const header = decodeLayerHeader(await read(0, LAYER_HEADER_BYTES), name);
    const { machine, disk, blockBytes } = owner;
    checkIdentity(header, { ...layer, blockBytes, machineId: machine, diskId: disk }, name);
  } catch (error) {
    note(error);
  }
  let index: LayerIndex;
  try {
    index = await readIndex(check, read, name);
  } catch (error) {
    return broken(error);
  }
  const badChunks: number[] = [];
  await checkChunks(check, read, index, (chunk, error) => {
    badChunks.push(chunk);
    note(error);
  });
  return { name, problems, index, badChunks, readBytes };
}

/** Only what is wrong with the data is a finding. */
function codeOf(error: unknown): string {
  if (error instanceof AfterimageError && error.kind === 'corrupt') return error.code;
  throw error;
}

/** Small layers are read by one request, whose answer also has their size; of large ones the size is asked for first. */
async function openLayer(check: LayerCheck, name: string, count: (bytes: number) => void): Promise<Read> {
  const { store, layer, pace } = check;
  if (layer.sizeBytes < LAYER_HEADER_BYTES + LAYER_FOOTER_BYTES) {
    throw corrupt('layer-truncated', `layer ${name} has ${layer.sizeBytes} bytes by its manifest`);
  }
  const missing = corrupt('layer-missing', `layer ${name} is missing from the store`);
  const sized = (bytes: number): AfterimageError =>
    corrupt(
      bytes < layer.sizeBytes ? 'layer-truncated' : 'layer-size',
      `layer ${name} has ${bytes} bytes, its manifest says ${layer.sizeBytes}`,
    );
  if (layer.sizeBytes <= READ_BYTES_MAX) {
    await pace?.(layer.sizeBytes);
    const bytes = await store.get(name, 2 * READ_BYTES_MAX);
    if (bytes === null) throw missing;
    count(bytes.length);
    if (bytes.length !== layer.sizeBytes) throw sized(bytes.length);
    return async (offset, lengthBytes) => bytes.subarray(offset, offset + lengthBytes);
  }
  const info = await store.head(name);
  if (info === null) throw missing;
  if (info.sizeBytes !== layer.sizeBytes) throw sized(info.sizeBytes);
  return async (offset, lengthBytes) => {
    await pace?.(lengthBytes);
    const bytes = await store.read(name, offset, lengthBytes).catch((error: unknown) => {
      throw error instanceof AfterimageError && error.kind === 'not-found' ? missing : error;
    });
    count(bytes.length);
    return bytes;
  };
}

async function readIndex({ store, owner, layer }: LayerCheck, read: Read, name: string): Promise<LayerIndex> {
  const footer = decodeFooter(
    await read(layer.sizeBytes - LAYER_FOOTER_BYTES, LAYER_FOOTER_BYTES),
    layer.sizeBytes,
    name,
  );
  if (footer.indexOffset < LAYER_HEADER_BYTES || footer.indexBytes > LAYER_INDEX_BYTES_MAX) {
    throw corrupt('layer-index', `index of layer ${name} has ${footer.indexBytes} bytes at ${footer.indexOffset}`);
  }
  const bytes = await read(footer.indexOffset, footer.indexBytes);
  // Whether a layer is whole can be said without its keys; the hashes of an encrypted index then stay unknown.
  const keys = new DiskKeys(store, owner.machine, owner.disk);
  const opener = (await keys.canOpen(indexSealOf(bytes))) ? await keys.indexOpener(bytes) : 'structure';
  const index = decodeIndex(bytes, footer, name, opener);
  if (digestToText(footer.indexChecksum) !== layer.indexChecksum) {
    throw corrupt('layer-misplaced', `layer ${name} is not the one that its manifest names: other index`);
  }
  let end = LAYER_HEADER_BYTES;
  for (const [i, chunk] of index.chunks.entries()) {
    if (chunk.offset !== end || chunk.lengthBytes > CHUNK_FRAME_BYTES_MAX) {
      throw corrupt('layer-index', `index of layer ${name} has chunk ${i} at ${chunk.offset}, expected ${end}`);
    }
    end += chunk.lengthBytes;
  }
  if (end !== footer.indexOffset) {
    throw corrupt('layer-index', `layer ${name} has ${footer.indexOffset - end} bytes that no chunk owns`);
  }
  return index;
}

async function checkChunks(
  { store, owner, layer, plain }: LayerCheck,
  read: Read,
  index: LayerIndex,
  isBad: (chunk: number, error: unknown) => void,
): Promise<void> {
  const name = layerName(owner.machine, owner.disk, layer);
  const numbers = index.chunks.map((_, i) => i);
  const pieces = plain === true ? allPieces(index) : null;
  const keys = new DiskKeys(store, owner.machine, owner.disk);
  const room = pieces === null ? null : Buffer.allocUnsafe(CHUNK_PLAIN_BYTES_MAX);
  for (const span of spansOf(index.chunks, numbers)) {
    const bytes = await read(span.offset, span.end - span.offset);
    for (const number of span.chunks) {
      const ref = index.chunks[number];
      if (ref === undefined) continue;
      const chunk = bytes.subarray(ref.offset - span.offset, ref.offset - span.offset + ref.lengthBytes);
      try {
        const header = decodeChunkHeader(chunk);
        if (header.blockBytes !== owner.blockBytes) {
          throw corrupt('chunk-malformed', `block size ${header.blockBytes}, expected ${owner.blockBytes}`);
        }
        if (pieces !== null && room !== null) {
          const stored = { number, bytes: chunk, header };
          if (await keys.canOpen(header.seal))
            provePieces(name, index, await keys.open(stored), pieces.get(number) ?? [], room);
        }
      } catch (error) {
        isBad(number, inChunk(name, number, ref.offset, error));
      }
    }
  }
}

function inChunk(name: string, chunk: number, offset: number, error: unknown): unknown {
  if (!(error instanceof AfterimageError) || error.kind !== 'corrupt') return error;
  return corrupt(error.code, `layer ${name}, chunk ${chunk} at byte ${offset}: ${error.message}`);
}

/** Blocks that a report says can't be had from its layer: (first, count), ascending. Null: readers refuse the layer, so all that it may hold. */
export function badExtents(report: LayerReport): [number, number][] | null {
  const { index } = report;
  if (index === null) return null;
  const bad = new Set(report.badChunks);
  const extents: [number, number][] = [];
  for (let i = 0; i < index.first.length; i++) {
    // A zero run needs no chunk.
    if (index.zero[i] === 1 || !bad.has(index.chunk[i] ?? 0)) continue;
    const first = index.first[i] ?? 0;
    const count = index.count[i] ?? 0;
    const last = extents.at(-1);
    if (last !== undefined && last[0] + last[1] === first) last[1] += count;
    else extents.push([first, count]);
  }
  return extents;
}
