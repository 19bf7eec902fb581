/**
 * A range of a point by threads, into memory that they share with the event loop: what nobody waits for (reading ahead, hydration) is read, decompressed and
 * proven without taking turns from those who do. Only where layers are files of this host, and not encrypted. Owns no state.
 *
 * What is in the way of it isn't told here: whoever gets false reads the range on the event loop, and hears of it there. A chunk of which a part lies beyond the
 * range is decompressed for each range that has some of it.
 */
import type { Extent } from '../../shared/blocks/block-set.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import type { LayerRef } from '../catalog/manifest.js';
import { spansOf, type LayerReader } from './layer-reader.js';
import { byLayer, NO_LAYER, type PointMap, type Runs } from './point-map.js';
import { bytesOfRoom, type SharedRoom } from './threads/shared-room.js';
import { spanJob, type ChunkWish, type SpanResult } from './threads/span-job.js';
import { byChunk, workOfRuns, type Piece } from './unit-work.js';

/** Fills the room's bytes from `offset` on with the range's blocks, each proven; false: with nothing that counts. Nobody writes into the room once it resolves. */
export async function readBeside(
  reader: LayerReader,
  map: PointMap,
  { first, count }: Extent,
  room: SharedRoom,
  offset: number,
): Promise<boolean> {
  if (!reader.takesThreads) return false;
  const { blockBytes } = map.geometry;
  const bytes = bytesOfRoom(room);
  const at = (block: number): number => offset + (block - first) * blockBytes;
  const zero = (runs: Runs): void => {
    for (const [from, n] of runs) bytes.fill(0, at(from), at(from + n));
  };
  const putOf = ({ first: from, count: n, position }: Piece): ChunkWish['puts'][number] => ({
    from: position * blockBytes,
    offset: at(from),
    lengthBytes: n * blockBytes,
  });
  const jobs: Promise<SpanResult>[] = [];
  const begin = (ref: LayerRef, index: LayerIndex, pieces: readonly Piece[]): void => {
    const groups = byChunk(pieces);
    const wishOf = (chunk: number): ChunkWish => {
      const own = groups.get(chunk) ?? [];
      return { pieces: own, puts: own.map(putOf) };
    };
    for (const span of spansOf(index.chunks, [...groups.keys()]))
      jobs.push(reader.onThread(ref, spanJob(reader.nameOf(ref), blockBytes, index, span, wishOf, room)));
  };
  let isPlanned = true;
  try {
    for (const [layer, runs] of byLayer(map, first, count)) {
      if (layer === NO_LAYER) {
        zero(runs);
        continue;
      }
      const ref = map.layers[layer] as LayerRef;
      const index = await reader.index(ref);
      const { pieces, zeroes } = workOfRuns(index, runs);
      zero([...zeroes]);
      begin(ref, index, pieces);
    }
  } catch {
    // An index that can't be read: who reads the range on the event loop hears of it.
    isPlanned = false;
  }
  const ended = await Promise.allSettled(jobs);
  return isPlanned && ended.every((job) => job.status === 'fulfilled' && isWhole(job.value));
}

const isWhole = ({ isSealed, failures }: SpanResult): boolean => !isSealed && failures.length === 0;
