/**
 * Gathers blocks into chunks and sends them. One instance per disk and target (cycle, or a segment of a sweep).
 *
 * Blocks come ascending within a chunk; a block that doesn't ascend starts the next chunk (a later pass of the same cycle).
 * A chunk is compressed straight into its message, a large one on another thread while the next is gathered; they leave in their order.
 * Memory is a pool of message buffers and of spare plain buffers, shared by all disks.
 */
import { messageOf } from '../../shared/errors.js';
import {
  chunkBytesMax,
  CHUNK_EXTENTS_MAX,
  encodeChunk,
  encodeChunkBeside,
  type ChunkExtent,
  type ChunkSealer,
} from '../../shared/layer/chunk.js';
import {
  CHUNK_FRAME_BYTES_MAX,
  CHUNK_PLAIN_BYTES_MAX,
  COMPRESSIONS_IN_FLIGHT,
  COMPRESS_BESIDE_BYTES_MIN,
} from '../../shared/limits.js';
import { DATA_HEADER_BYTES, type DataTarget } from '../../shared/wire/messages.js';
import type { DiskCipher } from '../keys/source-keys.js';
import type { ReceiverSession } from '../session/session.js';

/** Extents of a chunk: bounded so that the frame keeps its size even when every block is a run of its own. */
const EXTENTS_MAX = Math.min(CHUNK_EXTENTS_MAX, 128);

/** Buffers of one size; who finds none waits for the next that comes back. */
class Buffers {
  readonly #free: Buffer[] = [];
  readonly #waiting: ((buffer: Buffer) => void)[] = [];

  constructor(count: number, bytes: number) {
    for (let i = 0; i < count; i++) this.#free.push(Buffer.allocUnsafeSlow(bytes));
  }

  take(): Buffer | Promise<Buffer> {
    const buffer = this.#free.pop();
    if (buffer !== undefined) return buffer;
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  give(buffer: Buffer): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free.push(buffer);
    else next(buffer);
  }
}

/** Message buffers: as many as may be under way between compression and socket. */
export class MessagePool extends Buffers {
  /** Plain buffers that take the place of one whose content is being compressed: no disk waits for another's half-full one. */
  readonly spares = new Buffers(COMPRESSIONS_IN_FLIGHT, CHUNK_PLAIN_BYTES_MAX);

  constructor(count: number) {
    super(count, DATA_HEADER_BYTES + CHUNK_FRAME_BYTES_MAX);
  }
}

export interface SendCounters {
  /** Bytes of data messages handed to the session. */
  sentBytes: number;
  /** Plain bytes of blocks that were sent. */
  changedBytes: number;
}

/** What a sender needs of its disk. */
export interface SendingDisk {
  readonly index: number;
  readonly blockBytes: number;
  readonly counters: SendCounters;
  /** Holds the plain buffer that the disk's chunk is gathered in; replaced while its content is compressed. */
  readonly plain: { scratch: Buffer };
  readonly cipher: Pick<DiskCipher, 'sealer'>;
}

export class ChunkSender {
  readonly #session: ReceiverSession;
  readonly #pool: MessagePool;
  readonly #diskIndex: number;
  readonly #blockBytes: number;
  readonly #counters: SendCounters;
  readonly #target: DataTarget;
  readonly #segment: number | null;
  readonly #plain: { scratch: Buffer };
  readonly #hashes: BigUint64Array;
  readonly #sealer: ChunkSealer | null;
  #dataBlocks = 0;
  #extents: { first: number; count: number; zero: boolean }[] = [];
  #next = 0;
  /** Messages under way; the first failure is reported by the next call. */
  #pending = new Set<Promise<void>>();
  #failure: Error | null = null;
  #chunks = 0;
  /** Resolves when the chunk before has been handed to the session. */
  #turn: Promise<void> = Promise.resolve();

  constructor(
    session: ReceiverSession,
    pool: MessagePool,
    disk: SendingDisk,
    target: DataTarget,
    segment: number | null,
  ) {
    this.#session = session;
    this.#pool = pool;
    this.#diskIndex = disk.index;
    this.#blockBytes = disk.blockBytes;
    this.#counters = disk.counters;
    this.#target = target;
    this.#segment = segment;
    this.#plain = disk.plain;
    this.#sealer = disk.cipher.sealer();
    this.#hashes = new BigUint64Array(Math.floor(CHUNK_PLAIN_BYTES_MAX / disk.blockBytes));
  }

  /** Chunks sent so far. */
  get chunks(): number {
    return this.#chunks;
  }

  /** Adds one block whose content starts at `offset` of `source`; the content is copied. Resolves at once unless a chunk has to go out. */
  addBlock(block: number, source: Buffer, offset: number, hash: bigint): Promise<void> | undefined {
    const wait = this.#room(block, 1);
    if (wait !== undefined) {
      // The source may be reused before the chunk is out: copy first, add later.
      const copy = Buffer.from(source.subarray(offset, offset + this.#blockBytes));
      return wait.then(() => {
        this.#put(block, copy, 0, hash);
      });
    }
    this.#put(block, source, offset, hash);
    return undefined;
  }

  /** Adds a run of zero blocks. */
  addZero(first: number, count: number): Promise<void> | undefined {
    const wait = this.#room(first, 0);
    if (wait !== undefined) {
      return wait.then(() => {
        this.#putZero(first, count);
      });
    }
    this.#putZero(first, count);
    return undefined;
  }

  /** Sends what is gathered and waits until every message has left. */
  async flush(): Promise<void> {
    await this.#emit();
    await Promise.all(this.#pending);
    if (this.#failure !== null) throw this.#failure;
  }

  #room(block: number, dataBlocks: number): Promise<void> | undefined {
    const full =
      block < this.#next ||
      (this.#dataBlocks + dataBlocks) * this.#blockBytes > CHUNK_PLAIN_BYTES_MAX ||
      this.#extents.length >= EXTENTS_MAX;
    return full ? this.#emit() : undefined;
  }

  #put(block: number, source: Buffer, offset: number, hash: bigint): void {
    source.copy(this.#plain.scratch, this.#dataBlocks * this.#blockBytes, offset, offset + this.#blockBytes);
    this.#hashes[this.#dataBlocks++] = hash;
    this.#extend(block, 1, false);
  }

  #putZero(first: number, count: number): void {
    this.#extend(first, count, true);
  }

  #extend(first: number, count: number, zero: boolean): void {
    const last = this.#extents[this.#extents.length - 1];
    if (last !== undefined && last.zero === zero && last.first + last.count === first) last.count += count;
    else this.#extents.push({ first, count, zero });
    this.#next = first + count;
    this.#counters.changedBytes += count * this.#blockBytes;
  }

  async #emit(): Promise<void> {
    if (this.#failure !== null) throw this.#failure;
    if (this.#extents.length === 0) return;
    const extents: readonly ChunkExtent[] = this.#extents;
    this.#extents = [];
    const taken = this.#pool.take();
    const message = taken instanceof Promise ? await taken : taken;
    const gathered = this.#plain.scratch;
    const dataBlocks = this.#dataBlocks;
    const plain = gathered.subarray(0, dataBlocks * this.#blockBytes);
    if (chunkBytesMax(extents.length, dataBlocks, plain.length) > CHUNK_FRAME_BYTES_MAX)
      throw new Error('chunk frame bound is wrong');
    const isLarge = plain.length >= COMPRESS_BESIDE_BYTES_MIN;
    if (isLarge) {
      const spare = this.#pool.spares.take();
      this.#plain.scratch = spare instanceof Promise ? await spare : spare;
    }
    const chunk = message.subarray(DATA_HEADER_BYTES);
    const hashes = this.#hashes.subarray(0, dataBlocks);
    const length = isLarge
      ? encodeChunkBeside(chunk, this.#blockBytes, extents, hashes, plain, this.#sealer).finally(() => {
          this.#pool.spares.give(gathered);
        })
      : encodeChunk(chunk, this.#blockBytes, extents, hashes, plain, this.#sealer);
    this.#dataBlocks = 0;
    this.#next = 0;
    this.#chunks++;
    const sending = this.#send(message, length).finally(() => this.#pending.delete(sending));
    this.#pending.add(sending);
  }

  /** Sends a chunk when it is compressed and the one before has gone out. Never rejects: a failure is kept for the next call. */
  async #send(message: Buffer, length: number | Promise<number>): Promise<void> {
    const before = this.#turn;
    let passOn = (): void => undefined;
    this.#turn = new Promise((resolve) => (passOn = resolve));
    try {
      const bytes = message.subarray(0, DATA_HEADER_BYTES + (await length));
      await before;
      if (this.#failure !== null) return;
      this.#counters.sentBytes += bytes.length;
      const sent = this.#session.sendChunk(bytes, this.#diskIndex, this.#target, this.#segment);
      passOn();
      await sent;
    } catch (error) {
      this.#failure ??= error instanceof Error ? error : new Error(messageOf(error));
    } finally {
      passOn();
      this.#pool.give(message);
    }
  }
}
