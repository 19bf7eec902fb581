/**
 * A machine with PostgreSQL and MariaDB on two protected disks, and clients that load them. Points are made of it, restored, mounted over where its disks
 * are mounted, and the servers started on them just as they were. `cleanUp` is always called, and ends all of it.
 */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { chmodSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { MIB } from '../../../shared/units.js';
import { Lab } from '../../e2e/lab.js';
import { until } from '../loop-disks.js';
import { Mariadb, Postgres } from '../servers.js';
import { ACCOUNTS, type Entries, type Notes, type Restored } from './notes.js';

const REPO = join(import.meta.dirname, '../../..');
const DISK_BYTES = 384 * MIB;
/** Crash-consistent points may need a freeze when the machine is busy; so many are tried until enough had none. */
const TRIES = 20;
export type Server = 'postgres' | 'mariadb';
type FsType = 'ext4' | 'xfs';

export interface Layout {
  readonly what: string;
  readonly fsTypes: readonly [FsType, FsType];
  /** Disk of each server's data, and of its log. */
  readonly postgres: readonly [number, number];
  readonly mariadb: readonly [number, number];
}

const SCHEMA = [
  'CREATE TABLE entries (connection INT, id INT, filler TEXT, PRIMARY KEY (connection, id))',
  'CREATE TABLE accounts (id INT PRIMARY KEY, balance BIGINT)',
  `INSERT INTO accounts VALUES ${Array.from({ length: ACCOUNTS }, (_, i) => `(${i + 1}, 0)`).join(', ')}`,
];
/** Of an engine without transactions and log: after a power cut it may be anything. */
const PLAIN_TABLE =
  'CREATE TABLE plain (connection INT, id INT, filler TEXT, PRIMARY KEY (connection, id)) ENGINE=MyISAM';
const readEntries = (table: string): string =>
  `SELECT connection, COUNT(*) AS n, MAX(id) AS last FROM ${table} GROUP BY connection`;
const READ_SUM = 'SELECT SUM(balance) AS total FROM accounts';

type Query = (statement: string) => Promise<readonly Record<string, unknown>[]>;

async function asPostgres<T>(server: Postgres, work: (query: Query) => Promise<T>): Promise<T> {
  const client = await server.connect();
  try {
    return await work(async (statement) => (await client.query<Record<string, unknown>>(statement)).rows);
  } finally {
    await client.end();
  }
}

async function asMariadb<T>(server: Mariadb, work: (query: Query) => Promise<T>): Promise<T> {
  const connection = await server.connect();
  try {
    return await work(async (statement) => (await connection.query(statement))[0] as Record<string, unknown>[]);
  } finally {
    await connection.end();
  }
}

async function entriesIn(query: Query, table: string): Promise<Entries[]> {
  const rows = await query(readEntries(table));
  return rows.map((row) => ({
    connection: Number(row['connection']),
    count: Number(row['n']),
    lastId: Number(row['last']),
  }));
}

async function readAll(query: Query): Promise<Restored> {
  const [sums] = await query(READ_SUM);
  return { entries: await entriesIn(query, 'entries'), sum: Number(sums?.['total']) };
}

const textOf = async (query: Query, statement: string): Promise<string> =>
  String((await query(statement))[0]?.['Value']);

interface Asked {
  readonly fromMs: number;
  readonly toMs: number;
  readonly logEnds: Readonly<Record<Server, string>>;
}

/** Two servers on two protected disks, with clients. */
export class DatabaseMachine {
  readonly lab: Lab;
  readonly layout: Layout;
  readonly postgres: Postgres;
  readonly mariadb: Mariadb;
  #clients: ChildProcess | null = null;
  /** When each point was asked for and made, and where the servers' logs ended when it was asked for. */
  readonly asked = new Map<number, Asked>();

  private constructor(lab: Lab, layout: Layout) {
    this.lab = lab;
    this.layout = layout;
    this.postgres = new Postgres(join(lab.folder, `mount${layout.postgres[0]}/pg`), join(lab.folder, 'pg-side'));
    this.mariadb = new Mariadb(join(lab.folder, `mount${layout.mariadb[0]}/mariadb`), join(lab.folder, 'mariadb-side'));
  }

  static async start(layout: Layout): Promise<DatabaseMachine> {
    const lab = await Lab.open({
      disks: [DISK_BYTES, DISK_BYTES],
      interval: '1h',
      agent: (folder) => ({
        hooks: { dir: join(folder, 'hooks') },
        // A busy machine needs longer for all of it.
        freeze: { deadline: '10s' },
        applicationPoints: { deadline: '5min' },
        applications: {
          postgresql: [{ name: 'pg', socket: join(folder, 'pg-side') }],
          mysql: [{ name: 'mariadb', socket: join(folder, 'mariadb-side/sock') }],
        },
      }),
    });
    const machine = new DatabaseMachine(lab, layout);
    try {
      chmodSync(lab.folder, 0o755);
      for (const [index, fsType] of layout.fsTypes.entries()) lab.mount(index, fsType);
      lab.undo(() => machine.stopServers());
      machine.postgres.init(machine.#logFolder('postgres'));
      machine.mariadb.init(machine.#logFolder('mariadb'));
      await machine.startServers();
      await asPostgres(machine.postgres, async (query) => {
        for (const statement of SCHEMA) await query(statement);
      });
      await asMariadb(machine.mariadb, async (query) => {
        for (const statement of ['CREATE DATABASE shop', 'USE shop', ...SCHEMA, PLAIN_TABLE]) await query(statement);
      });
      await lab.setUp();
    } catch (error) {
      await machine.cleanUp();
      throw error;
    }
    return machine;
  }

  #logFolder(of: 'postgres' | 'mariadb'): string | undefined {
    const [data, log] = this.layout[of];
    return data === log ? undefined : join(this.lab.folder, `mount${log}/${of}-log`);
  }

  async startServers(): Promise<void> {
    await this.postgres.start();
    await this.mariadb.start(this.#logFolder('mariadb'));
  }

  async stopServers(): Promise<void> {
    await this.postgres.stop();
    await this.mariadb.stop();
  }

  async cleanUp(): Promise<void> {
    this.#clients?.kill('SIGKILL');
    await this.lab.cleanUp();
  }

  async startClients(): Promise<void> {
    const loader = join(REPO, 'test/helpers/ts-loader.mjs');
    const servers = [`postgres=${this.postgres.side}`, `mariadb=${this.mariadb.socket}`];
    const program = join(REPO, 'test/quiesce/load/client.ts');
    const child = spawn(process.execPath, ['--import', loader, program, join(this.lab.folder, 'notes'), ...servers], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    this.#clients = child;
    let said = '';
    child.stdout.on('data', (bytes: Buffer) => (said += bytes.toString()));
    await until('the clients work', () => said.includes('running'), 60_000);
  }

  /** What they noted. */
  async stopClients(): Promise<Notes> {
    const clients = this.#clients;
    clients?.stdin?.end();
    await until('the clients end', () => clients?.exitCode != null, 60_000);
    return JSON.parse(readFileSync(join(this.lab.folder, 'notes'), 'utf8')) as Notes;
  }

  async applicationPoint(): Promise<number> {
    return this.#made(async () => {
      const { code, stdout, stderr } = await this.lab.run('agent', 'point', '--json');
      if (code !== 0) throw new Error(`point: ${stderr}${stdout}`);
      return JSON.parse(stdout) as { point: number };
    });
  }

  async crashPoint(): Promise<number> {
    for (let i = 0; i < TRIES; i++) {
      let consistency = '';
      const point = await this.#made(async () => {
        const made = await this.lab.syncNow();
        ({ consistency } = made.cut);
        return made;
      });
      if (consistency === 'crash') return point;
    }
    throw new Error(`none of ${TRIES} points was made without a freeze`);
  }

  async #made(make: () => Promise<{ readonly point: number }>): Promise<number> {
    const logEnds = {
      postgres: await asPostgres(this.postgres, (query) => textOf(query, 'SELECT pg_current_wal_lsn() AS "Value"')),
      mariadb: await asMariadb(this.mariadb, (query) => textOf(query, "SHOW GLOBAL STATUS LIKE 'Innodb_lsn_current'")),
    };
    const fromMs = Date.now();
    const { point } = await make();
    this.asked.set(point, { fromMs, toMs: Date.now(), logEnds });
    return point;
  }

  /** Images of a point, in the order of the disks. */
  async restore(point: number): Promise<string[]> {
    await this.lab.restore(point);
    return this.layout.fsTypes.map((_, index) => {
      const image = join(this.lab.folder, `point${point}-disk${index}`);
      renameSync(this.lab.restoredPath(index), image);
      return image;
    });
  }

  /** What the table without transactions holds; or what its check says against it. */
  plainTable(): Promise<Restored | string> {
    return asMariadb(this.mariadb, async (query) => {
      await query('USE shop');
      const said = (await query('CHECK TABLE plain')).map((row) => String(row['Msg_text']));
      if (said.join() !== 'OK') return said.join('; ');
      return { entries: await entriesIn(query, 'plain'), sum: 0 };
    });
  }

  /** Runs `work` with copies of the images mounted where the machine's disks are mounted, over them. */
  async mounted<T>(images: readonly string[], work: () => Promise<T>): Promise<T> {
    const places: string[] = [];
    try {
      for (const [index, image] of images.entries()) {
        const at = join(this.lab.folder, `mount${index}`);
        // The original, with the same id, is mounted as well.
        const options = this.layout.fsTypes[index] === 'xfs' ? 'loop,nouuid' : 'loop';
        const copy = `${image}.copy`;
        execFileSync('cp', ['--sparse=always', image, copy]);
        execFileSync('mount', ['-o', options, copy, at]);
        places.push(at);
      }
      return await work();
    } finally {
      await this.stopServers();
      for (const at of places.reverse()) execFileSync('umount', [at]);
      for (const image of images) rmSync(`${image}.copy`, { force: true });
    }
  }

  /** Starts the servers on what is mounted. What each holds; or that it did not start, with what it said. */
  async recovered(): Promise<Record<Server, Restored | string>> {
    const [postgres, mariadb] = await Promise.all([
      this.postgres.start().then(() => asPostgres(this.postgres, readAll), String),
      this.mariadb.start(this.#logFolder('mariadb')).then(
        () =>
          asMariadb(this.mariadb, async (query) => {
            await query('USE shop');
            return readAll(query);
          }),
        String,
      ),
    ]);
    return { postgres, mariadb };
  }
}
