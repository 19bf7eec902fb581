/** A thread of the pool: takes spans, one after the other, and answers each. Owns its memory and nothing else; it dies with the process. */
import { parentPort } from 'node:worker_threads';
import { partsOf } from './error-parts.js';
import type { Loaded, SpanAnswer, SpanOrder } from './pool.js';
import { unpackJob } from './packed-job.js';
import { Rooms, workOff } from './span-work.js';

const rooms = new Rooms();
const loaded: Loaded = 'loaded';
parentPort?.postMessage(loaded);

parentPort?.on('message', ({ id, fd, job }: SpanOrder) => {
  let answer: SpanAnswer;
  try {
    answer = { id, result: workOff(fd, unpackJob(job), rooms) };
  } catch (error) {
    answer = { id, error: partsOf(error) };
  }
  parentPort?.postMessage(answer);
});
