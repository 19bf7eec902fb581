/**
 * A span job on its way to a thread: its chunks as one array of numbers, since a message of many small objects costs both sides more than the work that it
 * asks for when layers have many short runs. Pure.
 */
import type { Piece } from '../unit-work.js';
import { isRoom, type SharedRoom } from './shared-room.js';
import type { ChunkTask, Outlet, Put, SpanJob } from './span-job.js';

export interface PackedJob extends Omit<SpanJob, 'chunks' | 'outlet'> {
  /** A room by its number. */
  readonly outlet: Outlet | number | null;
  /** Of each chunk: number, at, lengthBytes, how many pieces, how many puts; then its pieces, then its puts. */
  readonly numbers: Float64Array;
}

const CHUNK_NUMBERS = 5;
const PIECE_NUMBERS = 4;
const PUT_NUMBERS = 3;

export function packJob({ chunks, outlet, ...rest }: SpanJob): PackedJob {
  let length = 0;
  for (const { pieces, puts } of chunks)
    length += CHUNK_NUMBERS + pieces.length * PIECE_NUMBERS + puts.length * PUT_NUMBERS;
  const numbers = new Float64Array(length);
  let at = 0;
  const add = (value: number): void => {
    numbers[at++] = value;
  };
  for (const chunk of chunks) {
    add(chunk.number);
    add(chunk.at);
    add(chunk.lengthBytes);
    add(chunk.pieces.length);
    add(chunk.puts.length);
    for (const { first, count, position, hashAt } of chunk.pieces) {
      add(first);
      add(count);
      add(position);
      add(hashAt);
    }
    for (const { from, offset, lengthBytes } of chunk.puts) {
      add(from);
      add(offset);
      add(lengthBytes);
    }
  }
  return { ...rest, outlet: isRoom(outlet) ? outlet.number : outlet, numbers };
}

/** `rooms`: those that the thread was given, by number. */
export function unpackJob({ numbers, outlet, ...rest }: PackedJob, rooms: ReadonlyMap<number, SharedRoom>): SpanJob {
  const chunks: ChunkTask[] = [];
  let next = 0;
  const take = (): number => numbers[next++] ?? 0;
  while (next < numbers.length) {
    const [number, at, lengthBytes] = [take(), take(), take()];
    const [pieceCount, putCount] = [take(), take()];
    const pieces: Piece[] = [];
    for (let i = 0; i < pieceCount; i++)
      pieces.push({ chunk: number, first: take(), count: take(), position: take(), hashAt: take() });
    const puts: Put[] = [];
    for (let i = 0; i < putCount; i++) puts.push({ from: take(), offset: take(), lengthBytes: take() });
    chunks.push({ number, at, lengthBytes, pieces, puts });
  }
  if (typeof outlet !== 'number') return { ...rest, outlet, chunks };
  const room = rooms.get(outlet);
  if (room === undefined) throw new Error(`a thread was not given room ${outlet}`);
  return { ...rest, outlet: room, chunks };
}
