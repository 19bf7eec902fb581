/**
 * The recovery site of a guest on this host: a receiver with its store in a folder, and what an operator does there. Nothing outlives end().
 */
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parse, stringify } from 'yaml';
import { Daemon, runToEnd } from '../e2e/program.js';
import { freePort } from '../guest/guest.js';

const POLL_MS = 100;
const START_LIMIT_MS = 60_000;
export const NAME = 'source';

const portOf = (config: string): number | null =>
  existsSync(config) ? (parse(readFileSync(config, 'utf8')) as { listen: { port: number } }).listen.port : null;

export class Site {
  readonly #folder: string;
  readonly #port: number;
  readonly #receiver: Daemon;

  private constructor(folder: string, port: number, receiver: Daemon) {
    this.#folder = folder;
    this.#port = port;
    this.#receiver = receiver;
  }

  /** At the port of before, when the folder has been a site's: machines know it. */
  static async start(folder: string): Promise<Site> {
    const port = portOf(join(folder, 'receiver.yaml')) ?? (await freePort());
    const statusPort = await freePort();
    const config = {
      store: `file:${join(folder, 'store')}`,
      stateDir: join(folder, 'receiver'),
      controlSocket: join(folder, 'receiver.sock'),
      listen: { host: '127.0.0.1', port },
      status: { host: '127.0.0.1', port: statusPort },
    };
    writeFileSync(join(folder, 'receiver.yaml'), stringify(config));
    const log = join(folder, 'receiver.log');
    writeFileSync(log, '');
    const receiver = new Daemon('receiver', ['--config', join(folder, 'receiver.yaml'), 'run'], log, {});
    const endMs = performance.now() + START_LIMIT_MS;
    while (!readFileSync(log, 'utf8').includes('receiver is ready')) {
      if (receiver.end !== null || performance.now() > endMs) throw new Error(readFileSync(log, 'utf8'));
      await sleep(POLL_MS);
    }
    return new Site(folder, port, receiver);
  }

  /** For a guest, whose network shows this host at `host`. */
  async token(host: string): Promise<string> {
    const config = ['--config', join(this.#folder, 'receiver.yaml')];
    const { stdout, stderr, code } = await runToEnd('receiver', [
      ...[...config, 'token', '--address', `${host}:${this.#port}`, '--json'],
    ]);
    if (code !== 0) throw new Error(stderr);
    return (JSON.parse(stdout) as { token: string }).token;
  }

  /** Restores disks of a point to new files, each read back and checked against the point's digest. */
  async restore(point: number, to: Readonly<Record<string, string>>): Promise<void> {
    for (const path of Object.values(to)) rmSync(path, { force: true });
    const targets = Object.entries(to).flatMap(([disk, path]) => ['--to', `${disk}=${path}`]);
    const { code, stderr } = await runToEnd('cli', [
      ...['--store', `file:${join(this.#folder, 'store')}`, 'restore', NAME, '--point', String(point), ...targets],
      ...['--sparse', '--read-back', '--state', join(this.#folder, 'restore'), '--json'],
    ]);
    if (code !== 0) throw new Error(`restore of point ${point}: ${stderr}`);
  }

  async end(): Promise<void> {
    await this.#receiver.stop();
  }
}
