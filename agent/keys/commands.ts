/**
 * `afterimage-agent keys`: makes the source's key file, adds a data key to it, shows what is in it (never a key).
 */
import { randomBytes } from 'node:crypto';
import { rename } from 'node:fs/promises';
import { loadKeyFile, writeNewSecretFile } from '../../shared/crypto/key-file.js';
import { formatKeyFile, keyCheckOf, keyIdText, newKeySet, withNewDataKey } from '../../shared/crypto/keys.js';
import { usageError } from '../../shared/errors.js';

export interface KeysShown {
  readonly path: string;
  readonly machine: string | null;
  /** Check value of the hash key. */
  readonly hashCheck: string;
  /** Oldest first; the last is in use. */
  readonly dataKeys: readonly { readonly id: string; readonly madeAt: string }[];
}

/** A new key file; an existing one is left alone. */
export async function initKeys(path: string, machine: string | null, nowMs: number): Promise<KeysShown> {
  await writeNewSecretFile(path, formatKeyFile(newKeySet('agent', machine, randomBytes, nowMs)));
  return showKeys(path);
}

/** A new data key for what is sent from now on. The file is replaced in one step and keeps the old keys: what was sent with them needs them. */
export async function rotateKeys(path: string, nowMs: number): Promise<KeysShown> {
  const set = await loadKeyFile(path);
  if (set.holder !== 'agent') throw usageError(`key file ${path} holds a receiver’s keys`);
  const next = `${path}.${randomBytes(4).toString('hex')}.new`;
  await writeNewSecretFile(next, formatKeyFile(withNewDataKey(set, randomBytes, nowMs)));
  await rename(next, path);
  return showKeys(path);
}

export async function showKeys(path: string): Promise<KeysShown> {
  const { machine, hash, data } = await loadKeyFile(path);
  return {
    path,
    machine,
    hashCheck: keyCheckOf(hash),
    dataKeys: data.map(({ id, madeAtMs }) => ({ id: keyIdText(id), madeAt: new Date(madeAtMs).toISOString() })),
  };
}

export const keysText = ({ path, machine, hashCheck, dataKeys }: KeysShown): string =>
  [
    `key file ${path}${machine === null ? '' : `, machine ${machine}`}`,
    `hash key: check ${hashCheck}`,
    ...dataKeys.map(
      ({ id, madeAt }, i) => `data key ${id}, made ${madeAt}${i === dataKeys.length - 1 ? ', in use' : ''}`,
    ),
  ].join('\n');

export const KEEP_A_COPY =
  'Keep a copy where neither this machine nor the store is: without this file nothing that it encrypts can be restored, by anybody.';
