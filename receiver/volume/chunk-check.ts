/**
 * From a chunk's stored bytes to plain blocks that are proven: each block's hash is computed and compared with the one in the layer's index,
 * which the manifest vouches for. Pure but for the buffer that it fills.
 */
import { corrupt } from '../../shared/errors.js';
import { COMPRESS_BESIDE_BYTES_MIN } from '../../shared/limits.js';
import { chunkHash, decodeChunkData, decodeChunkDataBeside } from '../../shared/layer/chunk.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import type { ReadChunk, StoredChunk } from './disk-keys.js';
import { blockMismatch, inLayer } from './layer-errors.js';
import type { Piece } from './unit-work.js';

/** Decompresses a chunk into `plain` and checks the blocks of `pieces`; returns the XOR of their hashes. */
export function provePieces(
  name: string,
  index: LayerIndex,
  chunk: ReadChunk,
  pieces: readonly Piece[],
  plain: Buffer,
): bigint {
  try {
    decodeChunkData(chunk.bytes, chunk.header, plain);
  } catch (error) {
    throw inLayer(name, `chunk ${chunk.number}`, error);
  }
  return checkPieces(name, index, chunk, pieces, plain);
}

/** Checks of a chunk that is moved as a whole that it is the one whose blocks the index has, by the hashes that both have. */
export function checkHashes(name: string, index: LayerIndex, chunk: StoredChunk, pieces: readonly Piece[]): void {
  for (const piece of pieces) {
    for (let i = 0; i < piece.count; i++) {
      const at = piece.position + i;
      const isSame =
        at < chunk.header.dataBlocks && chunkHash(chunk.bytes, chunk.header, at) === index.hashes[piece.hashAt + i];
      if (!isSame) throw blockMismatch(name, piece.first + i);
    }
  }
}

/** Decompresses a chunk into `plain`, on another thread if that is worth it; checks nothing. */
export async function decodeBeside(name: string, chunk: ReadChunk, plain: Buffer): Promise<void> {
  try {
    if (chunk.header.plainBytes < COMPRESS_BESIDE_BYTES_MIN) decodeChunkData(chunk.bytes, chunk.header, plain);
    else await decodeChunkDataBeside(chunk.bytes, chunk.header, plain);
  } catch (error) {
    throw inLayer(name, `chunk ${chunk.number}`, error);
  }
}

/** Checks the blocks of `pieces` in a chunk's `plain` bytes; returns the XOR of their hashes. */
export function checkPieces(
  name: string,
  index: Pick<LayerIndex, 'hashes'>,
  chunk: ReadChunk,
  pieces: readonly Piece[],
  plain: Buffer,
): bigint {
  const { header } = chunk;
  let digest = 0n;
  for (const piece of pieces) {
    if (piece.position + piece.count > header.dataBlocks) {
      throw corrupt(
        'layer-index',
        `layer ${name}: its index wants blocks ${piece.position} to ${piece.position + piece.count - 1} of chunk ${chunk.number}, which has ${header.dataBlocks}`,
      );
    }
    for (let i = 0; i < piece.count; i++) {
      const block = piece.first + i;
      const expected = index.hashes[piece.hashAt + i] ?? -1n;
      const at = (piece.position + i) * header.blockBytes;
      if (chunk.hash(plain, at, header.blockBytes, block) !== expected) throw blockMismatch(name, block);
      digest ^= expected;
    }
  }
  return digest;
}
