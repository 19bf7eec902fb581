/** A thread of the pool: takes spans, one after the other, and answers each. Owns its memory and nothing else; it dies with the process. */
import { parentPort } from 'node:worker_threads';
import { partsOf } from './error-parts.js';
import type { Loaded, Order, SpanAnswer } from './pool.js';
import { unpackJob } from './packed-job.js';
import { Rooms, workOff, writeOut } from './span-work.js';

const rooms = new Rooms();
const loaded: Loaded = 'loaded';
parentPort?.postMessage(loaded);
const NOTHING_READ = { digest: 0n, isSealed: false, failures: [] };

parentPort?.on('message', (order: Order) => {
  const { id } = order;
  let answer: SpanAnswer;
  try {
    if ('write' in order) {
      writeOut(order.write);
      answer = { id, result: NOTHING_READ };
    } else answer = { id, result: workOff(order.fd, unpackJob(order.job), rooms) };
  } catch (error) {
    answer = { id, error: partsOf(error) };
  }
  parentPort?.postMessage(answer);
});
