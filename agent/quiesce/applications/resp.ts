/**
 * The part of Redis' protocol (RESP2) that a few commands need: one at a time, answers as text. The usual client would be 12 MB on each source machine.
 */
import { connect, type Socket } from 'node:net';

/** A longer answer is none that we ask for. */
const REPLY_BYTES_MAX = 256 * 1024;

type Reply = string | null | Reply[];

export class RespError extends Error {}

interface Waiter {
  readonly resolve: (reply: Reply) => void;
  readonly reject: (error: Error) => void;
}

export class RespClient {
  readonly #socket: Socket;
  #received = Buffer.alloc(0);
  #waiter: Waiter | null = null;
  #failure: Error | null = null;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (bytes) => this.#take(bytes));
    socket.on('error', (error) => this.#fail(error));
    socket.on('close', () => this.#fail(new Error('the server closed the connection')));
  }

  static open(where: { path: string } | { host: string; port: number }, timeoutMs: number): Promise<RespClient> {
    return new Promise((resolve, reject) => {
      const socket = connect({ ...where, timeout: timeoutMs });
      socket.once('timeout', () => socket.destroy(new Error(`no connection within ${timeoutMs / 1000} s`)));
      socket.once('error', reject);
      socket.once('connect', () => {
        socket.off('error', reject);
        socket.setTimeout(0);
        resolve(new RespClient(socket));
      });
    });
  }

  command(...words: readonly string[]): Promise<Reply> {
    if (this.#failure !== null) return Promise.reject(this.#failure);
    return new Promise((resolve, reject) => {
      this.#waiter = { resolve, reject };
      this.#socket.write(
        `*${words.length}\r\n${words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join('')}`,
      );
    });
  }

  close(): void {
    this.#socket.destroy();
  }

  #take(bytes: Buffer): void {
    this.#received = Buffer.concat([this.#received, bytes]);
    try {
      const parsed = parseReply(this.#received, 0);
      if (parsed !== null) {
        this.#received = this.#received.subarray(parsed.end);
        this.#settle((waiter) =>
          parsed.reply instanceof RespError ? waiter.reject(parsed.reply) : waiter.resolve(parsed.reply),
        );
      } else if (this.#received.length > REPLY_BYTES_MAX) throw new Error('the answer is longer than expected');
    } catch (error) {
      this.#socket.destroy(error instanceof Error ? error : new Error(String(error)));
    }
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#settle((waiter) => waiter.reject(error));
  }

  #settle(how: (waiter: Waiter) => void): void {
    const waiter = this.#waiter;
    this.#waiter = null;
    if (waiter !== null) how(waiter);
  }
}

/** A whole reply and where it ends; null when more bytes are needed. */
export function parseReply(bytes: Buffer, at: number): { reply: Reply | RespError; end: number } | null {
  const lineEnd = bytes.indexOf('\r\n', at);
  if (lineEnd < 0) return null;
  const line = bytes.toString('utf8', at + 1, lineEnd);
  const next = lineEnd + 2;
  switch (String.fromCharCode(bytes[at] ?? 0)) {
    case '+':
    case ':':
      return { reply: line, end: next };
    case '-':
      return { reply: new RespError(line), end: next };
    case '$': {
      const length = Number(line);
      if (length < 0) return { reply: null, end: next };
      if (bytes.length < next + length + 2) return null;
      return { reply: bytes.toString('utf8', next, next + length), end: next + length + 2 };
    }
    case '*': {
      const items: Reply[] = [];
      let end = next;
      for (let i = 0; i < Number(line); i++) {
        const item = parseReply(bytes, end);
        if (item === null) return null;
        if (item.reply instanceof RespError) return { reply: item.reply, end: item.end };
        items.push(item.reply);
        end = item.end;
      }
      return { reply: items, end };
    }
    default:
      throw new Error(
        `not a Redis server: ${JSON.stringify(bytes.toString('latin1', at, Math.min(at + 20, lineEnd)))}`,
      );
  }
}
