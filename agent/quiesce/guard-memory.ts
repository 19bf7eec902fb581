/**
 * Locked memory of the guard, for the moments of a freeze only.
 *
 * V8 gives pages back to the kernel in a way that fails on locked memory, and ends the process then. So garbage is collected just before the
 * lock, hardly anything is allocated under it, and the lock is taken off before the process goes on or ends.
 */
import koffi from 'koffi';
import { writeFileSync } from 'node:fs';
import { lockMemory } from '../../shared/native/libc.js';

const libc = koffi.load(null);
const munlockall = libc.func('int munlockall()') as unknown as () => number;

/** Returns false when this process may not lock memory (no CAP_IPC_LOCK). */
export function lockForFreeze(): boolean {
  globalThis.gc?.();
  return lockMemory();
}

export const unlock = (): void => void munlockall();

/** The kernel's out-of-memory killer passes by the process that alone can thaw. */
export function avoidOutOfMemoryKiller(): void {
  try {
    writeFileSync('/proc/self/oom_score_adj', '-1000');
  } catch {
    // Needs CAP_SYS_RESOURCE; without it the guard is as likely to be chosen as any small process.
  }
}
