/**
 * Commands in a guest, through QEMU's guest agent on a Unix socket. A connection for each, since a guest that reboots forgets what it was asked.
 */
import { once } from 'node:events';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

const ANSWER_MS = 60_000;
const POLL_MS = 200;
/** The agent sends it before the first answer after a reset. */
const DELIMITER = '\xff';

export interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

class Connection {
  readonly #socket;
  readonly #lines: AsyncIterator<string, unknown>;

  constructor(path: string) {
    this.#socket = connect(path);
    this.#socket.setTimeout(ANSWER_MS, () => this.#socket.destroy(new Error('the guest agent does not answer')));
    this.#lines = createInterface({ input: this.#socket })[Symbol.asyncIterator]();
  }

  async open(): Promise<void> {
    await once(this.#socket, 'connect');
    const id = Math.floor(performance.now());
    // Answers to those who asked before are passed over.
    this.#send('guest-sync', { id });
    while ((await this.#answer()) !== id);
  }

  async ask(execute: string, args: object): Promise<unknown> {
    this.#send(execute, args);
    return this.#answer();
  }

  #send(execute: string, args: object): void {
    this.#socket.write(`${JSON.stringify({ execute, arguments: args })}\n`);
  }

  async #answer(): Promise<unknown> {
    const line: IteratorResult<string, unknown> = await this.#lines.next();
    if (line.done === true) throw new Error('the guest agent has gone');
    const message = JSON.parse(line.value.replaceAll(DELIMITER, '').replaceAll('\ufffd', '')) as {
      return?: unknown;
      error?: { desc: string };
    };
    if (message.error !== undefined) throw new Error(`guest agent: ${message.error.desc}`);
    return message.return;
  }

  close(): void {
    this.#socket.destroy();
  }
}

interface Status {
  readonly exited: boolean;
  readonly exitcode?: number;
  readonly 'out-data'?: string;
  readonly 'err-data'?: string;
}

const text = (base64 = ''): string => Buffer.from(base64, 'base64').toString('utf8');

async function withConnection<T>(socket: string, work: (connection: Connection) => Promise<T>): Promise<T> {
  const connection = new Connection(socket);
  try {
    await connection.open();
    return await work(connection);
  } finally {
    connection.close();
  }
}

const start = (command: string): object => ({ path: '/bin/sh', arg: ['-c', command], 'capture-output': true });

/** Runs a shell command to its end. */
export function execute(socket: string, command: string, limitMs: number): Promise<Ran> {
  return withConnection(socket, async (connection) => {
    const { pid } = (await connection.ask('guest-exec', start(command))) as { pid: number };
    for (const endMs = performance.now() + limitMs; performance.now() < endMs; await sleep(POLL_MS)) {
      const status = (await connection.ask('guest-exec-status', { pid })) as Status;
      if (!status.exited) continue;
      return { code: status.exitcode ?? -1, stdout: text(status['out-data']), stderr: text(status['err-data']) };
    }
    throw new Error(`still runs after ${limitMs} ms: ${command}`);
  });
}

/** Starts a command that the guest will not live to answer for. */
export const begin = (socket: string, command: string): Promise<void> =>
  withConnection(socket, async (connection) => {
    await connection.ask('guest-exec', start(command));
  });
