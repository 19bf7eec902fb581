/**
 * Who this receiver is, to others on the same store: a UUID made at its first start, kept in its state folder. A receiver on another host must not
 * have a copy of it: the two would take each other's machines for their own.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createFileDurably, makeFolderDurably } from '../../shared/durable-file.js';
import { AfterimageError, errnoOf } from '../../shared/errors.js';
import { isUuid } from '../../shared/units.js';

const FILE_MODE = 0o640;
const FOLDER_MODE = 0o750;

export async function receiverId(stateDir: string, randomId: () => string): Promise<string> {
  const path = join(stateDir, 'receiver-id');
  await makeFolderDurably(stateDir, FOLDER_MODE);
  for (;;) {
    try {
      const id = (await readFile(path, 'utf8')).trim();
      if (isUuid(id)) return id;
      throw new AfterimageError(`${path} does not hold a UUID`, {
        code: 'receiver-id',
        kind: 'usage',
        hint: 'Bring it back from a copy; or, if this receiver runs no copy of a machine, remove it.',
      });
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error;
    }
    await createFileDurably(path, `${randomId()}\n`, { mode: FILE_MODE });
  }
}
