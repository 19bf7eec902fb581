/**
 * A transport over one open WebSocket, the same on both sides: bounded sending, liveness, an end that is told once.
 *
 * Alive is who lets bytes arrive: each side pings, and any progress of the socket counts, so a peer whose pong stands behind megabytes of data
 * on a slow link isn't taken for dead. Silence is counted in heartbeats, not in time: a process that was suspended finds its
 * peer's bytes waiting and must read them first. While reading is paused nothing can be heard, and nothing is concluded.
 */
import { randomBytes } from 'node:crypto';
import type { Socket } from 'node:net';
import type { RawData, WebSocket } from 'ws';
import type { Clock } from '../clock.js';
import { AfterimageError, messageOf } from '../errors.js';
import {
  CLOSE_TIMEOUT_MS,
  HEARTBEAT_INTERVAL_MS,
  HEARTBEAT_TIMEOUT_MS,
  MESSAGE_BYTES_MAX,
  SOCKET_BUFFERED_BYTES_MAX,
} from '../limits.js';
import { CLOSE } from './close-codes.js';
import type { Transport, TransportClosed } from './transport.js';

const CLOSE_REASON_BYTES_MAX = 123;
const CONNECTION_LOST = 1006;
const NO_STATUS = 1005;
const OPEN = 1;

/** Options that both ends of the WebSocket must have. Compression would spend CPU on chunks that are compressed already. */
export const WEBSOCKET_OPTIONS = { perMessageDeflate: false, maxPayload: MESSAGE_BYTES_MAX } as const;

export interface Heartbeat {
  readonly intervalMs: number;
  readonly timeoutMs: number;
}
export const HEARTBEAT: Heartbeat = { intervalMs: HEARTBEAT_INTERVAL_MS, timeoutMs: HEARTBEAT_TIMEOUT_MS };

interface Waiting {
  readonly bytes: Buffer;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/** A close frame holds 123 bytes of reason: cut at a character. */
export function closeReasonText(text: string): string {
  const bytes = Buffer.from(text, 'utf8');
  if (bytes.length <= CLOSE_REASON_BYTES_MAX) return text;
  let end = CLOSE_REASON_BYTES_MAX;
  while (end > 0 && ((bytes[end] ?? 0) & 0xc0) === 0x80) end--;
  return bytes.toString('utf8', 0, end);
}

export class WsTransport implements Transport {
  readonly closed: Promise<TransportClosed>;
  readonly #ws: WebSocket;
  readonly #socket: Socket;
  readonly #clock: Clock;
  readonly #ended = new AbortController();
  #handler: ((bytes: Buffer) => void) | null = null;
  #pausedByUser = false;
  /** Sends that the socket has no room for yet, in order; each is held by a caller that awaits it. */
  #waiting: Waiting[] = [];
  /** Sends in the socket whose callback is outstanding. */
  readonly #sending = new Set<Waiting>();
  /** Why this side ended the connection, if it did. */
  #ownEnd: TransportClosed | null = null;

  /** `socket`: the one under `ws`. Reading begins when a message handler is set, so that nothing is lost before. */
  constructor(ws: WebSocket, socket: Socket, clock: Clock, heartbeat: Heartbeat = HEARTBEAT) {
    this.#ws = ws;
    this.#socket = socket;
    this.#clock = clock;
    ws.pause();
    ws.on('message', (data, isBinary) => this.#onData(data, isBinary));
    // 'close' follows each 'error'; what happened is kept for it.
    ws.on('error', (error) => (this.#ownEnd ??= { code: CONNECTION_LOST, reason: messageOf(error) }));
    this.closed = new Promise((resolve) => {
      ws.once('close', (code, reason) => resolve(this.#onClose(code, reason.toString('utf8'))));
    });
    void this.#watch(heartbeat);
  }

  get isPaused(): boolean {
    return this.#pausedByUser || this.#handler === null;
  }

  /** Bytes handed to the socket and not yet to the kernel. */
  get bufferedBytes(): number {
    return this.#ws.bufferedAmount;
  }

  send(bytes: Buffer): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#ws.readyState !== OPEN) {
        reject(this.#closedError());
        return;
      }
      this.#waiting.push({ bytes, resolve, reject });
      this.#pump();
    });
  }

  onMessage(handler: (bytes: Buffer) => void): void {
    this.#handler = handler;
    if (!this.#pausedByUser) this.#ws.resume();
  }

  /** Stops reading the socket: the peer comes to a halt when the kernel's buffers are full. What was read already still arrives. */
  pause(): void {
    this.#pausedByUser = true;
    this.#ws.pause();
  }

  resume(): void {
    this.#pausedByUser = false;
    if (this.#handler !== null) this.#ws.resume();
  }

  /**
   * Whether the peer shows life within `timeoutMs`: answers a ping, or keeps sending (its answer may stand behind its data). The first half of the
   * time doesn't count for data, as that may have been on its way before the peer died. A paused connection counts as alive: it can't be known.
   */
  async probe(timeoutMs: number): Promise<boolean> {
    if (this.#ws.readyState !== OPEN) return false;
    const payload = randomBytes(8);
    const answered = new AbortController();
    const onPong = (data: Buffer): void => {
      if (data.equals(payload)) answered.abort();
    };
    this.#ws.on('pong', onPong);
    try {
      this.#ws.ping(payload);
      const stop = AbortSignal.any([answered.signal, this.#ended.signal]);
      await this.#clock.sleep(timeoutMs / 2, stop);
      const bytesBefore = this.#socket.bytesRead;
      if (!stop.aborted) await this.#clock.sleep(timeoutMs / 2, stop);
      if (this.#ended.signal.aborted) return false;
      return answered.signal.aborted || this.#socket.bytesRead > bytesBefore || this.isPaused;
    } finally {
      this.#ws.off('pong', onPong);
    }
  }

  close(code: number, reason: string): void {
    this.#ownEnd ??= { code, reason };
    this.#handler = () => undefined;
    this.#pausedByUser = false;
    // The peer's half of the closing handshake stands behind what it has sent.
    this.#ws.resume();
    this.#ws.close(code, closeReasonText(reason));
    void this.#clock.sleep(CLOSE_TIMEOUT_MS, this.#ended.signal).then(() => this.#ws.terminate());
  }

  /** Ends the connection at once, without telling the peer. */
  terminate(reason: string): void {
    this.#ownEnd ??= { code: CONNECTION_LOST, reason };
    this.#ws.terminate();
  }

  /** Hands waiting messages to the socket as far as it may hold them. */
  #pump(): void {
    while (this.#ws.bufferedAmount <= SOCKET_BUFFERED_BYTES_MAX) {
      const next = this.#waiting.shift();
      if (next === undefined) return;
      this.#sending.add(next);
      this.#ws.send(next.bytes, { binary: true, compress: false }, (error) => {
        this.#sending.delete(next);
        if (error) next.reject(this.#closedError());
        else next.resolve();
        this.#pump();
      });
    }
  }

  #onData(data: RawData, isBinary: boolean): void {
    if (!isBinary || !Buffer.isBuffer(data)) {
      this.close(CLOSE.protocol.code, 'a text message');
      return;
    }
    this.#handler?.(data);
  }

  #onClose(code: number, reason: string): TransportClosed {
    this.#ended.abort();
    // An echo of our own close has our code. Anything else that the peer said counts more than why we hung up.
    const peerSaid = code !== CONNECTION_LOST && code !== NO_STATUS && code !== this.#ownEnd?.code;
    const heard = { code, reason: reason === '' ? 'the connection was lost' : reason };
    const end = peerSaid ? heard : (this.#ownEnd ?? heard);
    this.#ownEnd = end;
    const error = this.#closedError();
    for (const held of [...this.#sending, ...this.#waiting]) held.reject(error);
    this.#sending.clear();
    this.#waiting = [];
    return end;
  }

  #closedError(): AfterimageError {
    const reason = this.#ownEnd?.reason ?? 'closed';
    return new AfterimageError(`the connection has ended: ${reason}`, { code: 'disconnected', kind: 'disconnected' });
  }

  async #watch({ intervalMs, timeoutMs }: Heartbeat): Promise<void> {
    const missesMax = Math.max(1, Math.round(timeoutMs / intervalMs));
    let bytesSeen = this.#socket.bytesRead;
    let misses = 0;
    for (;;) {
      await this.#clock.sleep(intervalMs, this.#ended.signal);
      if (this.#ended.signal.aborted) return;
      const bytesNow = this.#socket.bytesRead;
      misses = bytesNow !== bytesSeen || this.isPaused ? 0 : misses + 1;
      bytesSeen = bytesNow;
      if (misses >= missesMax) {
        this.terminate(`the peer gave no sign of life for ${(missesMax * intervalMs) / 1000} s`);
        return;
      }
      if (this.#ws.readyState === OPEN) this.#ws.ping();
    }
  }
}
