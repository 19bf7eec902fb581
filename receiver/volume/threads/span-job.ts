/**
 * What a thread is asked to do: read a span of a layer, decompress and prove the chunks in it, and put the plain bytes where they belong. Says
 * everything that the thread needs, as it has neither indexes nor plans nor keys. Pure.
 */
import type { LayerIndex } from '../../../shared/layer/layer.js';
import type { Span } from '../layer-reader.js';
import type { Piece } from '../unit-work.js';
import type { SharedRoom } from './shared-room.js';

/** A write to a target: plain bytes of a chunk from `from` on go to `offset`. */
export interface Put {
  readonly from: number;
  readonly offset: number;
  readonly lengthBytes: number;
}

/** Where plain bytes are written, in terms of descriptors: they are the process's, not the thread's. */
export interface Outlet {
  /** For errors. */
  readonly path: string;
  /** Around the page cache, for what is a multiple of `directBytes`; null where that can't be. */
  readonly direct: number | null;
  readonly directBytes: number;
  /** For all else; null where everything is a multiple. */
  readonly cached: number | null;
  /**
   * A sparse file: a range is reserved before it is written, as writes around the page cache that have to find room on the disk wait for each other
   * (ext4, XFS), and those into reserved room don't.
   */
  readonly isSparse: boolean;
}

export interface ChunkTask {
  readonly number: number;
  /** Of its stored bytes, within the span. */
  readonly at: number;
  readonly lengthBytes: number;
  /** What of it is to be proven; `hashAt` counts in the job's hashes. */
  readonly pieces: readonly Piece[];
  readonly puts: readonly Put[];
}

export interface SpanJob {
  /** Name of the layer, for errors. */
  readonly layer: string;
  readonly blockBytes: number;
  readonly offset: number;
  readonly lengthBytes: number;
  /** Of the blocks of all pieces. */
  readonly hashes: BigUint64Array;
  readonly chunks: readonly ChunkTask[];
  /**
   * Where plain bytes go: to a target, or into shared memory, whose offsets the puts are then; null: nowhere, they are only proven. A chunk that goes
   * into shared memory as a whole is decompressed there, before it is proven.
   */
  readonly outlet: Outlet | SharedRoom | null;
}

/** An AfterimageError on its way between threads. */
export interface ErrorParts {
  readonly message: string;
  readonly code: string;
  readonly kind: string;
  readonly hint: string | undefined;
}

export interface SpanResult {
  /** XOR of the hashes that were proven. */
  readonly digest: bigint;
  /** Some of it is encrypted, and was left alone: a thread has no keys. */
  readonly isSealed: boolean;
  /** Chunks, by number, that aren't what they should be. */
  readonly failures: readonly { readonly chunk: number; readonly error: ErrorParts }[];
}

/** What of a chunk is wanted, and where it goes. */
export interface ChunkWish {
  readonly pieces: readonly Piece[];
  readonly puts: readonly Put[];
}

/** The job of one span. The hashes that it needs are copied: an index is large, and stays where it is. */
export function spanJob(
  layer: string,
  blockBytes: number,
  index: LayerIndex,
  span: Span,
  wishOf: (chunk: number) => ChunkWish,
  outlet: SpanJob['outlet'] = null,
): SpanJob {
  const wishes = span.chunks.map((chunk) => wishOf(chunk));
  let blocks = 0;
  for (const { pieces } of wishes) for (const piece of pieces) blocks += piece.count;
  const hashes = new BigUint64Array(blocks);
  let used = 0;
  const chunks = span.chunks.map((number, i): ChunkTask => {
    const { pieces, puts } = wishes[i] as ChunkWish;
    const ref = index.chunks[number] as LayerIndex['chunks'][number];
    const moved = pieces.map((piece) => {
      const hashAt = used;
      hashes.set(index.hashes.subarray(piece.hashAt, piece.hashAt + piece.count), hashAt);
      used += piece.count;
      return { ...piece, hashAt };
    });
    return { number, at: ref.offset - span.offset, lengthBytes: ref.lengthBytes, pieces: moved, puts };
  });
  const lengthBytes = span.end - span.offset;
  return { layer, blockBytes, offset: span.offset, lengthBytes, hashes, chunks, outlet };
}
