/**
 * Waits for the agent to let go of its disks after the list of them was changed, for a bounded time: a disk that doesn't answer may keep what reads it for
 * as long as the kernel likes, and whoever changed the list is to hear of it. The agent goes on letting go. Owns nothing.
 */
import type { Clock } from '../shared/clock.js';
import { AfterimageError } from '../shared/errors.js';
import { DISKS_BUSY } from './client.js';

/** Throws `disks-busy` when the disks aren't closed after `limitMs`. */
export async function letGoWithin(closed: Promise<void>, limitMs: number, clock: Pick<Clock, 'sleep'>): Promise<void> {
  const over = new AbortController();
  const isLate = await Promise.race([
    closed.then(() => false),
    clock.sleep(limitMs, over.signal).then(() => true),
  ]).finally(() => over.abort());
  if (!isLate) return;
  throw new AfterimageError(
    `the agent has not let go of its disks within ${limitMs / 1000} s: one of them may not answer`,
    {
      code: DISKS_BUSY,
      kind: 'refused',
      hint: 'See `afterimage-agent status` and the kernel log. The agent takes the list of disks as it stands then, once it has let go of them, or at its next start.',
    },
  );
}
