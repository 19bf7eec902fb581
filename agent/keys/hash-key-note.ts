/**
 * Remembers under which key the hashes of a disk's hash store were made: a store of other hashes is of no use, and what a sweep has staged with them
 * must not be mixed with what follows. It is thrown away then; the receiver says what to do (a comparison from end to end).
 * On a crash between throwing it away and noting the new key: it is thrown away once more.
 */
import { readFile, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { makeFolderDurably, replaceFileDurably } from '../../shared/durable-file.js';
import { errnoOf } from '../../shared/errors.js';

/** `folder`: that of the hash store; the note stands beside it. Returns whether the store was thrown away. */
export async function agreeOnHashKey(folder: string, hashCheck: string): Promise<boolean> {
  const note = `${folder}.hash-key`;
  const noted = await readFile(note, 'utf8').catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') return '';
    throw error;
  });
  if (noted.trim() === hashCheck) return false;
  await rm(folder, { recursive: true, force: true });
  await makeFolderDurably(dirname(folder), 0o700);
  await replaceFileDurably(note, `${hashCheck}\n`, { mode: 0o600 });
  return true;
}
