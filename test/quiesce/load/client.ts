/**
 * Clients of databases under load, as a process of their own, so that nothing that a test does delays what they see. Each connection makes transactions one
 * after the other, as pgbench does: an entry with the connection's next number, and an amount moved between two accounts. Each is noted with the time at
 * which it began and the time at which its commit was acknowledged, on one monotonic clock for all of them.
 *
 * With MariaDB there is one more connection, which adds rows to a table of an engine without transactions.
 *
 * Arguments: where to write the notes, then `KIND=SOCKET` for each server. Says `running` when each connection had its first acknowledgement; stops at the
 * end of its input, writes the notes, and ends.
 */
import { writeFileSync } from 'node:fs';
import mysql from 'mysql2/promise';
import pg from 'pg';
import { ACCOUNTS, type Notes, type Transaction } from './notes.js';

const CONNECTIONS_EACH = 3;
/** Between two transactions of a connection: a database that saturates the machine shows nothing more. */
const THINK_MS_MAX = 4;

type Run = (statement: string) => Promise<unknown>;

async function connect(kind: string, socket: string): Promise<Run> {
  if (kind === 'mariadb') {
    const connection = await mysql.createConnection({ socketPath: socket, user: 'root', database: 'shop' });
    return (statement) => connection.query(statement);
  }
  const client = new pg.Client({ host: socket, user: 'postgres', database: 'postgres' });
  await client.connect();
  return (statement) => client.query(statement);
}

let isOver = false;
process.stdin.on('end', () => (isOver = true));
process.stdin.resume();

const nowMs = (): number => performance.timeOrigin + performance.now();

const entry = (table: string, connection: number, id: number): string =>
  `INSERT INTO ${table} (connection, id, filler) VALUES (${connection}, ${id}, '${'x'.repeat(300)}')`;

function transfer(connection: number, id: number): string[] {
  // The last accounts have one connection each, so that none waits for another for ever.
  const [from, to] = [1 + ((id * 7 + connection) % (ACCOUNTS - 3)), ACCOUNTS - (connection % 3)];
  return [
    'BEGIN',
    entry('entries', connection, id),
    `UPDATE accounts SET balance = balance - ${id} WHERE id = ${from}`,
    `UPDATE accounts SET balance = balance + ${id} WHERE id = ${to}`,
    'COMMIT',
  ];
}

async function work(
  run: Run,
  connection: number,
  statementsOf: (connection: number, id: number) => string[],
  transactions: Transaction[],
  started: () => void,
): Promise<void> {
  for (let id = 1; !isOver; id++) {
    const transaction: Transaction = { connection, id, begunMs: nowMs(), acknowledgedMs: null };
    transactions.push(transaction);
    for (const statement of statementsOf(connection, id)) await run(statement);
    transaction.acknowledgedMs = nowMs();
    if (id === 1) started();
    await new Promise((resolve) => setTimeout(resolve, Math.random() * THINK_MS_MAX));
  }
}

const [path = '', ...servers] = process.argv.slice(2);
const notes: Notes = {};
const working: Promise<void>[] = [];
let waiting = 0;
const begin = async (
  kind: string,
  socket: string,
  as: string,
  connection: number,
  statementsOf: (connection: number, id: number) => string[],
): Promise<void> => {
  waiting++;
  const transactions = (notes[as] ??= []);
  const run = await connect(kind, socket);
  working.push(
    work(run, connection, statementsOf, transactions, () => {
      if (--waiting === 0) process.stdout.write('running\n');
    }),
  );
};
// Until all are there.
waiting++;
for (const server of servers) {
  const [kind = '', socket = ''] = server.split('=');
  for (let connection = 1; connection <= CONNECTIONS_EACH; connection++)
    await begin(kind, socket, kind, connection, transfer);
  if (kind === 'mariadb') await begin(kind, socket, 'myisam', 1, (...of) => [entry('plain', ...of)]);
}
if (--waiting === 0) process.stdout.write('running\n');
await Promise.all(working);
writeFileSync(path, JSON.stringify(notes));
process.exit(0);
