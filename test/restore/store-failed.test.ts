/** A restoring session whose hash store has failed ends, so that its disks are opened anew: no goal could be reached in it any more. */
import { expect, it } from 'vitest';
import { Restoration, type RestorationDeps } from '../../agent/restore/restoration.js';
import type { ReceiverSession } from '../../agent/session/session.js';
import { DISK_LOOK_MS } from '../../shared/limits-disks.js';
import { silentLogger } from '../../shared/log.js';

it('a hash store that had no room ends the session, and says why', async () => {
  let waits = 0;
  const store: { failure: Error | null } = { failure: null };
  // It fails while the session stands.
  const sleep = (ms: number): Promise<void> => {
    expect(ms).toBe(DISK_LOOK_MS);
    store.failure = new Error('no space left to write the hash store');
    return ++waits > 2 ? new Promise(() => undefined) : Promise.resolve();
  };
  const disks = [{ disk: { store, setState: () => undefined } }];
  const clock = { monotonicMs: () => 0, sleep };
  const deps = { disks, absent: [], clock, log: silentLogger(), status: { restoring: () => undefined } };
  const session = { ended: new Promise(() => undefined), onOrder: () => undefined, pull: { giveUp: () => undefined } };
  const restoration = new Restoration(
    deps as unknown as RestorationDeps,
    session as unknown as ReceiverSession,
    new AbortController().signal,
  );
  await expect(restoration.run(() => undefined)).rejects.toThrow('no space left to write the hash store');
});
