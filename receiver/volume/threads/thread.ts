/** A thread of the pool: takes spans, one after the other, and answers each. Owns its memory, and a share of the rooms that it was given; it dies with the process. */
import { parentPort } from 'node:worker_threads';
import { partsOf } from './error-parts.js';
import type { Loaded, Order, SpanAnswer } from './pool.js';
import { unpackJob } from './packed-job.js';
import type { SharedRoom } from './shared-room.js';
import { Rooms, workOff } from './span-work.js';

const rooms = new Rooms();
const shared = new Map<number, SharedRoom>();
const loaded: Loaded = 'loaded';
parentPort?.postMessage(loaded);

parentPort?.on('message', (order: Order) => {
  if ('room' in order) return void shared.set(order.room.number, order.room);
  if ('leave' in order) return void shared.delete(order.leave);
  const { id, fd, job } = order;
  let answer: SpanAnswer;
  try {
    answer = { id, result: workOff(fd, unpackJob(job, shared), rooms) };
  } catch (error) {
    answer = { id, error: partsOf(error) };
  }
  parentPort?.postMessage(answer);
});
