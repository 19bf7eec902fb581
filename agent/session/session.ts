/**
 * The protocol towards the receiver over one connection: hello, chunks, segments, commits, marks; orders of the receiver and their answers.
 *
 * Promises: at most `windowBytes` are under way beyond the `received` mark; every wait ends when the connection does.
 * Holds no durable state: what the receiver has is learnt anew from each welcome.
 */
import type { Logger } from 'pino';
import type { Clock } from '../../shared/clock.js';
import { AfterimageError } from '../../shared/errors.js';
import { COMMIT_TIMEOUT_MS, CONNECT_TIMEOUT_MS } from '../../shared/limits.js';
import type { DiskId, PointNumber } from '../../shared/units.js';
import { asPoint } from '../../shared/units.js';
import { CLOSE, closeReasonOf, type CloseReason } from '../../shared/wire/close-codes.js';
import {
  DATA_HEADER_BYTES,
  decodeReceiverMessage,
  encodeControl,
  encodeDataHeader,
  protocolError,
  TAG_CONTROL,
  TAG_DATA,
  type AgentMessage,
  type Commit,
  type DataTarget,
  type FleetMessage,
  type Hello,
  type ReceiverMessage,
  type Redirect,
  type Welcome,
} from '../../shared/wire/messages.js';
import type { Transport, TransportClosed } from '../../shared/wire/transport.js';
import { PullChannel } from './pull-channel.js';
import { ByteWindow } from './window.js';

/** The session is over. `reason` says whether to come back soon. */
export class SessionEnded extends AfterimageError {
  readonly close: CloseReason | null;
  /** Where to go instead. */
  readonly redirect: Redirect | null;
  constructor(text: string, close: CloseReason | null, redirect: Redirect | null = null) {
    super(text, { code: 'session-ended', kind: 'disconnected', ...(close === null ? {} : { hint: close.hint }) });
    this.close = close;
    this.redirect = redirect;
  }
}

export interface Committed {
  readonly point: PointNumber;
  readonly storedBytes: number;
}

export interface Pacer {
  /** Waits until `bytes` may be sent under the bandwidth limit. */
  take(bytes: number, taking?: { readonly signal?: AbortSignal }): Promise<void>;
}

/** What a receiver asks of an agent out of turn. */
export type Order = Extract<
  ReceiverMessage,
  {
    type:
      | 'policy'
      | 'final-cut'
      | 'final-cut-resume'
      | 'restore-goal'
      | 'restore-stop'
      | 'resend'
      | 'group-point'
      | 'group-go'
      | 'group-thaw'
      | 'group-abort';
  }
>;

const nothing = (): void => undefined;

interface Waiter<T> {
  resolve(value: T): void;
  reject(error: Error): void;
}

export class ReceiverSession {
  readonly #transport: Transport;
  readonly #pacer: Pacer;
  readonly #log: Logger;
  readonly #clock: Clock;
  #window: ByteWindow | null = null;
  #sequence = 0;
  #stagedSequence = 0;
  #sentBytes = 0;
  #turn: Promise<void> = Promise.resolve();
  #refused: { text: string; close: CloseReason } | null = null;
  #redirect: Redirect | null = null;
  #onFleet: (fleet: FleetMessage) => void = () => undefined;
  #ended: SessionEnded | null = null;
  #welcome: Waiter<Welcome> | null = null;
  #commit: (Waiter<Committed> & { cycle: string }) | null = null;
  #hashes: (Waiter<BigUint64Array> & { disk: string; segment: number }) | null = null;
  #staged: (Waiter<void> & { sequence: number })[] = [];
  #orders: Order[] = [];
  #onOrder: ((order: Order) => void) | null = null;
  /** What a restore pulls. */
  readonly pull = new PullChannel((message) => this.#send(message));
  /** Resolves (never rejects) when the session is over. */
  readonly ended: Promise<SessionEnded>;

  constructor(transport: Transport, pacer: Pacer, log: Logger, clock: Clock) {
    this.#transport = transport;
    this.#pacer = pacer;
    this.#log = log;
    this.#clock = clock;
    transport.onMessage((bytes) => {
      this.#onMessage(bytes);
    });
    this.ended = transport.closed.then((closed) => this.#end(closed));
  }

  /** Bytes of data messages sent in this session. */
  get sentBytes(): number {
    return this.#sentBytes;
  }

  get lastSequence(): number {
    return this.#sequence;
  }

  /** At most one handler; orders that came before it are handed in first, in order. */
  onOrder(handler: (order: Order) => void): void {
    this.#onOrder = handler;
    for (const order of this.#orders.splice(0)) handler(order);
  }

  /** Told of the receivers that serve the store, from the first message on when set before hello. */
  onFleet(handler: (fleet: FleetMessage) => void): void {
    this.#onFleet = handler;
  }

  /** Answers an order. */
  async say(message: AgentMessage): Promise<void> {
    await this.#send(message);
  }

  /** Waits until so many bytes more fit the bandwidth limit: what is pulled counts, too. */
  pace(bytes: number, signal: AbortSignal): Promise<void> {
    return this.#pacer.take(bytes, { signal });
  }

  /** Says something and waits for what answers it. */
  async #ask<T>(
    message: AgentMessage,
    answered: Promise<T>,
    limitMs: number,
    what: string,
    onSent = nothing,
  ): Promise<T> {
    // When sending fails, nobody waits for the answer, and the session's end fails it: that must not count as unhandled.
    answered.catch(() => undefined);
    await this.#send(message);
    onSent();
    return this.#within(answered, limitMs, what);
  }

  /** Says hello; resolves to the welcome. Rejects with SessionEnded when refused. */
  async hello(hello: Hello): Promise<Welcome> {
    const answered = new Promise<Welcome>((resolve, reject) => {
      this.#welcome = { resolve, reject };
    });
    const welcome = await this.#ask(hello, answered, CONNECT_TIMEOUT_MS * 2, 'welcome');
    this.#window = new ByteWindow(welcome.windowBytes);
    return welcome;
  }

  /**
   * Sends one chunk. `message` has DATA_HEADER_BYTES of room before the chunk, which is filled in here.
   * Resolves when the buffer may be reused.
   */
  async sendChunk(message: Buffer, diskIndex: number, target: DataTarget, segment: number | null): Promise<void> {
    // Chunks go out in the order in which they were handed in, however long each waits for bandwidth and window.
    const before = this.#turn;
    let passOn = (): void => undefined;
    this.#turn = new Promise((resolve) => (passOn = resolve));
    await before;
    try {
      await this.#admit(message.length);
    } catch (error) {
      passOn();
      throw error;
    }
    encodeDataHeader(message.subarray(0, DATA_HEADER_BYTES), {
      diskIndex,
      target,
      segment,
      sequence: ++this.#sequence,
    });
    this.#sentBytes += message.length;
    const sending = this.#transport.send(message);
    passOn();
    await sending;
  }

  /** Waits until so many bytes may be under way. */
  async #admit(bytes: number): Promise<void> {
    this.#check();
    if (this.#window === null) throw protocolError('data before welcome');
    await this.#pacer.take(bytes);
    await this.#window.reserve(bytes);
    this.#check();
  }

  /** Ends a segment; resolves to the sequence that `whenStaged` waits for. */
  async endSegment(disk: DiskId, segment: number, target: 'sweep-base' | 'sweep-delta'): Promise<number> {
    const sequence = ++this.#sequence;
    await this.#send({ type: 'segment-end', disk, segment, target, sequence });
    return sequence;
  }

  /** Resolves when the segment that ended with this sequence is durable at the receiver. */
  whenStaged(sequence: number): Promise<void> {
    if (this.#ended !== null) return Promise.reject(this.#ended);
    if (this.#stagedSequence >= sequence) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#staged.push({ sequence, resolve, reject });
    });
  }

  async beginCycle(cycle: string): Promise<void> {
    await this.#send({ type: 'cycle-begin', cycle });
  }

  /** Sends the commit; resolves when the point is in the receiver's manifest. */
  async commit(commit: Omit<Commit, 'type' | 'lastSequence'>, onSent: () => void): Promise<Committed> {
    const answered = new Promise<Committed>((resolve, reject) => {
      this.#commit = { cycle: commit.cycle, resolve, reject };
    });
    const message = { type: 'commit', ...commit, lastSequence: this.#sequence } as const;
    return this.#ask(message, answered, COMMIT_TIMEOUT_MS, 'commit', onSent);
  }

  /** Block hashes of a segment as the receiver has them; empty when it doesn't know. One request at a time. */
  async requestHashes(disk: DiskId, segment: number): Promise<BigUint64Array> {
    const answered = new Promise<BigUint64Array>((resolve, reject) => {
      this.#hashes = { disk, segment, resolve, reject };
    });
    return this.#ask({ type: 'hashes-request', disk, segment }, answered, COMMIT_TIMEOUT_MS, 'hashes');
  }

  async progress(disks: Extract<AgentMessage, { type: 'progress' }>['disks']): Promise<void> {
    await this.#send({ type: 'progress', disks });
  }

  close(reason: string): void {
    if (this.#ended !== null) return;
    void this.#send({ type: 'bye', reason }).catch(() => undefined);
    this.#transport.close(1000, reason);
  }

  async #send(message: AgentMessage): Promise<void> {
    this.#check();
    await this.#transport.send(encodeControl(message));
  }

  #check(): void {
    if (this.#ended !== null) throw this.#ended;
  }

  async #within<T>(answer: Promise<T>, limitMs: number, what: string): Promise<T> {
    const settled = new AbortController();
    const late = this.#clock.sleep(limitMs, settled.signal).then((): T | Promise<T> => {
      // The race is over already: whatever this resolves to is heard by nobody.
      if (settled.signal.aborted) return answer;
      this.#transport.close(CLOSE.protocol.code, `no ${what} within ${limitMs} ms`);
      throw new SessionEnded(`the receiver did not answer with ${what} within ${limitMs / 1000} s`, null);
    });
    late.catch(() => undefined);
    try {
      return await Promise.race([answer, late]);
    } finally {
      settled.abort();
    }
  }

  #onMessage(bytes: Buffer): void {
    try {
      if (bytes[0] === TAG_DATA) {
        this.pull.data(bytes);
        return;
      }
      if (bytes[0] !== TAG_CONTROL) throw protocolError(`message tag ${bytes[0] ?? 'missing'}`);
      this.#handle(decodeReceiverMessage(bytes));
    } catch (error) {
      this.#log.error({ err: error }, 'the receiver sent what this agent does not understand');
      this.#transport.close(CLOSE.protocol.code, CLOSE.protocol.name);
    }
  }

  #handle(message: ReceiverMessage): void {
    switch (message.type) {
      case 'welcome':
        this.#welcome?.resolve(message);
        return;
      case 'refused': {
        const close = closeReasonOf(message.code) ?? CLOSE.internal;
        this.#refused = {
          text: `the receiver refuses: ${close.name}: ${message.reason}`,
          close: { ...close, hint: message.hint },
        };
        return;
      }
      case 'redirect':
        this.#redirect = message;
        return;
      case 'fleet':
        this.#onFleet(message);
        return;
      case 'ack':
        this.#window?.acknowledge(message.receivedBytes);
        this.#stagedSequence = Math.max(this.#stagedSequence, message.stagedSequence);
        for (const waiter of this.#staged) if (waiter.sequence <= this.#stagedSequence) waiter.resolve();
        this.#staged = this.#staged.filter((w) => w.sequence > this.#stagedSequence);
        return;
      case 'committed':
        if (this.#commit?.cycle !== message.cycle) throw protocolError(`commit of an unknown cycle ${message.cycle}`);
        this.#commit.resolve({ point: asPoint(message.point), storedBytes: message.storedBytes });
        this.#commit = null;
        return;
      case 'hashes': {
        if (this.#hashes?.disk !== message.disk || this.#hashes.segment !== message.segment)
          throw protocolError('hashes not asked for');
        this.#hashes.resolve(hashesFrom(message.hashes));
        this.#hashes = null;
        return;
      }
      case 'policy':
      case 'final-cut':
      case 'final-cut-resume':
      case 'restore-goal':
      case 'restore-stop':
      case 'resend':
      case 'group-point':
      case 'group-go':
      case 'group-thaw':
      case 'group-abort':
        if (this.#onOrder === null) this.#orders.push(message);
        else this.#onOrder(message);
        return;
      case 'changed-segments':
      case 'differences':
      case 'blocks-end':
        this.pull.answered(message);
        return;
    }
  }

  #end(closed: TransportClosed): SessionEnded {
    const known = closeReasonOf(closed.code);
    const redirect = this.#redirect;
    const ended =
      redirect !== null
        ? new SessionEnded(`redirected to receiver ${redirect.to.name}: ${redirect.reason}`, CLOSE.redirected, redirect)
        : this.#refused !== null
          ? new SessionEnded(this.#refused.text, this.#refused.close)
          : new SessionEnded(
              known === undefined
                ? `connection to the receiver ended (${closed.code}${closed.reason === '' ? '' : `: ${closed.reason}`})`
                : `the receiver ended the session: ${known.name}`,
              known ?? null,
            );
    this.#ended = ended;
    this.#window?.fail(ended);
    this.pull.fail(ended);
    this.#welcome?.reject(ended);
    this.#commit?.reject(ended);
    this.#hashes?.reject(ended);
    for (const waiter of this.#staged) waiter.reject(ended);
    this.#staged = [];
    return ended;
  }
}

/** Copies: the message's memory is not aligned for 64-bit views. */
function hashesFrom(bytes: Uint8Array): BigUint64Array {
  if (bytes.length % 8 !== 0) throw protocolError(`hashes of ${bytes.length} bytes`);
  const copy = new Uint8Array(bytes.length);
  copy.set(bytes);
  return new BigUint64Array(copy.buffer);
}
