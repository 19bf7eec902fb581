/** A thread of the pool: takes spans, one after the other, and answers each. Owns its memory, and a share of the rooms that it was given; it dies with the process. */
import { parentPort } from 'node:worker_threads';
import { partsOf } from './error-parts.js';
import type { Loaded, Order, ReserveOrder, SpanAnswer } from './pool.js';
import { unpackJob } from './packed-job.js';
import { reserve } from './reservation.js';
import type { SharedRoom } from './shared-room.js';
import { Rooms, workOff } from './span-work.js';

const rooms = new Rooms();
const shared = new Map<number, SharedRoom>();
const loaded: Loaded = 'loaded';
parentPort?.postMessage(loaded);

function reserveAll({ outlet, ranges }: ReserveOrder): null {
  const found = Array.from({ length: ranges.length / 2 }, (_, i) => ({
    offset: ranges[i * 2] ?? 0,
    lengthBytes: ranges[i * 2 + 1] ?? 0,
  }));
  reserve(outlet, found);
  return null;
}

parentPort?.on('message', (order: Order) => {
  if ('room' in order) return void shared.set(order.room.number, order.room);
  if ('leave' in order) return void shared.delete(order.leave);
  const { id } = order;
  let answer: SpanAnswer;
  try {
    const result = 'ranges' in order ? reserveAll(order) : workOff(order.fd, unpackJob(order.job, shared), rooms);
    answer = { id, result };
  } catch (error) {
    answer = { id, error: partsOf(error) };
  }
  parentPort?.postMessage(answer);
});
