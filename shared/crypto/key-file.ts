/**
 * Key files on disk: for their owner alone, written durably, never over another file.
 */
import { open, readFile, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errnoOf, messageOf, usageError } from '../errors.js';
import { KEY_FILE_BYTES_MAX } from '../limits-keys.js';
import { parseKeyFile, type KeySet } from './keys.js';

/** The text of a file that holds secrets; refused when others than its owner may read it. */
export async function readSecretFile(path: string): Promise<string> {
  const found = await stat(path).catch((error: unknown) => {
    throw usageError(`key file ${path} can not be read: ${messageOf(error)}`);
  });
  if (!found.isFile() || found.size > KEY_FILE_BYTES_MAX) throw usageError(`${path} is not a key file`);
  if ((found.mode & 0o077) !== 0) {
    throw usageError(`key file ${path} can be read by others than its owner`, `Run: chmod 600 ${path}`);
  }
  return readFile(path, 'utf8').catch((error: unknown) => {
    throw usageError(`key file ${path} can not be read: ${messageOf(error)}`);
  });
}

export const loadKeyFile = async (path: string): Promise<KeySet> => parseKeyFile(await readSecretFile(path), path);

/** Writes a new file, mode 0600, durable when it resolves. An existing one is left alone: its keys may be the only ones. */
export async function writeNewSecretFile(path: string, text: string): Promise<void> {
  const file = await open(path, 'wx', 0o600).catch((error: unknown) => {
    if (errnoOf(error) === 'EEXIST') {
      throw usageError(`${path} exists already`, 'Give another name; a key file is never written over.');
    }
    throw usageError(`key file ${path} can not be written: ${messageOf(error)}`);
  });
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  const folder = await open(dirname(path), 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
