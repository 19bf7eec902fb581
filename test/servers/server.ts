/**
 * A program that serves a test on loopback, kept outside of the repository (install.sh), as a child of the test: it ends with it.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

export const CACHE = process.env['AFTERIMAGE_TEST_CACHE'] ?? '/var/cache/afterimage-test';

/** Why a server that needs root and what install.sh installs can't be started here; false when it can. In CI all must run. */
export function missingServer(folder: string): string | false {
  if (process.getuid?.() !== 0) return 'not root';
  if (existsSync(join(CACHE, folder))) return false;
  const why = `${folder} is not installed: run test/servers/install.sh`;
  if (process.env['CI'] !== undefined) throw new Error(why);
  return why;
}

const isFree = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const server = createServer()
      .once('error', () => resolve(false))
      .listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });

/** First of `count` free ports in a row, below those that the kernel gives to clients. */
export async function freePorts(count: number): Promise<number> {
  for (;;) {
    const first = 20_000 + Math.floor(Math.random() * 10_000);
    const free = await Promise.all(Array.from({ length: count }, (_, i) => isFree(first + i)));
    if (free.every(Boolean)) return first;
  }
}

export class ServerProcess {
  readonly #child: ChildProcess;
  /** Who waits for a line. Lines that nobody waits for are dropped. */
  #waiting: { readonly wanted: RegExp; readonly resolve: () => void; readonly reject: (error: Error) => void } | null =
    null;

  private constructor(command: string, args: readonly string[]) {
    // Ends with the test even when that is killed.
    this.#child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', command, ...args], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const { stdout } = this.#child;
    if (stdout === null) throw new Error('no pipe');
    createInterface({ input: stdout }).on('line', (line) => {
      if (this.#waiting?.wanted.test(line) === true) this.#waiting.resolve();
    });
    this.#child.once('exit', () => this.#waiting?.reject(new Error('the server ended')));
  }

  static async start(command: string, args: readonly string[], ready: RegExp): Promise<ServerProcess> {
    const server = new ServerProcess(command, args);
    try {
      await server.#until(ready);
      return server;
    } catch (error) {
      await server.stop();
      throw error;
    }
  }

  /** For servers that take commands on their standard input. */
  async tell(command: string): Promise<void> {
    const done = this.#until(/^done$/);
    this.#child.stdin?.write(`${command}\n`);
    await done;
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.stdin?.end();
    this.#child.kill('SIGKILL');
    await ended;
  }

  #until(wanted: RegExp): Promise<void> {
    return new Promise<void>((resolve, reject) => {
      this.#waiting = { wanted, resolve, reject };
    }).finally(() => {
      this.#waiting = null;
    });
  }
}
