/**
 * The end of a session while something is being sent: whoever sends hears of it, and nothing else fails unheard. An unhandled rejection would end
 * the agent's process.
 */
import { afterEach, beforeEach, expect, it } from 'vitest';
import { ReceiverSession, SessionEnded } from '../../agent/session/session.js';
import { systemClock } from '../../shared/clock.js';
import { silentLogger } from '../../shared/log.js';
import { asDiskId } from '../../shared/units.js';
import type { Transport, TransportClosed } from '../../shared/wire/transport.js';
import { helloOf } from './ingest-fixture.js';

const unheard: unknown[] = [];
const onUnheard = (error: unknown): void => void unheard.push(error);

beforeEach(() => {
  unheard.length = 0;
  process.on('unhandledRejection', onUnheard);
});
afterEach(() => {
  process.off('unhandledRejection', onUnheard);
});

/** A connection that ends while a message is in the socket: the send fails, then the end is told. */
class EndingTransport implements Transport {
  #end: (closed: TransportClosed) => void = () => undefined;
  readonly closed = new Promise<TransportClosed>((resolve) => (this.#end = resolve));

  send(): Promise<void> {
    this.#end({ code: 1006, reason: 'the connection was lost' });
    return Promise.reject(new Error('closed'));
  }

  onMessage(): void {
    // Nothing ever comes.
  }

  close(): void {
    // It has ended already.
  }
}

const open = (): ReceiverSession =>
  new ReceiverSession(new EndingTransport(), { take: () => Promise.resolve() }, silentLogger(), systemClock);

const stats = { passes: 1, cutMs: 0, freezeMs: 0, changedBytes: 0 };
const commit = { cycle: 'c', cutAtMs: 1, consistency: 'crash', reason: '', disks: [], stats } as const;

it.each([
  ['hello', (session: ReceiverSession) => session.hello(helloOf())],
  ['commit', (session: ReceiverSession) => session.commit({ ...commit, disks: [] }, () => undefined)],
  ['hashes', (session: ReceiverSession) => session.requestHashes(asDiskId('disk0'), 0)],
])('a %s that could not be sent fails where it was asked for, once', async (_, ask) => {
  const session = open();
  await expect(ask(session)).rejects.toThrow('closed');
  expect(await session.ended).toBeInstanceOf(SessionEnded);
  await new Promise((resolve) => setImmediate(resolve));
  expect(unheard).toEqual([]);
});
