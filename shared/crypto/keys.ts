/**
 * A machine's keys: data keys (chunks and indexes) and one hash key, and the file that holds them: the agent's own key file, and the recovery file
 * that an operator exports. Key bytes are never in a name, an error or a log; a key is spoken of by its id, eight hex digits that follow from it.
 */
import { createHmac } from 'node:crypto';
import { AfterimageError, usageError } from '../errors.js';
import { z } from 'zod';
import { KEY_BYTES } from './xaes.js';

/** Who encrypts: the source before anything leaves it, or the receiver before anything is stored. */
export type KeyHolder = 'agent' | 'receiver';

export interface DataKey {
  readonly id: number;
  readonly key: Buffer;
  readonly madeAtMs: number;
}

export interface KeySet {
  readonly holder: KeyHolder;
  /** Null: an agent's, made before it was enrolled. */
  readonly machine: string | null;
  /** The source's: of block hashes. The receiver's: of digests in the manifest. */
  readonly hash: Buffer;
  /** Oldest first; new chunks are encrypted with the last. */
  readonly data: readonly DataKey[];
}

const derive = (key: Buffer, what: string): Buffer => createHmac('sha256', key).update(`afterimage ${what}`).digest();

/** A number that names a key; never 0. */
export const keyIdOf = (key: Buffer): number => derive(key, 'key id').readUInt32LE(0) || 1;
/** Tells a wrong key from the right one, and nothing else. */
export const keyCheckOf = (key: Buffer): string => derive(key, 'key check').toString('hex', 0, 8);
export const keyIdText = (id: number): string => id.toString(16).padStart(8, '0');

export type RandomBytes = (length: number) => Buffer;

/** A data key whose id is none of `taken`. */
export function newDataKey(randomBytes: RandomBytes, nowMs: number, taken: readonly DataKey[] = []): DataKey {
  for (;;) {
    const key = randomBytes(KEY_BYTES);
    const id = keyIdOf(key);
    if (!taken.some((k) => k.id === id)) return { id, key, madeAtMs: nowMs };
  }
}

export const newKeySet = (
  holder: KeyHolder,
  machine: string | null,
  randomBytes: RandomBytes,
  nowMs: number,
): KeySet => ({ holder, machine, hash: randomBytes(KEY_BYTES), data: [newDataKey(randomBytes, nowMs)] });

export const withNewDataKey = (set: KeySet, randomBytes: RandomBytes, nowMs: number): KeySet => ({
  ...set,
  data: [...set.data, newDataKey(randomBytes, nowMs, set.data)],
});

/** Overwrites what is in memory, as far as that is ours. */
export function wipe(set: KeySet): void {
  set.hash.fill(0);
  for (const { key } of set.data) key.fill(0);
}

const keyText = z
  .string()
  .regex(/^[A-Za-z0-9+/]{43}=$/)
  .transform((text) => Buffer.from(text, 'base64'));
const fileSchema = z.strictObject({
  format: z.literal('afterimage-keys'),
  version: z.literal(1),
  holder: z.enum(['agent', 'receiver']),
  machine: z.uuid().nullable(),
  hash: keyText,
  data: z.array(z.strictObject({ key: keyText, check: z.string(), madeAt: z.string() })).min(1),
  /** Over all keys: a line that was lost or mistyped. */
  check: z.string(),
});

const allOf = (set: Pick<KeySet, 'hash' | 'data'>): string =>
  keyCheckOf(Buffer.concat([set.hash, ...set.data.map((d) => d.key)]));

/** The text of a key file. Whoever reads it reads the machine's disks. */
export function formatKeyFile(set: KeySet): string {
  const file = {
    format: 'afterimage-keys',
    version: 1,
    holder: set.holder,
    machine: set.machine,
    hash: set.hash.toString('base64'),
    data: set.data.map(({ key, madeAtMs }) => ({
      key: key.toString('base64'),
      check: keyCheckOf(key),
      madeAt: new Date(madeAtMs).toISOString(),
    })),
    check: allOf(set),
  };
  return `${JSON.stringify(file, null, 2)}\n`;
}

/** Reads the text of a key file. Errors name the file, never its content. */
export function parseKeyFile(text: string, path: string): KeySet {
  const bad = (what: string): AfterimageError =>
    usageError(`key file ${path} ${what}`, 'Give the file that `keys init` or `keys export` wrote, unchanged.');
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw bad('is not JSON');
  }
  const parsed = fileSchema.safeParse(json);
  // Not zod's own text: it may quote what it found.
  if (!parsed.success) throw bad(`is not valid: see ${parsed.error.issues[0]?.path.join('.') ?? 'its beginning'}`);
  const { holder, machine, hash, check } = parsed.data;
  const data = parsed.data.data.map(({ key, madeAt }) => ({
    id: keyIdOf(key),
    key,
    madeAtMs: Number.isNaN(Date.parse(madeAt)) ? 0 : Date.parse(madeAt),
  }));
  const set = { holder, machine, hash, data };
  if (allOf(set) !== check || parsed.data.data.some((d) => d.check !== keyCheckOf(d.key))) {
    throw bad('does not match its check: it is damaged or was changed');
  }
  return set;
}
