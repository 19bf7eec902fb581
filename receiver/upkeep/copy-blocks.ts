/**
 * Moves the winning blocks of several layers into a sink: each chunk that holds any is read once, in the order of its lowest block; what is decoded is
 * checked block by block against the index, whole chunks by the checksum of their stored bytes. Memory: the sink, two ranges of READ_BYTES_MAX, a chunk.
 */
import { plainHasher } from '../../shared/crypto/block-hasher.js';
import type { ChunkHeader } from '../../shared/layer/chunk.js';
import { CHUNK_PLAIN_BYTES_MAX } from '../../shared/limits.js';
import { MERGE_COPY_PLAIN_BYTES_MIN } from '../../shared/limits-upkeep.js';
import { cancelled } from '../volume/plan-point.js';
import { checkHashes, provePieces } from '../volume/chunk-check.js';
import { spansOf, type LayerReader } from '../volume/layer-reader.js';
import { byChunk, type Piece } from '../volume/unit-work.js';
import type { LayerSink } from './layer-sink.js';
import type { Pace } from './pace.js';
import type { Winner } from './winners.js';

/** Chunks of one layer that are read with one request, and the lowest block that is wanted of them. */
interface Read {
  readonly winner: Winner;
  readonly chunks: readonly number[];
  readonly pieces: ReadonlyMap<number, readonly Piece[]>;
  readonly lowest: number;
  readonly bytes: number;
}

export interface CopyResult {
  readonly readBytes: number;
  /** Chunks that passed as they were. */
  readonly copiedChunks: number;
}

export async function copyBlocks(
  reader: LayerReader,
  winners: readonly Winner[],
  sink: LayerSink,
  pace: Pace,
  signal: AbortSignal,
): Promise<CopyResult> {
  const reads = winners.flatMap(readsOf).sort((a, b) => a.lowest - b.lowest);
  const plain = Buffer.allocUnsafe(CHUNK_PLAIN_BYTES_MAX);
  let readBytes = 0;
  let copiedChunks = 0;
  for (const [i, read] of reads.entries()) {
    if (signal.aborted) throw cancelled('upkeep');
    await pace.take(read.bytes);
    const { layer, index } = read.winner;
    const name = reader.nameOf(layer);
    for await (const chunk of reader.movableChunks(layer, index, read.chunks)) {
      const pieces = read.pieces.get(chunk.number) ?? [];
      readBytes += chunk.bytes.length;
      // What its source encrypted is never taken apart here, whether or not its key is at hand: of such a chunk the index names what counts.
      const isSealed = chunk.header.seal !== null;
      if (isSealed || isWholeAndLarge(chunk.header, pieces)) {
        checkHashes(name, index, chunk, pieces);
        copiedChunks++;
        await sink.addChunk(chunk.bytes, isSealed ? pieces : null);
        continue;
      }
      provePieces(name, index, { ...chunk, hash: plainHasher }, pieces, plain);
      const blocks = pieces.reduce((sum, piece) => sum + piece.count, 0);
      while (sink.isFullFor(blocks)) await sink.flush(reads[i]?.lowest ?? Infinity);
      for (const piece of pieces) {
        for (let b = 0; b < piece.count; b++) {
          const at = (piece.position + b) * chunk.header.blockBytes;
          sink.add(piece.first + b, plain, at, index.hashes[piece.hashAt + b] ?? 0n);
        }
      }
    }
  }
  for (const { work } of winners) for (const [first, count] of work.zeroes) await sink.addZeroes(first, count);
  return { readBytes, copiedChunks };
}

function readsOf(winner: Winner): Read[] {
  const pieces = byChunk(winner.work.pieces);
  // Pieces come in the order of their chunks in the layer.
  const spans = spansOf(winner.index.chunks, [...pieces.keys()]);
  return spans.map(({ chunks, offset, end }) => ({
    winner,
    chunks,
    pieces,
    lowest: Math.min(...chunks.map((chunk) => lowestOf(pieces.get(chunk) ?? []))),
    bytes: end - offset,
  }));
}

const lowestOf = (pieces: readonly Piece[]): number =>
  pieces.reduce((lowest, piece) => Math.min(lowest, piece.first), Infinity);

/** All of the chunk wins, it is large, and it holds no zero runs (these are written anew: one of them may not win). */
function isWholeAndLarge(header: ChunkHeader, pieces: readonly Piece[]): boolean {
  if (header.plainBytes < MERGE_COPY_PLAIN_BYTES_MIN || header.extents.some((extent) => extent.zero)) return false;
  return pieces.reduce((sum, piece) => sum + piece.count, 0) === header.dataBlocks;
}
