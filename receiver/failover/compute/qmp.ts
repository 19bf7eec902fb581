/**
 * Client of QEMU's control socket (QMP): greeting, capabilities, commands in order with time limits, events. One client at a time is served by
 * QEMU: connect, ask, close (see withQmp). Every way in which the connection ends rejects what is still open.
 */
import { connect, type Socket } from 'node:net';
import { z } from 'zod';
import { AfterimageError, messageOf } from '../../../shared/errors.js';
import { QMP_LINE_BYTES_MAX, QMP_TIMEOUT_MS } from '../../../shared/limits.js';

const messageSchema = z.union([
  z.object({ QMP: z.unknown() }),
  z.object({ id: z.number(), return: z.unknown() }),
  z.object({ id: z.number(), error: z.object({ class: z.string(), desc: z.string() }) }),
  z.object({ event: z.string(), data: z.record(z.string(), z.unknown()).default({}) }),
]);

export interface QmpEvent {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
}

export interface QmpOptions {
  /** For the greeting, and for each answer. */
  readonly timeoutMs?: number;
  readonly onEvent?: (event: QmpEvent) => void;
}

interface Pending {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

const qmpError = (code: string, message: string, cause?: unknown): AfterimageError =>
  new AfterimageError(message, { code, kind: 'io', ...(cause === undefined ? {} : { cause }) });

export class QmpClient {
  readonly #socket: Socket;
  readonly #path: string;
  readonly #timeoutMs: number;
  readonly #onEvent: (event: QmpEvent) => void;
  readonly #pending = new Map<number, Pending>();
  #greeting: Pending | null = null;
  #buffer: Buffer[] = [];
  #bufferedBytes = 0;
  #nextId = 1;
  #end: Error | null = null;
  #resolveClosed: () => void = () => undefined;
  /** Resolves when the connection is gone. */
  readonly closed = new Promise<void>((resolve) => (this.#resolveClosed = resolve));

  private constructor(socket: Socket, path: string, options: QmpOptions) {
    this.#socket = socket;
    this.#path = path;
    this.#timeoutMs = options.timeoutMs ?? QMP_TIMEOUT_MS;
    this.#onEvent = options.onEvent ?? (() => undefined);
    socket.on('data', (bytes: Buffer) => this.#hear(bytes));
    socket.on('error', (error) => this.#fail(qmpError('qmp-lost', `QMP at ${path}: ${messageOf(error)}`, error)));
    socket.on('close', () => this.#fail(qmpError('qmp-lost', `QEMU closed its control socket ${path}`)));
  }

  /** Connects and ends the handshake. Throws code `qmp-lost` when nobody listens, `qmp-timeout` when somebody else holds the socket. */
  static async connect(path: string, options: QmpOptions = {}): Promise<QmpClient> {
    const socket = connect(path);
    const client = new QmpClient(socket, path, options);
    try {
      await client.#within('greeting', (pending) => (client.#greeting = pending));
      await client.execute('qmp_capabilities');
    } catch (error) {
      client.close();
      throw error;
    }
    return client;
  }

  /** Throws code `qmp-error` with QEMU's reason, `qmp-timeout`, or `qmp-lost`. */
  async execute(command: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    const id = this.#nextId++;
    try {
      return await this.#within(command, (pending) => {
        this.#pending.set(id, pending);
        this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
      });
    } finally {
      this.#pending.delete(id);
    }
  }

  close(): void {
    this.#socket.destroy();
  }

  #within(what: string, begin: (pending: Pending) => void): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#end !== null) {
        reject(this.#end);
        return;
      }
      const late = setTimeout(
        () => reject(qmpError('qmp-timeout', `QEMU at ${this.#path}: no answer to ${what} in ${this.#timeoutMs} ms`)),
        this.#timeoutMs,
      );
      begin({
        resolve: (value) => {
          clearTimeout(late);
          resolve(value);
        },
        reject: (error) => {
          clearTimeout(late);
          reject(error);
        },
      });
    });
  }

  #hear(bytes: Buffer): void {
    let rest = bytes;
    for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10)) {
      this.#buffer.push(rest.subarray(0, end));
      const line = Buffer.concat(this.#buffer).toString('utf8');
      this.#buffer = [];
      this.#bufferedBytes = 0;
      rest = rest.subarray(end + 1);
      this.#line(line);
      if (this.#end !== null) return;
    }
    this.#buffer.push(rest);
    this.#bufferedBytes += rest.length;
    if (this.#bufferedBytes > QMP_LINE_BYTES_MAX) this.#broken('a message without end');
  }

  #line(line: string): void {
    let json: unknown;
    try {
      json = JSON.parse(line);
    } catch {
      this.#broken('no JSON');
      return;
    }
    const message = messageSchema.safeParse(json);
    if (!message.success) this.#broken('an unknown message');
    else if ('QMP' in message.data) this.#greeting?.resolve(undefined);
    else if ('event' in message.data) this.#onEvent(message.data);
    else if ('error' in message.data) {
      const { error, id } = message.data;
      this.#pending.get(id)?.reject(qmpError('qmp-error', `QEMU at ${this.#path}: ${error.desc}`));
    } else this.#pending.get(message.data.id)?.resolve(message.data.return);
  }

  #broken(what: string): void {
    this.#fail(qmpError('qmp-broken', `QEMU at ${this.#path} sent ${what}`));
    this.#socket.destroy();
  }

  #fail(error: Error): void {
    if (this.#end !== null) return;
    this.#end = error;
    this.#greeting?.reject(error);
    for (const pending of this.#pending.values()) pending.reject(error);
    this.#pending.clear();
    this.#resolveClosed();
  }
}

/** Connects, does something, closes: also when it fails. */
export async function withQmp<T>(
  path: string,
  work: (qmp: QmpClient) => Promise<T>,
  options: QmpOptions = {},
): Promise<T> {
  const qmp = await QmpClient.connect(path, options);
  try {
    return await work(qmp);
  } finally {
    qmp.close();
  }
}
