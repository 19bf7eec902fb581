/**
 * Works a span off, with calls that block: on a thread of its own that is the fastest way, as nothing goes through the event loop and nothing is
 * handed from thread to thread. Nothing is put into a target before it is proven. After a crash the target holds what was put until then.
 */
import { readSync, writeSync } from 'node:fs';
import { corrupt, errnoOf } from '../../../shared/errors.js';
import { decodeChunkData, decodeChunkHeader } from '../../../shared/layer/chunk.js';
import { plainHasher } from '../../../shared/crypto/block-hasher.js';
import {
  CHUNK_PLAIN_BYTES_MAX,
  DIRECT_WRITE_BYTES_MIN,
  READ_BYTES_MAX,
  RESTORE_WRITE_BYTES_MAX,
} from '../../../shared/limits.js';
import { alignedBuffer, copyShared } from '../../../shared/native/libc.js';
import { storeError } from '../../store/file-errors.js';
import { checkPieces } from '../chunk-check.js';
import type { ReadChunk } from '../disk-keys.js';
import { inLayer } from '../layer-errors.js';
import { targetError } from '../target-error.js';
import { partsOf } from './error-parts.js';
import { reserve } from './reservation.js';
import { bytesOfRoom, isRoom, type SharedRoom } from './shared-room.js';
import type { ChunkTask, Outlet, SpanJob, SpanResult } from './span-job.js';

/** Memory of a thread: what it reads into, and what it decompresses into. Both are aligned. */
export class Rooms {
  readonly stored = alignedBuffer(READ_BYTES_MAX);
  /** One write, and the chunk that doesn't fit into it any more. */
  readonly plain = alignedBuffer(RESTORE_WRITE_BYTES_MAX + CHUNK_PLAIN_BYTES_MAX);
}

/** Whole, or code `object-short`. */
function readSpan(fd: number, { layer, offset, lengthBytes }: SpanJob, room: Buffer): Buffer {
  let got = 0;
  try {
    while (got < lengthBytes) {
      const n = readSync(fd, room, got, lengthBytes - got, offset + got);
      if (n === 0) break;
      got += n;
    }
  } catch (error) {
    throw storeError(`reading ${layer}`, error);
  }
  if (got === lengthBytes) return room.subarray(0, lengthBytes);
  throw corrupt('object-short', `object ${layer} ends at byte ${offset + got}, ${offset + lengthBytes} were expected`);
}

function writeFully(fd: number, bytes: Buffer, offset: number): void {
  for (let done = 0; done < bytes.length;) done += writeSync(fd, bytes, done, bytes.length - done, offset + done);
}

/** Some filesystems let a file be opened for writes around the page cache and refuse them all the same. */
function writeDirect(fd: number, bytes: Buffer, offset: number, mustWork: boolean): number {
  try {
    writeFully(fd, bytes, offset);
    return bytes.length;
  } catch (error) {
    if (mustWork || errnoOf(error) !== 'EINVAL') throw error;
    return 0;
  }
}

function putOut({ path, direct, directBytes, cached }: Outlet, bytes: Buffer, offset: number): void {
  try {
    const isShort = cached !== null && bytes.length < DIRECT_WRITE_BYTES_MIN;
    const isAligned = direct !== null && offset % directBytes === 0;
    const whole = isAligned && !isShort ? bytes.length - (bytes.length % directBytes) : 0;
    const done =
      direct === null || whole === 0 ? 0 : writeDirect(direct, bytes.subarray(0, whole), offset, cached === null);
    if (done < bytes.length) writeFully(cached ?? (direct as number), bytes.subarray(done), offset + done);
  } catch (error) {
    throw targetError(`writing to ${path} at byte ${offset}`, error);
  }
}

/** Where a span's chunks go once they are proven. */
interface Sink {
  /** Where a chunk is decompressed. */
  roomFor(task: ChunkTask, plainBytes: number): Buffer;
  take(task: ChunkTask, plain: Buffer): void;
  flush(): void;
}

/** Into shared memory. */
class Composed implements Sink {
  readonly #room: Buffer;

  constructor(
    room: SharedRoom,
    private readonly memory: Buffer,
  ) {
    this.#room = bytesOfRoom(room);
  }

  /** A chunk that is one put is decompressed where it belongs, and no further: what lies behind is somebody else's. */
  roomFor({ puts }: ChunkTask, plainBytes: number): Buffer {
    const [put] = puts;
    if (puts.length !== 1 || put?.from !== 0 || put.lengthBytes !== plainBytes) return this.memory;
    return this.#room.subarray(put.offset, put.offset + plainBytes);
  }

  take({ puts }: ChunkTask, plain: Buffer): void {
    if (plain.buffer === this.#room.buffer) return;
    for (const { from, offset, lengthBytes } of puts) copyShared(plain, this.#room, offset, from, from + lengthBytes);
  }

  flush(): void {
    // Nothing waits here.
  }
}

/** Joins proven chunks that follow each other in the target into large writes. */
class Joined implements Sink {
  #offset = 0;
  #bytes = 0;

  constructor(
    private readonly outlet: Outlet | null,
    private readonly memory: Buffer,
  ) {}

  /** Where a chunk is decompressed: behind what waits, if it follows on it. */
  roomFor({ puts }: ChunkTask): Buffer {
    const [put] = puts;
    const follows =
      puts.length === 1 &&
      put?.from === 0 &&
      put.offset === this.#offset + this.#bytes &&
      this.#bytes + put.lengthBytes <= RESTORE_WRITE_BYTES_MAX;
    if (!follows) this.flush();
    return this.memory.subarray(this.#bytes);
  }

  /** Takes a proven chunk from the room that was given for it. */
  take({ puts }: ChunkTask, plain: Buffer): void {
    const [first] = puts;
    if (puts.length === 1 && first?.from === 0) {
      if (this.#bytes === 0) this.#offset = first.offset;
      this.#bytes += first.lengthBytes;
      return;
    }
    if (this.outlet === null) return;
    for (const put of puts) putOut(this.outlet, plain.subarray(put.from, put.from + put.lengthBytes), put.offset);
  }

  flush(): void {
    const bytes = this.#bytes;
    this.#bytes = 0;
    if (bytes > 0 && this.outlet !== null) putOut(this.outlet, this.memory.subarray(0, bytes), this.#offset);
  }
}

function headerOf(job: SpanJob, task: ChunkTask, bytes: Buffer): ReadChunk {
  try {
    const header = decodeChunkHeader(bytes);
    if (header.blockBytes !== job.blockBytes) {
      throw corrupt('chunk-malformed', `block size ${header.blockBytes}, expected ${job.blockBytes}`);
    }
    return { number: task.number, bytes, header, hash: plainHasher };
  } catch (error) {
    throw inLayer(job.layer, `chunk ${task.number} at byte ${job.offset + task.at}`, error);
  }
}

function sinkOf({ outlet, chunks }: SpanJob, { plain }: Rooms): Sink {
  if (isRoom(outlet)) return new Composed(outlet, plain);
  if (outlet !== null)
    reserve(
      outlet,
      chunks.flatMap(({ puts }) => puts),
    );
  return new Joined(outlet, plain);
}

/**
 * Reads from `fd`. A chunk that is bad fails by itself; what can't be read or written at all throws. With an outlet, the first bad chunk ends it: a restore that meets one has failed.
 */
export function workOff(fd: number, job: SpanJob, rooms: Rooms): SpanResult {
  const span = readSpan(fd, job, rooms.stored);
  const sink = sinkOf(job, rooms);
  const failures: { chunk: number; error: ReturnType<typeof partsOf> }[] = [];
  let digest = 0n;
  for (const task of job.chunks) {
    try {
      const chunk = headerOf(job, task, span.subarray(task.at, task.at + task.lengthBytes));
      // A layer is encrypted as a whole or not at all: nothing of this span was put anywhere yet.
      if (chunk.header.seal !== null) return { digest: 0n, isSealed: true, failures: [] };
      const plain = sink.roomFor(task, chunk.header.plainBytes);
      try {
        decodeChunkData(chunk.bytes, chunk.header, plain);
      } catch (error) {
        throw inLayer(job.layer, `chunk ${task.number}`, error);
      }
      digest ^= checkPieces(job.layer, job, chunk, task.pieces, plain);
      sink.take(task, plain);
    } catch (error) {
      failures.push({ chunk: task.number, error: partsOf(error) });
      if (job.outlet !== null) break;
    }
  }
  sink.flush();
  return { digest, isSealed: false, failures };
}
