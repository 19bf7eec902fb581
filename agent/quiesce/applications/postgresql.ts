/**
 * PostgreSQL: a checkpoint, so that what is restored recovers in moments, and a labelled restore point in its log, so that the point is found again in
 * archived logs. Nothing is held back: data and log are frozen at one instant, and its own recovery makes the rest right.
 */
import { realpathSync } from 'node:fs';
import { messageOf } from '../../../shared/errors.js';
import { APPLICATION_CONNECT_TIMEOUT_MS } from '../../../shared/limits-quiesce.js';
import type { Client } from 'pg';
import type { PostgresqlSettings } from '../config.js';
import { applicationError, type Application, type ApplicationContext } from './application.js';
import { asUser, osUserOf } from './as-user.js';
import { readPassword } from './password.js';

const HINT = 'See `applications: { postgresql: … }` in agent.yaml.';
const NO_PRIVILEGE = '42501';
const ALLOW = 'GRANT pg_checkpoint, pg_read_all_settings TO …; GRANT EXECUTE ON FUNCTION pg_create_restore_point TO …';

const isForbidden = (error: unknown): boolean => (error as { code?: unknown } | undefined)?.code === NO_PRIVILEGE;

interface ServerFacts {
  readonly is_standby: boolean;
  readonly data_directory: string;
  readonly wal_level: string;
  readonly version: string;
}

export class Postgresql implements Application {
  readonly kind = 'postgresql';
  readonly name: string;
  readonly #settings: PostgresqlSettings;
  #client: Client | null = null;
  #facts: ServerFacts | null = null;
  #lost: string | null = null;

  constructor(settings: PostgresqlSettings) {
    this.#settings = settings;
    this.name = settings.name;
  }

  async locate(): Promise<readonly string[]> {
    await this.#connect();
    // Without the right to read it the setting is null here instead of an error: the configuration may say where the files lie.
    const [facts] = await this.#query<ServerFacts>(
      `SELECT pg_is_in_recovery() AS is_standby, current_setting('wal_level') AS wal_level,
              current_setting('server_version') AS version,
              (SELECT setting FROM pg_settings WHERE name = 'data_directory') AS data_directory`,
    );
    if (facts === undefined) throw applicationError(this.name, 'no answer about its settings', HINT);
    this.#facts = facts;
    if (this.#settings.dataDirs !== undefined) return this.#settings.dataDirs;
    if (facts.data_directory === null)
      throw applicationError(
        this.name,
        `user ${this.#settings.user} may not see where the data lies`,
        `Set \`dataDirs\`, or: ${ALLOW.replaceAll('…', this.#settings.user)}`,
      );
    const tablespaces = await this.#query<{ path: string }>(
      `SELECT pg_tablespace_location(oid) AS path FROM pg_tablespace WHERE pg_tablespace_location(oid) <> ''`,
    );
    return [facts.data_directory, logFolderOf(facts.data_directory), ...tablespaces.map(({ path }) => path)];
  }

  async prepare(): Promise<string> {
    await this.#query('CHECKPOINT');
    const [control] = await this.#query<{ redo_lsn: string }>('SELECT redo_lsn::text FROM pg_control_checkpoint()');
    const what = this.#facts?.is_standby === true ? 'restartpoint' : 'checkpoint';
    return `PostgreSQL ${this.#facts?.version ?? ''}: ${what} at ${control?.redo_lsn ?? '?'}`;
  }

  async hold({ label }: ApplicationContext): Promise<string> {
    if (this.#facts?.is_standby === true) return 'no restore point: a standby writes no log of its own';
    if (this.#facts?.wal_level === 'minimal') return 'no restore point: wal_level is minimal';
    try {
      // Only the end of a transaction with a number flushes the log. Local: a synchronous standby that is away must not keep a point from being made.
      await this.#query(`BEGIN`);
      await this.#query(`SET LOCAL synchronous_commit = local`);
      const [made] = await this.#query<{ lsn: string }>(
        'SELECT pg_create_restore_point($1)::text AS lsn, txid_current()',
        [label],
      );
      await this.#query('COMMIT');
      return `restore point "${label}" at ${made?.lsn ?? '?'}`;
    } catch (error) {
      if (!(error instanceof Error) || !isForbidden(error.cause)) throw error;
      await this.#query('ROLLBACK');
      return `no restore point: user ${this.#settings.user} may not make one`;
    }
  }

  release(): Promise<boolean> {
    // Nothing was held; a server that died meanwhile has nothing to do with what its files hold.
    return Promise.resolve(true);
  }

  close(): void {
    this.#client?.end().catch(() => undefined);
    this.#client = null;
  }

  async #connect(): Promise<void> {
    const { host, socket, port, user, database, password } = this.#settings;
    // Loaded here alone: only a machine with this database pays for it.
    const { default: pg } = await import('pg');
    const client = new pg.Client({
      host: host ?? socket,
      port: port ?? 5432,
      user,
      database,
      ...(password === undefined ? {} : { password: readPassword(this.name, password) }),
      connectionTimeoutMillis: APPLICATION_CONNECT_TIMEOUT_MS,
      application_name: 'afterimage',
    });
    this.#client = client;
    client.on('error', (error) => (this.#lost = messageOf(error)));
    try {
      await asUser(this.name, osUserOf(this.#settings), () => client.connect());
    } catch (error) {
      throw applicationError(this.name, `can't connect: ${messageOf(error)}`, HINT, error);
    }
  }

  async #query<T extends object>(text: string, values?: unknown[]): Promise<T[]> {
    if (this.#client === null) throw applicationError(this.name, this.#lost ?? 'not connected', HINT);
    try {
      const { rows } = await this.#client.query<T>(text, values);
      return rows;
    } catch (error) {
      const hint = isForbidden(error) ? ALLOW.replaceAll('…', this.#settings.user) : HINT;
      throw applicationError(this.name, messageOf(error), hint, error);
    }
  }
}

/** Its log may be on another disk, behind a link. */
function logFolderOf(dataDirectory: string): string {
  try {
    return realpathSync(`${dataDirectory}/pg_wal`);
  } catch {
    return dataDirectory; // not to be seen from here: the check of the data folder tells why
  }
}
