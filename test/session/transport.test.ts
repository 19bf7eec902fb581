import { fork } from 'node:child_process';
import { afterEach, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import { connectToReceiver } from '../../agent/session/connect.js';
import { loadIdentity, revokeIdentity } from '../../receiver/session/identity.js';
import type { ReceiverTransport } from '../../receiver/session/server.js';
import { systemClock } from '../../shared/clock.js';
import {
  CHUNK_FRAME_BYTES_MAX,
  CONTROL_BYTES_MAX,
  MESSAGE_BYTES_MAX,
  SOCKET_BUFFERED_BYTES_MAX,
} from '../../shared/limits.js';
import { CLOSE } from '../../shared/wire/close-codes.js';
import { RECEIVER_TLS_NAME, SESSION_PATH } from '../../shared/wire/enroll.js';
import { DATA_HEADER_BYTES } from '../../shared/wire/messages.js';
import { closeReasonText, type WsTransport } from '../../shared/wire/ws-transport.js';
import { connect, nextMessage, startBlackHole, startWorld, type World } from './fixture.js';

const QUICK = { intervalMs: 100, timeoutMs: 400 };
const SLOW = { intervalMs: 60_000, timeoutMs: 180_000 };
const CHUNK = Buffer.alloc(256 * 1024, 7);
let world: World;
afterEach(() => world.stop());

const sessionOf = async (index = 0): Promise<ReceiverTransport> => {
  await expect.poll(() => world.sessions.length).toBeGreaterThan(index);
  const session = world.sessions[index];
  if (session === undefined) throw new Error('no session');
  return session.transport;
};

test('many messages arrive whole and in order, both ways', async () => {
  world = await startWorld();
  const transport = await connect(await world.enrollAgent('a'));
  const got: number[] = [];
  const done = new Promise<void>((resolve) => {
    transport.onMessage((bytes) => {
      got.push(bytes.readUInt32LE(0));
      expect(bytes.length).toBe(4 + (bytes.readUInt32LE(0) % 1000) * 100);
      if (got.length === 2000) resolve();
    });
  });
  // Not awaited one by one: order must not depend on that.
  await Promise.all(
    Array.from({ length: 2000 }, (_, n) => {
      const bytes = Buffer.alloc(4 + (n % 1000) * 100);
      bytes.writeUInt32LE(n, 0);
      return transport.send(bytes);
    }),
  );
  await done;
  expect(got).toEqual(Array.from({ length: 2000 }, (_, n) => n));
});

test('a message that came with the handshake is not lost', async () => {
  world = await startWorld({
    onSession: (_peer, transport) => {
      transport.onMessage(() => undefined);
      void transport.send(Buffer.from('welcome'));
    },
  });
  const transport = await connect(await world.enrollAgent('a'));
  await systemClock.sleep(50);
  expect((await nextMessage(transport)).toString()).toBe('welcome');
});

test('a receiver that stops closes with 1001', async () => {
  world = await startWorld();
  const transport = await connect(await world.enrollAgent('a'));
  transport.onMessage(() => undefined);
  await sessionOf();
  const [closed] = await Promise.all([transport.closed, world.server.stop()]);
  expect(closed).toEqual({ code: CLOSE.goingAway.code, reason: 'the receiver is stopping' });
  await expect(transport.send(Buffer.from('x'))).rejects.toMatchObject({ code: 'disconnected', kind: 'disconnected' });
});

test('both sides notice a black hole', async () => {
  world = await startWorld({ heartbeat: QUICK });
  const hole = await startBlackHole(world.address);
  const transport = await connect({ ...(await world.enrollAgent('a')), receiver: hole.address }, QUICK);
  transport.onMessage(() => undefined);
  const session = await sessionOf();
  await systemClock.sleep(900);
  let open = true;
  void transport.closed.then(() => (open = false));
  expect(open).toBe(true);
  hole.swallow();
  const silent = { code: 1006, reason: expect.stringContaining('no sign of life') as string };
  expect(await transport.closed).toEqual(silent);
  expect(await session.closed).toEqual(silent);
  await hole.stop();
});

test('a stopped process is noticed; one that goes on in time is not', async () => {
  world = await startWorld({ heartbeat: QUICK });
  const agent = await world.enrollAgent('a');
  const child = fork(new URL('./agent-process.mjs', import.meta.url), [JSON.stringify(agent)], { stdio: 'ignore' });
  const session = await sessionOf();
  await systemClock.sleep(300);
  expect(await session.probe(200)).toBe(true);
  child.kill('SIGSTOP');
  await systemClock.sleep(80);
  child.kill('SIGCONT');
  await systemClock.sleep(200);
  expect(await session.probe(200)).toBe(true);
  child.kill('SIGSTOP');
  expect(await session.probe(100)).toBe(false);
  expect(await session.closed).toMatchObject({
    code: 1006,
    reason: expect.stringContaining('no sign of life') as string,
  });
  child.kill('SIGKILL');
});

test('probe: alive, paused, dead', async () => {
  world = await startWorld({ heartbeat: SLOW });
  const hole = await startBlackHole(world.address);
  const transport = await connect({ ...(await world.enrollAgent('a')), receiver: hole.address }, SLOW);
  transport.onMessage(() => undefined);
  const session = await sessionOf();
  expect(await session.probe(1000)).toBe(true);
  session.pause();
  expect(await session.probe(100)).toBe(true);
  session.resume();
  hole.swallow();
  expect(await session.probe(100)).toBe(false);
  transport.close(1000, '');
  await hole.stop();
  await session.closed;
  expect(await session.probe(100)).toBe(false);
});

test('a slow reader bounds what the sender holds; nothing is lost', async () => {
  let receivedBytes = 0;
  world = await startWorld({
    heartbeat: QUICK,
    onSession: (_peer, transport) => {
      transport.onMessage((bytes) => {
        receivedBytes += bytes.length;
      });
      transport.pause();
    },
  });
  const transport = (await connect(await world.enrollAgent('a'), QUICK)) as WsTransport;
  transport.onMessage(() => undefined);
  const session = await sessionOf();
  const COUNT = 400;
  let sent = 0;
  let bufferedMax = 0;
  const sending = (async () => {
    const inFlight: Promise<void>[] = [];
    for (let i = 0; i < COUNT; i++) {
      inFlight.push(
        transport.send(CHUNK).then(() => {
          sent++;
        }),
      );
      bufferedMax = Math.max(bufferedMax, transport.bufferedBytes);
      if (inFlight.length >= 64) await inFlight.shift();
    }
    await Promise.all(inFlight);
  })();
  // Far longer than the heartbeat's patience: a receiver that doesn't read is not dead, and neither is its peer.
  await systemClock.sleep(1000);
  const sentWhilePaused = sent;
  expect(sentWhilePaused).toBeLessThan(100);
  expect(receivedBytes).toBeLessThan(CHUNK.length * 2);
  session.resume();
  await sending;
  await expect.poll(() => receivedBytes).toBe(COUNT * CHUNK.length);
  expect(bufferedMax).toBeLessThanOrEqual(SOCKET_BUFFERED_BYTES_MAX + CHUNK.length + 1024);
}, 20_000);

test('waiting sends are rejected when the connection ends', async () => {
  world = await startWorld({ onSession: (_peer, transport) => transport.pause() });
  const transport = await connect(await world.enrollAgent('a'));
  transport.onMessage(() => undefined);
  await sessionOf();
  const sends = Array.from({ length: 100 }, () => transport.send(CHUNK));
  const settled = Promise.allSettled(sends);
  await systemClock.sleep(100);
  transport.close(1000, 'enough');
  const results = await settled;
  expect(results.at(-1)).toMatchObject({ status: 'rejected', reason: { code: 'disconnected' } });
  expect(await transport.closed).toMatchObject({ code: 1000 });
});

test('a text message ends the session', async () => {
  world = await startWorld();
  const { receiver, caPem, certificatePem, keyPem } = await world.enrollAgent('a');
  const options = { ca: caPem, cert: certificatePem, key: keyPem, servername: RECEIVER_TLS_NAME };
  const ws = new WebSocket(`wss://${receiver}${SESSION_PATH}`, options);
  ws.once('open', () => ws.send('text'));
  const code = await new Promise((resolve) => ws.once('close', resolve));
  expect(code).toBe(CLOSE.protocol.code);
});

test('a message that is too large ends the session', async () => {
  world = await startWorld();
  const agent = await world.enrollAgent('a');
  const large = await connect(agent);
  large.onMessage(() => undefined);
  await large.send(Buffer.alloc(MESSAGE_BYTES_MAX + 1)).catch(() => undefined);
  expect((await large.closed).code).toBe(1009);
  expect(await (await sessionOf()).closed).toMatchObject({
    code: 1006,
    reason: expect.stringContaining('payload') as string,
  });
});

test('what the peer said counts more than why we hung up', async () => {
  world = await startWorld({
    onSession: (_peer, transport) => {
      transport.onMessage(() => undefined);
      transport.close(CLOSE.failedOver.code, 'failed over at point 7');
    },
  });
  const transport = await connect(await world.enrollAgent('a'));
  await systemClock.sleep(50);
  transport.close(1000, 'bye');
  expect(await transport.closed).toEqual({ code: CLOSE.failedOver.code, reason: 'failed over at point 7' });
});

test('a machine that is revoked while it is connected has to go; a store that fails decides nothing', async () => {
  world = await startWorld({ recheckMs: 30 });
  const agent = await world.enrollAgent('a');
  const transport = await connect(agent);
  const list = world.store.list.bind(world.store);
  world.store.list = () => {
    throw new Error('store is down');
  };
  const answer = nextMessage(transport);
  await systemClock.sleep(150);
  await transport.send(Buffer.from('still here'));
  expect((await answer).toString()).toBe('still here');
  world.store.list = list;
  const identity = await loadIdentity(world.store, agent.machine);
  if (identity === null) throw new Error('no identity');
  await revokeIdentity(world.store, identity, 1);
  expect(await transport.closed).toMatchObject({ code: CLOSE.revoked.code });
});

test('the largest message of each kind fits', () => {
  expect(MESSAGE_BYTES_MAX).toBeGreaterThanOrEqual(CONTROL_BYTES_MAX);
  expect(MESSAGE_BYTES_MAX).toBeGreaterThanOrEqual(CHUNK_FRAME_BYTES_MAX + DATA_HEADER_BYTES);
});

test('connecting can be cancelled and has a time limit', async () => {
  world = await startWorld();
  const agent = await world.enrollAgent('a');
  const hole = await startBlackHole(world.address);
  hole.swallow();
  const receiver = hole.address;
  const options = { clock: systemClock };
  await expect(connectToReceiver({ ...agent, receiver }, { ...options, timeoutMs: 100 })).rejects.toMatchObject({
    code: 'connect-failed',
  });
  const abort = new AbortController();
  const pending = connectToReceiver({ ...agent, receiver }, { ...options, signal: abort.signal });
  abort.abort();
  await expect(pending).rejects.toMatchObject({ kind: 'cancelled' });
  await expect(connectToReceiver(agent, { ...options, signal: abort.signal })).rejects.toMatchObject({
    kind: 'cancelled',
  });
  await hole.stop();
});

test.each([
  ['short', 'short'],
  ['x'.repeat(200), 'x'.repeat(123)],
  [`${'x'.repeat(122)}ü`, 'x'.repeat(122)],
  ['€'.repeat(100), '€'.repeat(41)],
])('a close reason fits its frame: %#', (text, expected) => {
  expect(closeReasonText(text)).toBe(expected);
});
