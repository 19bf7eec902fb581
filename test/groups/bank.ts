/**
 * Money that moves between two real PostgreSQL servers, so that a cut which is not the same instant on both is seen: each transfer is written down where it
 * is sent and where it arrives, in two transactions, the second begun when the first was acknowledged. At any one instant nothing has arrived that was not
 * sent, and no more is under way than there are clients.
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type pg from 'pg';
import type { Lab } from '../e2e/lab.js';
import { Postgres } from '../quiesce/servers.js';

const BALANCE = 1_000_000;
/** Clients in each direction. */
const CLIENTS = 2;

/** The server of one machine, on its protected disk. */
export async function openBank(lab: Lab, fsType: 'ext4' | 'xfs'): Promise<Postgres> {
  chmodSync(lab.folder, 0o755);
  const server = new Postgres(join(lab.mount(0, fsType), 'data'), join(lab.folder, 'side'));
  server.init();
  await server.start();
  lab.undo(() => server.stop());
  const client = await server.connect();
  await client.query('CREATE TABLE account (client text PRIMARY KEY, balance bigint NOT NULL)');
  await client.query('CREATE TABLE sent (id text PRIMARY KEY, amount bigint NOT NULL)');
  await client.query('CREATE TABLE received (id text PRIMARY KEY, amount bigint NOT NULL)');
  for (const direction of ['there', 'back'])
    for (let i = 0; i < CLIENTS; i++)
      await client.query('INSERT INTO account VALUES ($1, $2)', [`${direction}${i}`, BALANCE]);
  await client.end();
  return server;
}

export class Transfers {
  readonly #servers: readonly [Postgres, Postgres];
  #stopped = false;
  #running: Promise<void>[] = [];
  /** Ids whose arrival was acknowledged. */
  readonly done = new Set<string>();
  /** Ids that were begun. */
  readonly begun = new Set<string>();
  failure: unknown = null;

  constructor(here: Postgres, there: Postgres) {
    this.#servers = [here, there];
  }

  start(): void {
    this.#stopped = false;
    const [here, there] = this.#servers;
    for (let i = 0; i < CLIENTS; i++) {
      this.#running.push(this.#client(`there${i}`, here, there), this.#client(`back${i}`, there, here));
    }
    for (const running of this.#running) running.catch((error: unknown) => (this.failure ??= error));
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#running.splice(0));
  }

  async #client(name: string, from: Postgres, to: Postgres): Promise<void> {
    const [source, target] = [await from.connect(), await to.connect()];
    try {
      for (let n = this.begun.size; !this.#stopped; n++) {
        const [id, amount] = [`${name}-${n}`, 1 + (n % 97)];
        this.begun.add(id);
        await move(source, 'sent', id, -amount, name);
        await move(target, 'received', id, amount, name);
        this.done.add(id);
      }
    } finally {
      await source.end();
      await target.end();
    }
  }
}

async function move(client: pg.Client, table: string, id: string, amount: number, account: string): Promise<void> {
  await client.query(
    `WITH noted AS (INSERT INTO ${table} VALUES ($1, abs($2::bigint))) UPDATE account SET balance = balance + $2::bigint WHERE client = $3`,
    [id, amount, account],
  );
}

/** What the books of one machine say. */
export interface Books {
  readonly balance: number;
  readonly sent: ReadonlyMap<string, number>;
  readonly received: ReadonlyMap<string, number>;
}

async function booksOf(server: Postgres): Promise<Books> {
  const client = await server.connect();
  const { rows } = await client.query<{ sum: string }>('SELECT sum(balance)::text AS sum FROM account');
  const table = async (name: string): Promise<Map<string, number>> => {
    const all = await client.query<{ id: string; amount: string }>(`SELECT id, amount::text FROM ${name}`);
    return new Map(all.rows.map(({ id, amount }) => [id, Number(amount)]));
  };
  const books = { balance: Number(rows[0]?.sum ?? NaN), sent: await table('sent'), received: await table('received') };
  await client.end();
  return books;
}

/** Restores a machine's point, starts its server on what was restored, and reads its books. */
export async function restoredBooks(lab: Lab, point: number): Promise<Books> {
  await lab.restore(point);
  const at = join(lab.folder, 'restored');
  mkdirSync(at, { recursive: true });
  // Its filesystem has the id of the one that is mounted.
  const options = execFileSync('blkid', ['-o', 'value', '-s', 'TYPE', lab.restoredPath(0)], { encoding: 'utf8' });
  execFileSync('mount', ['-o', options.trim() === 'xfs' ? 'loop,nouuid' : 'loop', lab.restoredPath(0), at]);
  try {
    const data = join(at, 'data');
    // The process that it names is the original's, which runs.
    rmSync(join(data, 'postmaster.pid'), { force: true });
    const server = new Postgres(data, join(lab.folder, 'restored-side'));
    await server.start();
    try {
      return await booksOf(server);
    } finally {
      await server.stop();
    }
  } finally {
    execFileSync('umount', [at]);
  }
}

/** What is wrong with the books of two machines as of one instant; empty: nothing. */
export function problemsOf(web: Books, db: Books): string[] {
  const problems: string[] = [];
  let underWay = 0;
  let underWayAmount = 0;
  for (const [name, from, to] of [
    ['web to db', web.sent, db.received],
    ['db to web', db.sent, web.received],
  ] as const) {
    for (const id of to.keys()) if (!from.has(id)) problems.push(`${name}: ${id} has arrived and was never sent`);
    for (const [id, amount] of from) {
      if (to.has(id)) continue;
      underWay++;
      underWayAmount += amount;
    }
  }
  const total = web.balance + db.balance + underWayAmount;
  const expected = 2 * 2 * CLIENTS * BALANCE;
  if (total !== expected) problems.push(`the sum is ${total}, not ${expected}`);
  if (underWay > 2 * CLIENTS) problems.push(`${underWay} transfers are under way, of ${2 * CLIENTS} clients`);
  return problems;
}
