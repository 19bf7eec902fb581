/**
 * Key-encryption keys in a file on this host (mode 0600): `afterimage-receiver keys init` makes it, `keys add` puts a new key at its end, `afterimage keys
 * rewrap` moves machines to that one. Keys in the file are never taken out by us: what is still wrapped under an old one would be lost.
 * The file is read at each use, so that a key that was added counts at once, and no key stays in memory longer than needed.
 */
import { createCipheriv, createDecipheriv } from 'node:crypto';
import { rename } from 'node:fs/promises';
import { z } from 'zod';
import { readSecretFile, writeNewSecretFile } from '../../shared/crypto/key-file.js';
import { keyCheckOf, keyIdOf, keyIdText, type RandomBytes } from '../../shared/crypto/keys.js';
import { KEY_BYTES, TAG_BYTES } from '../../shared/crypto/xaes.js';
import { AfterimageError, usageError } from '../../shared/errors.js';
import type { KeyProvider, Wrapped } from './provider.js';

const NONCE_BYTES = 12;

const fileSchema = z.strictObject({
  format: z.literal('afterimage-key-encryption-keys'),
  version: z.literal(1),
  /** Oldest first; the last wraps. */
  keys: z
    .array(z.strictObject({ key: z.string().regex(/^[A-Za-z0-9+/]{43}=$/), check: z.string(), madeAt: z.string() }))
    .min(1),
});
type KekFile = z.infer<typeof fileSchema>;

const newKek = (randomBytes: RandomBytes, nowMs: number): KekFile['keys'][number] => {
  const key = randomBytes(KEY_BYTES);
  return { key: key.toString('base64'), check: keyCheckOf(key), madeAt: new Date(nowMs).toISOString() };
};

const format = (keys: KekFile['keys']): string =>
  `${JSON.stringify({ format: 'afterimage-key-encryption-keys', version: 1, keys }, null, 2)}\n`;

/** Makes the file; returns the id of its key. An existing file is left alone. */
export async function initKekFile(path: string, randomBytes: RandomBytes, nowMs: number): Promise<string> {
  const kek = newKek(randomBytes, nowMs);
  await writeNewSecretFile(path, format([kek]));
  return keyIdText(keyIdOf(Buffer.from(kek.key, 'base64')));
}

/** Adds a key, which wraps from now on; returns its id. The old file is replaced in one step. */
export async function addKek(path: string, randomBytes: RandomBytes, nowMs: number): Promise<string> {
  const { keys } = parse(await readSecretFile(path), path);
  const kek = newKek(randomBytes, nowMs);
  const next = `${path}.${randomBytes(4).toString('hex')}.new`;
  await writeNewSecretFile(next, format([...keys, kek]));
  await rename(next, path);
  return keyIdText(keyIdOf(Buffer.from(kek.key, 'base64')));
}

function parse(text: string, path: string): KekFile {
  const bad = (what: string): AfterimageError =>
    usageError(`key file ${path} ${what}`, 'Give the file that `afterimage-receiver keys init` made.');
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw bad('is not JSON');
  }
  const parsed = fileSchema.safeParse(json);
  // Not zod's own text: it may quote what it found.
  if (!parsed.success) throw bad(`is not valid: see ${parsed.error.issues[0]?.path.join('.') ?? 'its beginning'}`);
  if (parsed.data.keys.some((k) => keyCheckOf(Buffer.from(k.key, 'base64')) !== k.check)) throw bad('is damaged');
  return parsed.data;
}

export class FileProvider implements KeyProvider {
  readonly name: string;
  readonly #path: string;
  readonly #randomBytes: RandomBytes;

  constructor(path: string, randomBytes: RandomBytes) {
    this.#path = path;
    this.#randomBytes = randomBytes;
    this.name = `file:${path}`;
  }

  async currentKek(): Promise<string | null> {
    return this.#with((keks) => keyIdText(keyIdOf(keks[keks.length - 1] as Buffer)));
  }

  async wrap(key: Buffer, context: string): Promise<Wrapped> {
    return this.#with((keks) => {
      const kek = keks[keks.length - 1] as Buffer;
      const nonce = this.#randomBytes(NONCE_BYTES);
      const cipher = createCipheriv('aes-256-gcm', kek, nonce).setAAD(Buffer.from(context));
      const sealed = Buffer.concat([nonce, cipher.update(key), cipher.final(), cipher.getAuthTag()]);
      return { kek: keyIdText(keyIdOf(kek)), wrapped: sealed.toString('base64') };
    });
  }

  async unwrap({ kek, wrapped }: Wrapped, context: string): Promise<Buffer> {
    return this.#with((keks) => {
      const key = keks.find((k) => keyIdText(keyIdOf(k)) === kek);
      if (key === undefined) {
        throw refused(
          `key file ${this.#path} has no key ${kek}`,
          'Bring back the file that has it, or use a recovery key file (--key FILE).',
        );
      }
      const bytes = Buffer.from(wrapped, 'base64');
      try {
        const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, NONCE_BYTES));
        decipher.setAAD(Buffer.from(context)).setAuthTag(bytes.subarray(bytes.length - TAG_BYTES));
        return Buffer.concat([
          decipher.update(bytes.subarray(NONCE_BYTES, bytes.length - TAG_BYTES)),
          decipher.final(),
        ]);
      } catch {
        throw refused(`a key of ${context} does not open with key ${kek}`, 'The keys object was changed or moved.');
      }
    });
  }

  /** Hands out the keys and forgets them. */
  async #with<T>(use: (keks: readonly Buffer[]) => T): Promise<T> {
    const { keys } = parse(await readSecretFile(this.#path), this.#path);
    const keks = keys.map((k) => Buffer.from(k.key, 'base64'));
    try {
      return use(keks);
    } finally {
      for (const kek of keks) kek.fill(0);
    }
  }
}

const refused = (message: string, hint: string): AfterimageError =>
  new AfterimageError(message, { code: 'key-missing', kind: 'refused', hint });
