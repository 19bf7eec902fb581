/**
 * A range of a point by threads, into memory that they share with the event loop: what nobody waits for (reading ahead, hydration) is read, decompressed and
 * proven without taking turns from those who do. Only where layers are files of this host, and not encrypted. Owns no state.
 *
 * After a long history neighbours stand in many layers: a message to a thread for a block or two of each costs more than to read them. That too is the event loop's.
 *
 * What is in the way of it isn't told here: whoever gets false reads the range on the event loop, and hears of it there. A chunk of which a part lies beyond the
 * range is decompressed for each range that has some of it.
 */
import type { Extent } from '../../shared/blocks/block-set.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import { BESIDE_JOBS_MAX } from '../../shared/limits.js';
import type { LayerRef } from '../catalog/manifest.js';
import { spansOf, type LayerReader, type Span } from './layer-reader.js';
import { byLayer, NO_LAYER, type PointMap } from './point-map.js';
import { bytesOfRoom, type SharedRoom } from './threads/shared-room.js';
import { spanJob, type ChunkWish, type SpanResult } from './threads/span-job.js';
import { byChunk, workOfRuns, type Piece } from './unit-work.js';

/** Fills the room's bytes from `offset` on with the range's blocks, each proven; false: with nothing that counts. Nobody writes into the room once it resolves. */
export async function readBeside(
  reader: LayerReader,
  map: PointMap,
  range: Extent,
  room: SharedRoom,
  offset: number,
): Promise<boolean> {
  if (!reader.takesThreads) return false;
  const { blockBytes } = map.geometry;
  const bytes = bytesOfRoom(room);
  const at = (block: number): number => offset + (block - range.first) * blockBytes;
  const zero = (runs: Iterable<readonly [number, number]>): void => {
    for (const [from, n] of runs) bytes.fill(0, at(from), at(from + n));
  };
  const parts = await partsOf(reader, map, range).catch(() => null);
  if (parts === null || parts.jobs.length > BESIDE_JOBS_MAX) return false;
  zero(parts.zeroes);
  // All are begun in one turn, so that none can fail before somebody looks at it.
  const jobs = parts.jobs.map(({ layer, index, groups, span }) => {
    const wishOf = (chunk: number): ChunkWish => {
      const pieces = groups.get(chunk) ?? [];
      const puts = pieces.map(({ first, count, position }) => ({
        from: position * blockBytes,
        offset: at(first),
        lengthBytes: count * blockBytes,
      }));
      return { pieces, puts };
    };
    return reader.onThread(layer, spanJob(reader.nameOf(layer), blockBytes, index, span, wishOf, room));
  });
  const ended = await Promise.allSettled(jobs);
  return ended.every((job) => job.status === 'fulfilled' && isWhole(job.value));
}

const isWhole = ({ isSealed, failures }: SpanResult): boolean => !isSealed && failures.length === 0;

interface Parts {
  readonly zeroes: (readonly [first: number, count: number])[];
  readonly jobs: {
    readonly layer: LayerRef;
    readonly index: LayerIndex;
    readonly groups: ReadonlyMap<number, readonly Piece[]>;
    readonly span: Span;
  }[];
}

/** What a range consists of. Throws what loading an index throws. */
async function partsOf(reader: LayerReader, map: PointMap, { first, count }: Extent): Promise<Parts> {
  const parts: Parts = { zeroes: [], jobs: [] };
  for (const [number, runs] of byLayer(map, first, count)) {
    if (number === NO_LAYER) {
      parts.zeroes.push(...runs);
      continue;
    }
    const layer = map.layers[number] as LayerRef;
    const index = await reader.index(layer);
    const { pieces, zeroes } = workOfRuns(index, runs);
    parts.zeroes.push(...zeroes);
    const groups = byChunk(pieces);
    for (const span of spansOf(index.chunks, [...groups.keys()])) parts.jobs.push({ layer, index, groups, span });
  }
  return parts;
}
