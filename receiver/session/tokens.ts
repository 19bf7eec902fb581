/**
 * One-time enrolment tokens: `<stateDir>/tokens/<id>.json`, where the id is the SHA-256 of the token's secret. The secret itself is stored nowhere.
 *
 * The folder is all that the command that issues a token and the daemon that takes it share. Taking is the removal of the file:
 * of any number of attempts one wins. A crash after the taking loses the token (a new one is issued), never honours it twice.
 */
import { randomBytes } from 'node:crypto';
import { chown, readdir, readFile, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { Clock } from '../../shared/clock.js';
import { createFileDurably, makeFolderDurably, ownerFor, syncFolder } from '../../shared/durable-file.js';
import { AfterimageError, errnoOf, messageOf } from '../../shared/errors.js';
import { TOKEN_TTL_MS } from '../../shared/limits.js';
import { isUuid, type MachineId } from '../../shared/units.js';
import { formatToken } from '../../shared/wire/enroll.js';
import { sha256Hex } from '../../shared/fingerprint.js';

const FOLDER_MODE = 0o700;
const FILE_MODE = 0o600;
const SECRET_BYTES = 32;
const NEW_TOKEN_HINT = 'Issue a new one with `afterimage-receiver token` and use it once, before it expires.';

const recordSchema = z.strictObject({
  version: z.literal(1),
  createdAtMs: z.number(),
  expiresAtMs: z.number(),
  /** The machine that is enrolled again; null for a machine of its own. */
  machine: z.custom<MachineId>((v) => typeof v === 'string' && isUuid(v)).nullable(),
});
export type TokenRecord = z.infer<typeof recordSchema>;

export interface TakenToken extends TokenRecord {
  /** For logs: tells tokens apart, and is no secret. */
  readonly id: string;
}

export interface IssueTokenOptions {
  /** host:port at which agents reach this receiver. */
  readonly address: string;
  readonly caFingerprint: string;
  /** Set: the token enrols this machine again and raises its generation. */
  readonly machine?: MachineId;
  readonly ttlMs?: number;
}

export interface IssuedToken {
  readonly text: string;
  readonly id: string;
  readonly expiresAtMs: number;
}

export class TokenStore {
  readonly #stateDir: string;
  readonly #folder: string;
  readonly #clock: Clock;

  constructor(stateDir: string, clock: Clock) {
    this.#stateDir = stateDir;
    this.#folder = join(stateDir, 'tokens');
    this.#clock = clock;
  }

  async issue(options: IssueTokenOptions): Promise<IssuedToken> {
    const secret = randomBytes(SECRET_BYTES).toString('base64url');
    const nowMs = this.#clock.nowMs();
    const expiresAtMs = nowMs + (options.ttlMs ?? TOKEN_TTL_MS);
    const id = idOf(secret);
    await this.#write(id, { version: 1, createdAtMs: nowMs, expiresAtMs, machine: options.machine ?? null });
    await this.#removeExpired(nowMs);
    const text = formatToken({ address: options.address, caFingerprint: options.caFingerprint, secret });
    return { text, id: shortId(id), expiresAtMs };
  }

  /** Takes a token out of the world, or says why it isn't good. */
  async take(secret: string): Promise<TakenToken> {
    const id = idOf(secret);
    const record = await this.#read(id);
    if (record === null || !(await this.#remove(id))) {
      throw refused('token-unknown', 'the token is not known here: it was used, or it is that of another receiver');
    }
    if (record.expiresAtMs <= this.#clock.nowMs()) throw refused('token-expired', 'the token has expired');
    return { ...record, id: shortId(id) };
  }

  /** Gives back a token whose enrolment was refused before anything was made of it. */
  async giveBack(secret: string, { version, createdAtMs, expiresAtMs, machine }: TakenToken): Promise<void> {
    await this.#write(idOf(secret), { version, createdAtMs, expiresAtMs, machine });
  }

  async #write(id: string, record: TokenRecord): Promise<void> {
    try {
      await makeFolderDurably(this.#folder, FOLDER_MODE);
      const owner = await ownerFor(this.#stateDir);
      if (owner !== undefined) await chown(this.#folder, owner.uid, owner.gid);
      await createFileDurably(this.#path(id), `${JSON.stringify(record)}\n`, { mode: FILE_MODE, owner });
    } catch (error) {
      throw folderError(this.#folder, error);
    }
  }

  async #read(id: string): Promise<TokenRecord | null> {
    try {
      return recordSchema.parse(JSON.parse(await readFile(this.#path(id), 'utf8')));
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return null;
      throw folderError(this.#folder, error);
    }
  }

  /** Whether it was us who removed it. */
  async #remove(id: string): Promise<boolean> {
    try {
      await unlink(this.#path(id));
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return false;
      throw folderError(this.#folder, error);
    }
    // Without this a power cut could bring a used token back.
    await syncFolder(this.#folder);
    return true;
  }

  async #removeExpired(nowMs: number): Promise<void> {
    for (const file of await readdir(this.#folder)) {
      const id = /^([0-9a-f]{64})\.json$/.exec(file)?.[1];
      // One damaged file must not keep new tokens from being issued.
      const record = id === undefined ? null : await this.#read(id).catch(() => null);
      if (id !== undefined && record !== null && record.expiresAtMs <= nowMs) await this.#remove(id);
    }
  }

  #path(id: string): string {
    return join(this.#folder, `${id}.json`);
  }
}

const idOf = (secret: string): string => sha256Hex(secret);
const shortId = (id: string): string => id.slice(0, 8);

const refused = (code: string, message: string): AfterimageError =>
  new AfterimageError(message, { code, kind: 'refused', hint: NEW_TOKEN_HINT });

function folderError(folder: string, error: unknown): AfterimageError {
  return new AfterimageError(`the enrolment tokens in ${folder} can't be used: ${messageOf(error)}`, {
    code: 'state-dir',
    kind: 'io',
    hint: 'Run as root or as the user of the receiver, and check the directory and its filesystem.',
    cause: error,
  });
}
