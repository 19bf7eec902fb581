/**
 * Real database servers for tests, each in a folder of its own, reachable by a socket in it. Whoever starts one stops it.
 */
import { execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process';
import {
  chownSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  closeSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import mysql from 'mysql2/promise';
import pg from 'pg';
import { until } from './loop-disks.js';

const POSTGRES_ROOT = '/usr/lib/postgresql';
const postgresBin = existsSync(POSTGRES_ROOT)
  ? join(POSTGRES_ROOT, readdirSync(POSTGRES_ROOT).sort((a, b) => Number(b) - Number(a))[0] ?? '', 'bin')
  : '';

export const hasPostgres = existsSync(join(postgresBin, 'postgres'));
export const hasMariadb = existsSync('/usr/sbin/mariadbd');
export const hasRedis = existsSync('/usr/bin/redis-server');
for (const [name, there] of Object.entries({ PostgreSQL: hasPostgres, MariaDB: hasMariadb, Redis: hasRedis }))
  if (!there) console.warn(`tests with ${name} are skipped: it is not installed`);

const START_LIMIT_MS = 60_000;

abstract class Server {
  protected child: ChildProcess | null = null;
  constructor(
    readonly data: string,
    /** Socket and log: not on the disk that is frozen. */
    readonly side: string,
  ) {}

  get log(): string {
    const path = join(this.side, 'log');
    return existsSync(path) ? readFileSync(path, 'utf8') : '';
  }

  get pid(): number {
    return this.child?.pid ?? 0;
  }

  protected run(file: string, args: readonly string[]): void {
    const log = openSync(join(this.side, 'log'), 'w');
    this.child = spawn(file, args, { stdio: ['ignore', log, log], detached: true });
    closeSync(log);
  }

  protected async untilReady(isReady: () => Promise<unknown>): Promise<void> {
    const endMs = performance.now() + START_LIMIT_MS;
    for (;;) {
      if (
        await isReady().then(
          () => true,
          () => false,
        )
      )
        return;
      const { child } = this;
      const isGone = child === null || child.exitCode !== null || child.signalCode !== null;
      if (isGone || performance.now() > endMs) throw new Error(`no server:\n${this.log}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /** At once, as when the power fails. */
  async kill(): Promise<void> {
    await this.end('SIGKILL');
  }

  protected async end(signal: NodeJS.Signals): Promise<void> {
    const { child } = this;
    this.child = null;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    child.kill(signal);
    await until('the server ends', () => child.exitCode !== null || child.signalCode !== null, START_LIMIT_MS);
  }
}

export class Postgres extends Server {
  /** `wal`: a folder for its log, on another disk. */
  init(wal?: string): void {
    for (const folder of [this.data, this.side, ...(wal === undefined ? [] : [wal])]) {
      mkdirSync(folder, { recursive: true });
      chownSync(folder, idOf('postgres', '-u'), idOf('postgres', '-g'));
    }
    const more = wal === undefined ? [] : ['-X', wal];
    asPostgres(join(postgresBin, 'initdb'), '-D', this.data, '-k', '-A', 'trust', '-E', 'UTF8', ...more);
  }

  async start(): Promise<void> {
    mkdirSync(this.side, { recursive: true });
    chownSync(this.side, idOf('postgres', '-u'), idOf('postgres', '-g'));
    const settings = ['listen_addresses=', `unix_socket_directories=${this.side}`, 'shared_buffers=32MB'];
    const options = settings.flatMap((setting) => ['-c', setting]);
    this.run('setpriv', [
      ...['--reuid=postgres', '--regid=postgres', '--clear-groups', '--'],
      ...[join(postgresBin, 'postgres'), '-D', this.data, ...options],
    ]);
    await this.untilReady(async () => (await this.connect()).end());
  }

  /** A clean shutdown that waits for nobody. */
  stop(): Promise<void> {
    return this.end('SIGINT');
  }

  /** Who may connect, and which users of this machine may be whom; for the next start. */
  allow(rules: string, users = ''): void {
    writeFileSync(join(this.data, 'pg_hba.conf'), rules);
    writeFileSync(join(this.data, 'pg_ident.conf'), users);
  }

  async connect(): Promise<pg.Client> {
    const client = new pg.Client({ host: this.side, user: 'postgres', database: 'postgres' });
    client.on('error', () => undefined);
    await client.connect();
    return client;
  }

  /** What the log holds from a place on; it ends amid what is written next, which the program takes for an error. */
  logFrom(lsn: string): string {
    const args = ['-p', join(this.data, 'pg_wal'), '-s', lsn];
    return spawnSync(join(postgresBin, 'pg_waldump'), args, { encoding: 'utf8' }).stdout;
  }
}

export class Mariadb extends Server {
  get socket(): string {
    return join(this.side, 'sock');
  }

  init(log?: string): void {
    for (const folder of [this.data, this.side, ...(log === undefined ? [] : [log])])
      mkdirSync(folder, { recursive: true });
    const more = log === undefined ? [] : [`--innodb-log-group-home-dir=${log}`];
    execFileSync(
      'mariadb-install-db',
      ['--no-defaults', `--datadir=${this.data}`, '--user=root', '--skip-test-db', ...more],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    );
  }

  async start(log?: string, ...more: readonly string[]): Promise<void> {
    mkdirSync(this.side, { recursive: true });
    this.run('/usr/sbin/mariadbd', [
      ...['--no-defaults', '--user=root', `--datadir=${this.data}`, `--socket=${this.socket}`, '--skip-networking'],
      ...['--innodb-buffer-pool-size=32M', '--innodb-log-file-size=32M', `--pid-file=${join(this.side, 'pid')}`],
      ...(log === undefined ? [] : [`--innodb-log-group-home-dir=${log}`]),
      ...more,
    ]);
    await this.untilReady(async () => (await this.connect()).end());
  }

  stop(): Promise<void> {
    return this.end('SIGTERM');
  }

  async connect(): Promise<mysql.Connection> {
    const connection = await mysql.createConnection({ socketPath: this.socket, user: 'root' });
    connection.on('error', () => undefined);
    return connection;
  }
}

export class RedisServer extends Server {
  get socket(): string {
    return join(this.side, 'sock');
  }

  async start(...more: readonly string[]): Promise<void> {
    for (const folder of [this.data, this.side]) mkdirSync(folder, { recursive: true });
    this.run('/usr/bin/redis-server', [
      ...['--port', '0', '--unixsocket', this.socket, '--dir', this.data, '--save', '', '--appendonly', 'no', ...more],
    ]);
    await until('redis serves', () => existsSync(this.socket), START_LIMIT_MS);
  }

  stop(): Promise<void> {
    return this.end('SIGTERM');
  }

  cli(...args: readonly string[]): string {
    return execFileSync('redis-cli', ['-s', this.socket, ...args], { encoding: 'utf8' }).trim();
  }
}

const idOf = (user: string, flag: '-u' | '-g'): number =>
  Number(execFileSync('id', [flag, user], { encoding: 'utf8' }));

function asPostgres(file: string, ...args: readonly string[]): string {
  const drop = ['--reuid=postgres', '--regid=postgres', '--clear-groups', '--'];
  return execFileSync('setpriv', [...drop, file, ...args], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    cwd: '/',
  });
}
