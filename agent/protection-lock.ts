/**
 * One at a time changes the list of protected disks: the daemon, which follows rules, and commands of operators are processes of their own.
 * Owns `<stateDir>/disks.lock`, an empty file that stays. The kernel ends the lock with its process, so a crash holds up nobody; readers need none,
 * since the list is replaced whole.
 */
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../shared/clock.js';
import { makeFolderDurably } from '../shared/durable-file.js';
import { AfterimageError, messageOf } from '../shared/errors.js';
import { PROTECTION_LOCK_POLL_MS, PROTECTION_LOCK_WAIT_MS } from '../shared/limits-disks.js';
import { tryLock } from '../shared/native/libc.js';

/** What `change` reads of the list is still so when it writes it. */
export async function whileLocked<T>(stateDir: string, change: () => Promise<T>): Promise<T> {
  const path = join(stateDir, 'disks.lock');
  const file = await makeFolderDurably(stateDir, 0o700)
    .then(() => open(path, 'a', 0o600))
    .catch((error: unknown) => {
      const hint = 'Run as root.';
      throw new AfterimageError(`${path} can't be opened: ${messageOf(error)}`, {
        code: 'state-dir',
        kind: 'io',
        hint,
      });
    });
  try {
    const endMs = systemClock.monotonicMs() + PROTECTION_LOCK_WAIT_MS;
    while (!tryLock(file.fd)) {
      if (systemClock.monotonicMs() > endMs)
        throw new AfterimageError('the list of protected disks is being changed by another process', {
          code: 'protection-locked',
          kind: 'refused',
          hint: `Nothing was changed. \`fuser ${path}\` shows which process it is; try again when it has ended.`,
        });
      await systemClock.sleep(PROTECTION_LOCK_POLL_MS);
    }
    return await change();
  } finally {
    await file.close();
  }
}
