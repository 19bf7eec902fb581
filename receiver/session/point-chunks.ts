/**
 * Blocks of a point as chunks for the wire: a stored chunk goes out as it is when all of it is wanted, else the wanted blocks are gathered and
 * encoded anew. Every block is proven against its hash in the index, or, passed on as it is, by the checksum here and by hash at the other end.
 * What the source had encrypted goes back to it encrypted: as it is, or gathered and encrypted anew; as it is even when only a part is wanted where
 * the receiver doesn't have the key.
 */
import { hasBit } from '../../shared/blocks/bitmap.js';
import { segmentBlocks } from '../../shared/blocks/geometry.js';
import { chunkBytesMax, encodeChunk, type ChunkExtent, type ChunkSealer } from '../../shared/layer/chunk.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import { CHUNK_PLAIN_BYTES_MAX } from '../../shared/limits.js';
import type { SegmentNumber } from '../../shared/units.js';
import { provePieces } from '../volume/chunk-check.js';
import { byChunk, runsOf, workOf, type Piece } from '../volume/unit-work.js';
import type { PointSource } from './differences.js';

/** As many as the agent's own chunks have, so that a frame keeps its bound. */
const EXTENTS_MAX = 128;

/** The part of each piece that is wanted. */
function wantedOf(pieces: readonly Piece[], wanted: Uint8Array, firstBlock: number): Piece[] {
  const found: Piece[] = [];
  for (const piece of pieces) {
    for (let i = 0; i < piece.count;) {
      if (!hasBit(wanted, piece.first + i - firstBlock)) {
        i++;
        continue;
      }
      const start = i;
      while (i < piece.count && hasBit(wanted, piece.first + i - firstBlock)) i++;
      found.push({
        chunk: piece.chunk,
        first: piece.first + start,
        count: i - start,
        position: piece.position + start,
        hashAt: piece.hashAt + start,
      });
    }
  }
  return found;
}

/** Gathers blocks until a chunk is full or they don't ascend. */
class Gatherer {
  readonly #blockBytes: number;
  readonly #sealer: ChunkSealer | null;
  readonly #plain = Buffer.allocUnsafe(CHUNK_PLAIN_BYTES_MAX);
  #extents: { first: number; count: number; zero: boolean }[] = [];
  #hashes: bigint[] = [];
  #next = 0;

  constructor(blockBytes: number, sealer: ChunkSealer | null) {
    this.#blockBytes = blockBytes;
    this.#sealer = sealer;
  }

  fits(block: number): boolean {
    const grows = this.#extents.length > 0 && block === this.#next;
    return (
      block >= this.#next &&
      (this.#hashes.length + 1) * this.#blockBytes <= CHUNK_PLAIN_BYTES_MAX &&
      (grows || this.#extents.length < EXTENTS_MAX)
    );
  }

  add(block: number, hash: bigint, source: Buffer, offset: number): void {
    source.copy(this.#plain, this.#hashes.length * this.#blockBytes, offset, offset + this.#blockBytes);
    this.#hashes.push(hash);
    const last = this.#extents[this.#extents.length - 1];
    if (last !== undefined && block === this.#next) last.count++;
    else this.#extents.push({ first: block, count: 1, zero: false });
    this.#next = block + 1;
  }

  /** What was gathered, encoded; undefined when that is nothing. Begins anew. */
  take(): Buffer | undefined {
    if (this.#extents.length === 0) return undefined;
    const extents: readonly ChunkExtent[] = this.#extents;
    const plain = this.#plain.subarray(0, this.#hashes.length * this.#blockBytes);
    const target = Buffer.allocUnsafe(chunkBytesMax(extents.length, this.#hashes.length, plain.length));
    const length = encodeChunk(
      target,
      this.#blockBytes,
      extents,
      BigUint64Array.from(this.#hashes),
      plain,
      this.#sealer,
    );
    this.#extents = [];
    this.#hashes = [];
    this.#next = 0;
    return target.subarray(0, length);
  }
}

/** The wanted blocks of a segment, each once, in no particular order; blocks that are zero at the point are left out. */
export async function* wantedChunks(
  source: PointSource,
  segment: SegmentNumber,
  wanted: Uint8Array,
): AsyncGenerator<Buffer> {
  const within = segmentBlocks(source.geometry, segment);
  const { reader, plan } = source;
  const { blockBytes } = source.geometry;
  let gatherer: Gatherer | undefined;
  const plain = Buffer.allocUnsafe(CHUNK_PLAIN_BYTES_MAX);
  for (const unit of plan.units) {
    if (unit.kind === 'zero' || runsOf(plan, unit, within).next().done === true) continue;
    const index: LayerIndex = await reader.index(unit.layer);
    const groups = byChunk(wantedOf(workOf(plan, unit, index, within).pieces, wanted, within.first));
    for await (const chunk of reader.movableChunks(unit.layer, index, [...groups.keys()])) {
      const pieces = groups.get(chunk.number) ?? [];
      const count = pieces.reduce((sum, piece) => sum + piece.count, 0);
      if (count === 0) continue;
      if (count === chunk.header.dataBlocks && chunk.header.extents.every((extent) => !extent.zero)) {
        yield chunk.bytes;
        continue;
      }
      if (!(await reader.keys.canOpen(chunk.header.seal))) {
        yield chunk.bytes;
        continue;
      }
      const opened = await reader.open(reader.nameOf(unit.layer), index, chunk);
      gatherer ??= new Gatherer(blockBytes, await reader.keys.sealerFor(source.disk));
      provePieces(reader.nameOf(unit.layer), index, opened, pieces, plain);
      for (const piece of pieces) {
        for (let i = 0; i < piece.count; i++) {
          const block = piece.first + i;
          if (!gatherer.fits(block)) {
            const full = gatherer.take();
            if (full !== undefined) yield full;
          }
          gatherer.add(block, index.hashes[piece.hashAt + i] ?? 0n, plain, (piece.position + i) * blockBytes);
        }
      }
    }
  }
  const rest = gatherer?.take();
  if (rest !== undefined) yield rest;
}
