import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import type { Credentials } from '../../agent/session/credentials.js';
import { openAuthority } from '../../receiver/session/ca.js';
import { loadIdentity, revokeIdentity } from '../../receiver/session/identity.js';
import { systemClock } from '../../shared/clock.js';
import { asMachineId } from '../../shared/units.js';
import { CLOSE } from '../../shared/wire/close-codes.js';
import { RECEIVER_TLS_NAME } from '../../shared/wire/enroll.js';
import { createRequest, generateKeys, privateKeyToPem } from '../../shared/x509.js';
import { connect, refusalOf, startWorld, type World } from './fixture.js';

let world: World;
let agent: Credentials;
beforeEach(async () => {
  world = await startWorld();
  agent = await world.enrollAgent('web-1');
});
afterEach(async () => {
  // Whatever was refused never became a session.
  expect(world.sessions).toEqual([]);
  await world.stop();
});

async function foreignCredentials(machine = agent.machine): Promise<Credentials> {
  const other = await openAuthority(join(world.folder, 'other-receiver'), systemClock);
  const keys = await generateKeys();
  const certificatePem = await other.issueAgent(machine, await createRequest(keys));
  return { ...agent, certificatePem, keyPem: await privateKeyToPem(keys.privateKey) };
}

async function issuedHere(subject: string): Promise<Credentials> {
  const keys = await generateKeys();
  const certificatePem = await world.ca.issueAgent(asMachineId(subject), await createRequest(keys));
  return { ...agent, certificatePem, keyPem: await privateKeyToPem(keys.privateKey) };
}

async function expectRefused(credentials: Credentials, reason: keyof typeof CLOSE, text: RegExp): Promise<void> {
  const { closed, message } = await refusalOf(credentials);
  expect(closed.code).toBe(CLOSE[reason].code);
  expect(closed.reason).toMatch(text);
  expect(message).toMatchObject({ code: CLOSE[reason].code, hint: CLOSE[reason].hint });
  expect(message?.reason).toMatch(text);
}

test('no certificate', async () => {
  const nobody = { ...agent, certificatePem: undefined as never, keyPem: undefined as never };
  await expectRefused(nobody, 'badCertificate', /showed no certificate/);
});

test('certificate of another CA', async () => {
  await expectRefused(await foreignCredentials(), 'badCertificate', /not one of this receiver/);
});

test('certificate for a server is not one for an agent', async () => {
  const { keyPem, chainPem } = await world.ca.issueServer([]);
  await expectRefused({ ...agent, keyPem, certificatePem: chainPem }, 'badCertificate', /INVALID_PURPOSE/);
});

test('machine that is not in the store', async () => {
  await expectRefused(await issuedHere(randomUUID()), 'badCertificate', /not enrolled/);
});

test('certificate of our CA that names no machine', async () => {
  await expectRefused(await issuedHere('somebody'), 'badCertificate', /names no machine/);
});

test('certificate of our CA for a machine, but not the one of its identity', async () => {
  await expectRefused(await issuedHere(agent.machine), 'revoked', /was replaced/);
});

test('revoked, until it is enrolled again', async () => {
  const identity = await loadIdentity(world.store, agent.machine);
  if (identity === null) throw new Error('no identity');
  expect(await revokeIdentity(world.store, identity, 1)).toBe(true);
  expect(await revokeIdentity(world.store, identity, 2)).toBe(false);
  await expectRefused(agent, 'revoked', /was revoked/);
  const again = await world.enrollAgent('web-1', await world.issue({ machine: agent.machine }));
  expect(again.generation).toBe(2);
  const transport = await connect(again);
  await expect.poll(() => world.sessions.length).toBe(1);
  transport.close(1000, '');
  await transport.closed;
  world.sessions.length = 0;
});

test('the old identity after a re-enrolment', async () => {
  await world.enrollAgent('web-1', await world.issue({ machine: agent.machine }));
  await expectRefused(agent, 'revoked', /enrolled again/);
});

test('a store that cannot be read is not the fault of the agent', async () => {
  world.store.list = () => {
    throw new Error('store is down');
  };
  await expectRefused(agent, 'internal', /could not look the machine up/);
});

test("an agent's certificate does not make a receiver", async () => {
  const fake = createServer({
    key: agent.keyPem,
    cert: `${agent.certificatePem}${agent.caPem}`,
    minVersion: 'TLSv1.3',
  });
  await new Promise<void>((resolve) => fake.listen(0, '127.0.0.1', resolve));
  const receiver = `127.0.0.1:${(fake.address() as AddressInfo).port}`;
  await expect(connect({ ...agent, receiver })).rejects.toMatchObject({
    code: 'receiver-not-trusted',
    kind: 'refused',
  });
  fake.close();
});

test('another receiver is not believed', async () => {
  const other = await startWorld();
  await expect(connect({ ...agent, receiver: other.address })).rejects.toMatchObject({ code: 'receiver-not-trusted' });
  expect(other.sessions).toEqual([]);
  await other.stop();
});

test('TLS 1.2 is refused', async () => {
  const error = await new Promise<Error>((resolve, reject) => {
    const socket = connectTls({
      host: '127.0.0.1',
      port: world.server.port,
      ca: agent.caPem,
      servername: RECEIVER_TLS_NAME,
      maxVersion: 'TLSv1.2',
    });
    socket.once('secureConnect', () => reject(new Error('connected')));
    socket.once('error', resolve);
  });
  expect(error.message).toMatch(/protocol version/i);
});

test('TLS 1.3 with AES-128, and no session can be resumed', async () => {
  const options = { host: '127.0.0.1', port: world.server.port, ca: agent.caPem, servername: RECEIVER_TLS_NAME };
  let session: Buffer | undefined;
  for (let i = 0; i < 2; i++) {
    const socket = connectTls({ ...options, ...(session === undefined ? {} : { session }) });
    socket.on('session', (bytes: Buffer) => (session = bytes));
    await new Promise((resolve) => socket.once('secureConnect', resolve));
    expect(socket.getProtocol()).toBe('TLSv1.3');
    expect(socket.getCipher().name).toBe('TLS_AES_128_GCM_SHA256');
    expect(socket.isSessionReused()).toBe(false);
    // Session tickets come after the handshake.
    await systemClock.sleep(100);
    socket.destroy();
  }
});

test('other paths and methods lead nowhere', async () => {
  const options = { ca: agent.caPem, cert: agent.certificatePem, key: agent.keyPem, servername: RECEIVER_TLS_NAME };
  const status = await new Promise((resolve) => {
    const ws = new WebSocket(`wss://${world.address}/other`, options);
    ws.once('unexpected-response', (_request, response) => resolve(response.statusCode));
    ws.once('error', () => undefined);
  });
  expect(status).toBe(404);
});
