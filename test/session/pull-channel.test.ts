/**
 * What a restoring agent asks for: nothing is asked any more for a goal that was given up, and nobody waits for its answer.
 */
import { expect, test } from 'vitest';
import { PullChannel } from '../../agent/session/pull-channel.js';
import { RESTORE_REQUEST_BYTES, RESTORE_WINDOW_BYTES } from '../../shared/limits.js';
import { asDiskId } from '../../shared/units.js';
import type { AgentMessage } from '../../shared/wire/messages.js';

const DISK = asDiskId('disk-1');
const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test('a goal that is given up leaves no request behind, neither one that waits for the window nor one that comes late', async () => {
  const said: AgentMessage[] = [];
  const channel = new PullChannel((message) => {
    said.push(message);
    return Promise.resolve();
  });
  const ask = (point: number): Promise<void> =>
    channel.blocks(DISK, point, 0, new Uint8Array(8), RESTORE_REQUEST_BYTES, () => Promise.resolve());
  const fits = RESTORE_WINDOW_BYTES / RESTORE_REQUEST_BYTES;
  const asked = Array.from({ length: fits + 6 }, () => ask(1));
  const ends = Promise.allSettled(asked);
  await settle();
  expect(said).toHaveLength(fits);
  channel.giveUp(new Error('superseded'));
  const late = channel.changedSegments(DISK, 1, { point: 0, digest: '0'.repeat(16) });
  await expect(late).rejects.toThrow('superseded');
  // The receiver has another goal by now and answers none of these.
  expect((await ends).map((end) => end.status)).toEqual(asked.map(() => 'rejected'));
  expect(said).toHaveLength(fits);

  channel.begin();
  const next = ask(2);
  await settle();
  expect(said.at(-1)).toMatchObject({ type: 'blocks-request', point: 2 });
  channel.answered({ type: 'blocks-end', request: fits + 1 });
  await next;
});
