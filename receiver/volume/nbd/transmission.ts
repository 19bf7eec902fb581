/**
 * The transmission phase of one connection: takes requests from what the socket delivers, answers those at once that need no waiting, runs the
 * others side by side. Replies go out in the order in which they are ready.
 *
 * Bounds: a request is begun only when the connection's and the server's limits leave room for it; until then the rest of the input stays where it
 * is and the socket isn't read. A write reaches the device only whole: a client that vanishes in the middle of a payload has written nothing.
 */
import type { Duplex } from 'node:stream';
import {
  NBD_DIRECT_BYTES_MIN,
  NBD_PAYLOAD_BYTES_MAX,
  NBD_STATUS_RUNS_MAX,
  NBD_SYNC_READ_BYTES_MAX,
  NBD_TURN_BYTES_MAX,
} from '../../../shared/limits.js';
import { pooledBytes } from './buffer-pool.js';
import { execute, readAheadBytes, refusalOf, type NbdRequest } from './commands.js';
import { wireErrno } from './device-errors.js';
import type { FlushGate } from './flush-gate.js';
import type { Session } from './handshake.js';
import type { BudgetAccount } from './memory-budget.js';
import { Outbox } from './outbox.js';
import { COMMAND, COMMAND_FLAG, REQUEST_HEADER_BYTES, REQUEST_MAGIC } from './protocol.js';
import {
  readHeaderBytes,
  SMALL_REPLY_BYTES_MAX,
  statusReplyBytes,
  writeEmptyReply,
  writeReadHeader,
  writeStatusReply,
} from './replies.js';
import type { SharedState } from './shared-state.js';

const EMPTY = Buffer.alloc(0);

export interface TransmissionEvents {
  /** The client broke the protocol in a way after which nothing more can be understood. */
  onViolation(reason: string): void;
  /** After finish(): everything is answered and sent. */
  onFinished(): void;
  /** The client says good-bye; finish() was called already. */
  onDisconnect(): void;
}

/** Payload of a write that hasn't come in whole. Without `buffer` it is thrown away: the request was refused. */
interface PendingPayload {
  readonly request: NbdRequest;
  readonly refusal: number;
  readonly buffer: Buffer | null;
  filled: number;
  /** The socket reads into the buffer, or did. */
  isLent: boolean;
}

export class Transmission {
  readonly #session: Session;
  readonly #structured: boolean;
  readonly #readHeaderBytes: number;
  readonly #gate: FlushGate;
  readonly #out: Outbox;
  /** What the socket delivered and isn't parsed yet, from `#at` on. */
  #input: Buffer = EMPTY;
  #at = 0;
  readonly #header = Buffer.alloc(REQUEST_HEADER_BYTES);
  #headerBytes = 0;
  #pending: PendingPayload | null = null;
  #inFlight = 0;
  #turnBytes = 0;
  #isPumping = false;
  #finishing = false;
  #gone = false;
  #movedMs: number;

  constructor(
    private readonly socket: Duplex,
    session: Session,
    private readonly shared: SharedState,
    private readonly account: BudgetAccount,
    private readonly events: TransmissionEvents,
  ) {
    this.#session = session;
    this.#structured = session.structured;
    this.#readHeaderBytes = readHeaderBytes(session.structured);
    this.#gate = shared.gates.of(session.export.device);
    this.#movedMs = shared.clock.monotonicMs();
    this.#out = new Outbox(socket, shared.pool, account, () => {
      this.#movedMs = shared.clock.monotonicMs();
      this.pump();
    });
  }

  receive(chunk: Buffer): void {
    if (this.#finishing) return;
    this.#movedMs = this.shared.clock.monotonicMs();
    const left = this.#input.length - this.#at;
    this.#input = left === 0 ? chunk : Buffer.concat([this.#input.subarray(this.#at), chunk]);
    this.#at = 0;
    this.pump();
  }

  /** The rest of a large payload is read straight to its place. Lent until the payload is whole; never to the pool after that (see #dropInput). */
  directBuffer(): Buffer | null {
    const pending = this.#pending;
    if (pending === null || pending.buffer === null || this.#at < this.#input.length) return null;
    const { request, buffer, filled } = pending;
    if (request.length - filled < NBD_DIRECT_BYTES_MIN) return null;
    pending.isLent = true;
    return buffer.subarray(filled, request.length);
  }

  receivedDirectly(bytes: number, buffer: Buffer): void {
    const pending = this.#pending;
    // After finish() it is an abandoned buffer that was read into.
    if (pending?.buffer?.buffer !== buffer.buffer) return;
    this.#movedMs = this.shared.clock.monotonicMs();
    pending.filled += bytes;
    this.pump();
  }

  /** Nothing new is begun; what is in flight is answered. */
  finish(): void {
    this.#finishing = true;
    this.#dropInput();
    this.pump();
  }

  /** The socket is closed. What the device is doing goes on; nobody hears of it. */
  gone(): void {
    this.#gone = true;
    this.#finishing = true;
    this.#dropInput();
    this.#out.flush();
  }

  /** Since when the client has neither sent what it announced nor read what it asked for. */
  stalledSinceMs(): number | null {
    return this.#pending !== null || this.#out.queuedBytes > 0 ? this.#movedMs : null;
  }

  /** Goes on with the input where it stopped, as far as there is room; then sends, and reads on or stops reading. */
  pump(): void {
    if (this.#isPumping || this.#gone) return;
    this.#isPumping = true;
    try {
      while (!this.#finishing && this.#step());
      this.#out.flush();
    } finally {
      this.#isPumping = false;
    }
    if (this.#finishing) {
      if (this.#inFlight === 0 && this.#out.queuedBytes === 0) this.events.onFinished();
    } else if (this.#at < this.#input.length || this.#headerBytes === REQUEST_HEADER_BYTES) {
      this.socket.pause();
    } else {
      this.#input = EMPTY;
      this.#at = 0;
      if (this.socket.isPaused()) this.socket.resume();
    }
  }

  /** One request, or one piece of a payload. False: more input or more room is needed. */
  #step(): boolean {
    if (this.#pending !== null) return this.#fill(this.#pending);
    const isSplit = this.#headerBytes > 0 || this.#input.length - this.#at < REQUEST_HEADER_BYTES;
    if (isSplit && !this.#collectHeader()) return false;
    const from = isSplit ? this.#header : this.#input;
    const at = isSplit ? 0 : this.#at;
    if (from.readUInt32BE(at) !== REQUEST_MAGIC) return this.#violation('wrong magic of a request');
    const flags = from.readUInt16BE(at + 4);
    const type = from.readUInt16BE(at + 6);
    const cookieHigh = from.readUInt32BE(at + 8);
    const cookieLow = from.readUInt32BE(at + 12);
    const offset = from.readUInt32BE(at + 16) * 2 ** 32 + from.readUInt32BE(at + 20);
    const length = from.readUInt32BE(at + 24);
    if (!this.#hasRoom()) return false;
    const refusal = refusalOf(this.#session, type, flags, offset, length);
    if (type === COMMAND.read && refusal === 0 && length > 0 && length <= NBD_SYNC_READ_BYTES_MAX) {
      const answered = this.#readAtOnce(cookieHigh, cookieLow, offset, length);
      if (answered === null) return false;
      if (answered) return this.#consume(isSplit);
    }
    const request: NbdRequest = { type, flags, cookieHigh, cookieLow, offset, length };
    return this.#begin(request, refusal, isSplit);
  }

  /** Whether another request may be begun; else something that is under way will call pump(). */
  #hasRoom(): boolean {
    if (this.#inFlight >= this.shared.limits.requestsInFlight) return false;
    if (this.#out.queuedBytes >= this.shared.limits.replyQueueBytes) return false;
    if (this.#turnBytes < NBD_TURN_BYTES_MAX) return true;
    if (this.#turnBytes !== Infinity) {
      // Other connections have their turn; Infinity: that is arranged.
      this.#turnBytes = Infinity;
      setImmediate(() => {
        this.#turnBytes = 0;
        this.pump();
      });
    }
    return false;
  }

  #consume(isSplit: boolean): true {
    if (isSplit) this.#headerBytes = 0;
    else this.#at += REQUEST_HEADER_BYTES;
    this.shared.stats.requests++;
    return true;
  }

  #collectHeader(): boolean {
    const count = Math.min(REQUEST_HEADER_BYTES - this.#headerBytes, this.#input.length - this.#at);
    this.#input.copy(this.#header, this.#headerBytes, this.#at, this.#at + count);
    this.#headerBytes += count;
    this.#at += count;
    return this.#headerBytes === REQUEST_HEADER_BYTES;
  }

  /** True: answered. False: the device has to wait for something. null: no memory for now. */
  #readAtOnce(cookieHigh: number, cookieLow: number, offset: number, length: number): boolean | null {
    const out = this.#out;
    const need = this.#readHeaderBytes + length;
    if (!out.room(need)) return null;
    const at = out.used;
    const data = at + this.#readHeaderBytes;
    let isThere: boolean;
    try {
      isThere = this.#session.export.device.tryRead(offset, out.batch.subarray(data, data + length));
    } catch (error) {
      this.#fail({ type: COMMAND.read, flags: 0, cookieHigh, cookieLow, offset, length }, error);
      return true;
    }
    if (!isThere) return false;
    writeReadHeader(out.batch, at, this.#structured, cookieHigh, cookieLow, offset, length);
    out.used += need;
    this.#turnBytes += need;
    this.shared.stats.bytesRead += length;
    return true;
  }

  /** Everything but reads that are answered at once. */
  #begin(request: NbdRequest, refusal: number, isSplit: boolean): boolean {
    const { type, length } = request;
    if (type === COMMAND.disconnect) {
      this.#consume(isSplit);
      this.finish();
      this.events.onDisconnect();
      return false;
    }
    if (type === COMMAND.write) return this.#beginWrite(request, refusal, isSplit);
    if (refusal !== 0 || (type === COMMAND.read && length === 0)) {
      this.#consume(isSplit);
      this.#answer(request, refusal);
      return true;
    }
    const bytes = bufferBytesOf(request, this.#readHeaderBytes);
    const size = bytes === 0 ? 0 : pooledBytes(bytes);
    if (size > 0 && !this.account.reserve(size)) return false;
    this.#consume(isSplit);
    const buffer = size === 0 ? null : this.shared.pool.take(size);
    if (type === COMMAND.read && buffer !== null) this.#run(this.#readLater(request, buffer));
    else if (type === COMMAND.blockStatus) this.#run(this.#status(request));
    else this.#run(this.#execute(request, buffer?.subarray(0, bytes) ?? EMPTY, buffer));
    return true;
  }

  #beginWrite(request: NbdRequest, refusal: number, isSplit: boolean): boolean {
    const { length } = request;
    if (length > NBD_PAYLOAD_BYTES_MAX) return this.#violation(`a write of ${length} bytes`);
    if (refusal !== 0 || length === 0) {
      this.#consume(isSplit);
      this.#pending = { request, refusal, buffer: null, filled: 0, isLent: false };
      return true;
    }
    const size = pooledBytes(length);
    if (!this.account.reserve(size)) return false;
    this.#consume(isSplit);
    this.#pending = { request, refusal: 0, buffer: this.shared.pool.take(size), filled: 0, isLent: false };
    return true;
  }

  #fill(pending: PendingPayload): boolean {
    const { request, buffer } = pending;
    const count = Math.min(request.length - pending.filled, this.#input.length - this.#at);
    if (buffer !== null) this.#input.copy(buffer, pending.filled, this.#at, this.#at + count);
    pending.filled += count;
    this.#at += count;
    if (pending.filled < request.length) return false;
    this.#pending = null;
    if (buffer === null) {
      this.#answer(request, pending.refusal);
      return true;
    }
    this.#run(this.#execute(request, buffer.subarray(0, request.length), buffer));
    return true;
  }

  /** The work's promise never rejects because of the device or the client. */
  #run(work: Promise<void>): void {
    this.#inFlight++;
    this.shared.stats.inFlight++;
    void work
      .catch((error: unknown) => {
        this.shared.log.error({ err: error }, 'a request of an NBD client ended in an unexpected way');
        this.events.onViolation('internal error');
      })
      .finally(() => {
        this.#inFlight--;
        this.shared.stats.inFlight--;
        this.#out.schedule();
        // Before the replies go out: what waits for room shall not wait for the next turn.
        if (this.#finishing || this.#at < this.#input.length || this.#headerBytes > 0) this.#pumpSoon();
      });
  }

  #pumpScheduled = false;

  /** Once for all requests that end in this turn of the event loop. */
  #pumpSoon(): void {
    if (this.#pumpScheduled) return;
    this.#pumpScheduled = true;
    setImmediate(() => {
      this.#pumpScheduled = false;
      this.pump();
    });
  }

  async #readLater(request: NbdRequest, buffer: Buffer): Promise<void> {
    const { offset, length, cookieHigh, cookieLow } = request;
    const total = this.#readHeaderBytes + length;
    try {
      await this.#session.export.device.read(offset, buffer.subarray(this.#readHeaderBytes, total));
    } catch (error) {
      this.#giveBack(buffer);
      this.#fail(request, error);
      return;
    }
    this.shared.stats.bytesRead += length;
    writeReadHeader(buffer, 0, this.#structured, cookieHigh, cookieLow, offset, length);
    if (this.#gone) this.#giveBack(buffer);
    else this.#out.push(buffer, total);
  }

  async #status(request: NbdRequest): Promise<void> {
    const { offset, length, flags } = request;
    const runsMax = (flags & COMMAND_FLAG.reqOne) === 0 ? NBD_STATUS_RUNS_MAX : 1;
    try {
      const runs = await this.#session.export.device.allocation(offset, length, runsMax);
      if (this.#gone) return;
      const bytes = statusReplyBytes(runs.length);
      this.#out.smallRoom(bytes);
      this.#out.used += writeStatusReply(this.#out.batch, this.#out.used, request, runs);
    } catch (error) {
      this.#fail(request, error);
    }
  }

  async #execute(request: NbdRequest, bytes: Buffer, buffer: Buffer | null): Promise<void> {
    const device = this.#session.export.device;
    try {
      await execute({ device, gate: this.#gate, isWanted: () => !this.#gone }, request, bytes);
      if (request.type === COMMAND.write) this.shared.stats.bytesWritten += request.length;
      this.#answer(request, 0);
    } catch (error) {
      this.#fail(request, error);
    } finally {
      if (buffer !== null) this.#giveBack(buffer);
    }
  }

  #fail(request: NbdRequest, error: unknown): void {
    const { type, offset, length } = request;
    this.shared.deviceErrors.note(error, this.#session.export.name, type, offset, length);
    this.#answer(request, wireErrno(error));
  }

  #answer(request: NbdRequest, errno: number): void {
    if (errno !== 0) this.shared.stats.errors++;
    if (this.#gone) return;
    this.#out.smallRoom(SMALL_REPLY_BYTES_MAX);
    const { batch, used } = this.#out;
    this.#out.used += writeEmptyReply(batch, used, this.#structured, request.type, request, errno);
  }

  #giveBack(buffer: Buffer): void {
    this.shared.pool.giveBack(buffer);
    this.account.release(buffer.length);
  }

  #dropInput(): void {
    this.#input = EMPTY;
    this.#at = 0;
    this.#headerBytes = 0;
    const pending = this.#pending;
    this.#pending = null;
    if (pending === null || pending.buffer === null) return;
    // The socket may still read into a buffer that it was lent: nobody else may get that one.
    if (pending.isLent) this.account.release(pending.buffer.length);
    else this.#giveBack(pending.buffer);
  }

  #violation(reason: string): false {
    this.finish();
    this.events.onViolation(reason);
    return false;
  }
}

/** What a request needs beside a small reply: room for the reply's data, or for reading ahead. */
function bufferBytesOf(request: NbdRequest, readHeader: number): number {
  if (request.type === COMMAND.read) return readHeader + request.length;
  return request.type === COMMAND.cache ? readAheadBytes(request.length) : 0;
}
