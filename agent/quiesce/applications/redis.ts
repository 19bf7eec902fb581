/**
 * Redis (and Valkey): a save in the background, awaited. What it had in memory when the save began is in the point, in one file that its start reads; what
 * came after is there only if it writes an append-only file.
 */
import { messageOf } from '../../../shared/errors.js';
import { APPLICATION_CONNECT_TIMEOUT_MS, APPLICATION_POLL_MS } from '../../../shared/limits-quiesce.js';
import type { RedisSettings } from '../config.js';
import { applicationError, type Application, type ApplicationContext } from './application.js';
import { readPassword } from './password.js';
import { RespClient } from './resp.js';

const HINT = 'See `applications: { redis: … }` in agent.yaml.';

/** A save that was asked for and has not begun within this, while nothing stands in its way, has failed. */
const SAVE_BEGINS_MS = 2_000;

const secondOf = (time: unknown): unknown => (Array.isArray(time) ? time[0] : null);

/** The lines `key:value` of INFO. Pure. */
export function infoOf(text: string): ReadonlyMap<string, string> {
  return new Map(
    text.split('\r\n').flatMap((line) => {
      const at = line.indexOf(':');
      return at > 0 ? [[line.slice(0, at), line.slice(at + 1)] as const] : [];
    }),
  );
}

export class Redis implements Application {
  readonly kind = 'redis';
  readonly name: string;
  readonly #settings: RedisSettings;
  #client: RespClient | null = null;

  constructor(settings: RedisSettings) {
    this.#settings = settings;
    this.name = settings.name;
  }

  async locate(): Promise<readonly string[]> {
    const { socket, host, port, user, password, dataDirs } = this.#settings;
    try {
      const where = socket === undefined ? { host, port } : { path: socket };
      this.#client = await RespClient.open(where, APPLICATION_CONNECT_TIMEOUT_MS);
    } catch (error) {
      throw applicationError(this.name, `can't connect: ${messageOf(error)}`, HINT, error);
    }
    if (password !== undefined) {
      const secret = readPassword(this.name, password);
      await this.#command('AUTH', ...(user === undefined ? [] : [user]), secret);
    }
    if (dataDirs !== undefined) return dataDirs;
    const answer = await this.#command('CONFIG', 'GET', 'dir');
    const dir = Array.isArray(answer) ? answer[1] : null;
    if (typeof dir !== 'string')
      throw applicationError(this.name, 'it does not tell where its files lie', 'Set `dataDirs`.');
    return [dir];
  }

  async prepare({ clock, signal }: ApplicationContext): Promise<string> {
    const version = (await this.#info('server')).get('redis_version') ?? '';
    // One that is under way began before: what was written since isn't in it.
    while ((await this.#info('persistence')).get('rdb_bgsave_in_progress') === '1') await this.#pause(clock, signal);
    const before = await this.#command('LASTSAVE');
    // The time of a save is told in seconds: ours must fall into a later one to be told apart.
    while (secondOf(await this.#command('TIME')) === before) await this.#pause(clock, signal);
    const startMs = clock.monotonicMs();
    // SCHEDULE: while the append-only file is being rewritten, the save waits for its end.
    await this.#command('BGSAVE', 'SCHEDULE');
    let idleSinceMs: number | null = null;
    while ((await this.#command('LASTSAVE')) === before) {
      const info = await this.#info('persistence');
      const isBusy = info.get('rdb_bgsave_in_progress') === '1' || info.get('aof_rewrite_in_progress') === '1';
      if (isBusy) idleSinceMs = null;
      else idleSinceMs ??= clock.monotonicMs();
      if (idleSinceMs !== null && clock.monotonicMs() - idleSinceMs > SAVE_BEGINS_MS)
        throw applicationError(this.name, 'its save failed', "See the server's log: memory or space is missing.");
      await this.#pause(clock, signal);
    }
    return `Redis ${version}: saved in ${Math.round(clock.monotonicMs() - startMs)} ms`;
  }

  hold(): Promise<string> {
    return Promise.resolve('');
  }

  release(): Promise<boolean> {
    return Promise.resolve(true);
  }

  close(): void {
    this.#client?.close();
    this.#client = null;
  }

  async #pause(clock: ApplicationContext['clock'], signal: AbortSignal): Promise<void> {
    await clock.sleep(APPLICATION_POLL_MS, signal);
    if (signal.aborted) throw applicationError(this.name, 'its save was not done in time', HINT);
  }

  async #info(section: string): Promise<ReadonlyMap<string, string>> {
    const text = await this.#command('INFO', section);
    return infoOf(typeof text === 'string' ? text : '');
  }

  async #command(...words: readonly string[]): Promise<Awaited<ReturnType<RespClient['command']>>> {
    if (this.#client === null) throw applicationError(this.name, 'not connected', HINT);
    try {
      return await this.#client.command(...words);
    } catch (error) {
      // The words of AUTH are secrets.
      throw applicationError(this.name, `${words[0] ?? ''}: ${messageOf(error)}`, HINT, error);
    }
  }
}
