/**
 * MariaDB and MySQL: commits are held back from just before the freeze until the thaw, so that files of all storage engines fit each other. MariaDB by
 * BACKUP STAGE, which lets transactions run up to their commit; others by FLUSH TABLES WITH READ LOCK. An open session holds it: when it ends, the
 * server gives the lock back, and it ends a silent session by itself. Before that InnoDB makes a checkpoint, where it can be asked for one, so that what is
 * restored recovers in moments.
 */
import type { Connection, RowDataPacket } from 'mysql2/promise';
import type { Clock } from '../../../shared/clock.js';
import { messageOf } from '../../../shared/errors.js';
import {
  APPLICATION_CHECKPOINT_WAIT_MS,
  APPLICATION_CONNECT_TIMEOUT_MS,
  APPLICATION_LOCK_MARGIN_MS,
  APPLICATION_LOCK_WAIT_MS,
} from '../../../shared/limits-quiesce.js';
import { formatDuration } from '../../../shared/units.js';
import type { MysqlSettings } from '../config.js';
import { applicationError, type Application, type ApplicationContext } from './application.js';
import { asUser, osUserOf } from './as-user.js';
import { readPassword } from './password.js';

const HINT = 'See `applications: { mysql: … }` in agent.yaml; the user needs RELOAD (and BACKUP_ADMIN in MySQL).';
const UNKNOWN_VARIABLE = 1193;
const NO_PRIVILEGE = 1227;

interface ServerFacts {
  readonly version: string;
  readonly datadir: string;
  readonly others: readonly string[];
}

/** Whether the server knows BACKUP STAGE. */
export const hasBackupStages = (version: string): boolean => {
  const match = /^(\d+)\.(\d+)\.(\d+).*mariadb/i.exec(version);
  if (match === null) return false;
  const [major = 0, minor = 0, patch = 0] = match.slice(1).map(Number);
  return major > 10 || (major === 10 && (minor > 4 || (minor === 4 && patch >= 1)));
};

export class Mysql implements Application {
  readonly kind = 'mysql';
  readonly name: string;
  readonly #settings: MysqlSettings;
  #connection: Connection | null = null;
  #facts: ServerFacts | null = null;
  #isHeld = false;

  constructor(settings: MysqlSettings) {
    this.#settings = settings;
    this.name = settings.name;
  }

  async locate(): Promise<readonly string[]> {
    await this.#connect();
    const variables = new Map<string, string>();
    const rows = await this.#rows(
      `SHOW GLOBAL VARIABLES WHERE Variable_name IN
       ('version', 'datadir', 'innodb_data_home_dir', 'innodb_log_group_home_dir', 'log_bin_basename', 'aria_log_dir_path')`,
    );
    for (const row of rows) variables.set(String(row['Variable_name']).toLowerCase(), String(row['Value']));
    const datadir = variables.get('datadir') ?? '';
    const others = ['innodb_data_home_dir', 'innodb_log_group_home_dir', 'aria_log_dir_path']
      .map((name) => variables.get(name) ?? '')
      .filter((path) => path.startsWith('/'));
    this.#facts = { version: variables.get('version') ?? '', datadir, others };
    if (this.#settings.dataDirs !== undefined) return this.#settings.dataDirs;
    const binlog = variables.get('log_bin_basename') ?? '';
    return [datadir, ...others, ...(binlog.startsWith('/') ? [binlog.slice(0, binlog.lastIndexOf('/'))] : [])];
  }

  async prepare({ heldMs, deadlineMs, clock, signal }: ApplicationContext): Promise<string> {
    const version = this.#facts?.version ?? '';
    const checkpoint = await this.#checkpoint(Math.min(APPLICATION_CHECKPOINT_WAIT_MS, deadlineMs / 4), clock, signal);
    const seconds = (ms: number): number => Math.max(1, Math.ceil(ms / 1000));
    await this.#run(`SET SESSION lock_wait_timeout = ${seconds(APPLICATION_LOCK_WAIT_MS)}`);
    // A session that holds commits back is silent until the thaw. When it stays silent beyond all limits, whoever held it was stopped.
    await this.#run(`SET SESSION wait_timeout = ${seconds(heldMs + APPLICATION_LOCK_MARGIN_MS)}`);
    if (hasBackupStages(version)) return `MariaDB ${version}: ${checkpoint}; BACKUP STAGE`;
    return `MySQL ${version}: ${checkpoint}; FLUSH TABLES WITH READ LOCK`;
  }

  /** In a session of its own, which is left when it takes too long: the point only recovers longer without it. */
  async #checkpoint(limitMs: number, clock: Clock, signal: AbortSignal): Promise<string> {
    const session = await this.#open();
    const over = new AbortController();
    try {
      const late = clock.sleep(limitMs, AbortSignal.any([signal, over.signal])).then(() => 'late' as const);
      const made = session.query('SET GLOBAL innodb_log_checkpoint_now = ON');
      // Left alone, it may fail later.
      made.catch(() => undefined);
      if ((await Promise.race([made, late])) === 'late') return `no checkpoint within ${formatDuration(limitMs)}`;
      const [row] = await this.#rows("SHOW GLOBAL STATUS LIKE 'Innodb_lsn_last_checkpoint'");
      return `checkpoint at ${String(row?.['Value'] ?? '?')}`;
    } catch (error) {
      const { errno } = error as { errno?: unknown };
      if (errno === UNKNOWN_VARIABLE) return 'no checkpoint: it takes no request for one';
      if (errno === NO_PRIVILEGE) return `no checkpoint: user ${this.#settings.user} may not ask for one (SUPER)`;
      throw applicationError(this.name, `checkpoint: ${messageOf(error)}`, HINT, error);
    } finally {
      over.abort();
      session.destroy();
    }
  }

  async hold(): Promise<string> {
    const startMs = performance.now();
    this.#isHeld = true;
    if (hasBackupStages(this.#facts?.version ?? '')) {
      for (const stage of ['START', 'FLUSH', 'BLOCK_DDL', 'BLOCK_COMMIT']) await this.#run(`BACKUP STAGE ${stage}`);
    } else {
      // Flushed while others go on: the lock then has less to do.
      await this.#run('FLUSH NO_WRITE_TO_BINLOG TABLES');
      await this.#run('FLUSH TABLES WITH READ LOCK');
    }
    // Commits that were acknowledged before they were in the log (innodb_flush_log_at_trx_commit) get there now.
    await this.#run('FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS');
    return `held after ${Math.round(performance.now() - startMs)} ms`;
  }

  async release(): Promise<boolean> {
    if (!this.#isHeld) return true;
    this.#isHeld = false;
    try {
      // Asked of the same session: only one that still stands can answer, and it held the lock until now.
      await this.#run(hasBackupStages(this.#facts?.version ?? '') ? 'BACKUP STAGE END' : 'UNLOCK TABLES');
      return true;
    } catch {
      this.close();
      return false;
    }
  }

  close(): void {
    this.#connection?.destroy();
    this.#connection = null;
  }

  async #connect(): Promise<void> {
    this.#connection = await this.#open();
  }

  async #open(): Promise<Connection> {
    const { host, socket, port, user, password } = this.#settings;
    // Loaded here alone: only a machine with this database pays for it.
    const mysql = await import('mysql2/promise');
    const open = (): Promise<Connection> =>
      mysql.createConnection({
        ...(host === undefined ? { socketPath: socket } : { host, port: port ?? 3306 }),
        user,
        ...(password === undefined ? {} : { password: readPassword(this.name, password) }),
        connectTimeout: APPLICATION_CONNECT_TIMEOUT_MS,
      });
    try {
      const connection = await asUser(this.name, osUserOf(this.#settings), open);
      // Without a listener an error of the connection would end the process; the next statement tells it.
      connection.on('error', () => undefined);
      return connection;
    } catch (error) {
      throw applicationError(this.name, `can't connect: ${messageOf(error)}`, HINT, error);
    }
  }

  async #rows(statement: string): Promise<RowDataPacket[]> {
    if (this.#connection === null) throw applicationError(this.name, 'not connected', HINT);
    const [rows] = await this.#connection.query<RowDataPacket[]>(statement);
    return rows;
  }

  async #run(statement: string): Promise<void> {
    if (this.#connection === null) throw applicationError(this.name, 'the session was lost', HINT);
    try {
      await this.#connection.query(statement);
    } catch (error) {
      throw applicationError(this.name, `${statement}: ${messageOf(error)}`, HINT, error);
    }
  }
}
