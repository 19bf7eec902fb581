import { access, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { loadCredentials, requireCredentials } from '../../agent/session/credentials.js';
import { enroll } from '../../agent/session/enroll.js';
import { openAuthority } from '../../receiver/session/ca.js';
import { isRevoked, loadIdentity } from '../../receiver/session/identity.js';
import { systemClock } from '../../shared/clock.js';
import { formatToken, parseToken } from '../../shared/wire/enroll.js';
import { parseHostPort } from '../../shared/wire/host-port.js';
import { fingerprintOf } from '../../shared/x509.js';
import { connect, nextMessage, startWorld, type World } from './fixture.js';

let world: World;
afterEach(() => world.stop());

test('a machine enrols, connects and is who it is', async () => {
  world = await startWorld();
  const credentials = await world.enrollAgent('web-1');
  expect(credentials).toMatchObject({ name: 'web-1', generation: 1, receiver: world.address });
  const identity = await loadIdentity(world.store, credentials.machine);
  expect(identity).toMatchObject({ number: 1, name: 'web-1', generation: 1, hardwareId: 'hardware-1' });
  expect(identity?.certificate).toBe(fingerprintOf(credentials.certificatePem));
  expect(identity !== null && (await isRevoked(world.store, identity))).toBe(false);

  const transport = await connect(credentials);
  const answer = nextMessage(transport);
  await transport.send(Buffer.from('hello'));
  expect((await answer).toString()).toBe('hello');
  expect(world.sessions[0]?.peer.identity).toEqual(identity);
  transport.close(1000, 'done');
  expect(await transport.closed).toEqual({ code: 1000, reason: 'done' });
});

test('credentials are stored whole, private and are read back', async () => {
  world = await startWorld();
  const stateDir = join(world.folder, 'agent');
  expect(await loadCredentials(stateDir)).toBeNull();
  await expect(requireCredentials(stateDir)).rejects.toMatchObject({ code: 'not-enrolled', exitCode: 2 });
  const options = { stateDir, name: 'db', hardwareId: 'h' };
  const first = await enroll({ ...options, token: await world.issue() });
  expect(await loadCredentials(stateDir)).toEqual(first);
  const second = await enroll({ ...options, token: await world.issue({ machine: first.machine }) });
  expect(await requireCredentials(stateDir)).toEqual(second);
  expect(second).toMatchObject({ machine: first.machine, generation: 2 });
  const folders = (await readdir(stateDir)).filter((name) => name.startsWith('credentials-'));
  expect(folders).toHaveLength(1);
  expect((await stat(join(stateDir, folders[0] ?? '', 'key.pem'))).mode & 0o777).toBe(0o600);
});

test('the secret of a token is stored nowhere', async () => {
  world = await startWorld();
  const token = await world.issue();
  const { secret } = parseToken(token);
  const folder = join(world.folder, 'receiver', 'tokens');
  const [file = ''] = await readdir(folder);
  expect(await readFile(join(folder, file), 'utf8')).not.toContain(secret);
  expect(file).not.toContain(secret);
  expect((await stat(join(folder, file))).mode & 0o777).toBe(0o600);
});

test('a token counts once, even for two at the same time', async () => {
  world = await startWorld();
  const token = await world.issue();
  const results = await Promise.allSettled([world.enrollAgent('a', token), world.enrollAgent('b', token)]);
  expect(results.map((r) => r.status).sort()).toEqual(['fulfilled', 'rejected']);
  await expect(world.enrollAgent('c', token)).rejects.toMatchObject({
    code: 'token-unknown',
    kind: 'refused',
    hint: expect.stringContaining('afterimage-receiver token') as string,
  });
});

test('an expired token is refused and says so', async () => {
  world = await startWorld();
  const token = await world.issue({ ttlMs: -1 });
  // The command that issues it removes expired ones; write one that expires before it is used.
  await expect(world.enrollAgent('late', token)).rejects.toMatchObject({ code: 'token-unknown' });
  const soon = await world.issue({ ttlMs: 30 });
  await systemClock.sleep(40);
  await expect(world.enrollAgent('late', soon)).rejects.toMatchObject({ code: 'token-expired' });
});

test('a wrong pin ends it before the secret is sent', async () => {
  world = await startWorld();
  const { address, secret } = parseToken(await world.issue());
  const token = formatToken({ address, secret, caFingerprint: 'ab'.repeat(32) });
  await expect(world.enrollAgent('pin', token)).rejects.toMatchObject({ code: 'pin-mismatch', kind: 'refused' });
  // The token is still good: it never arrived.
  const good = formatToken({ address, secret, caFingerprint: world.ca.fingerprint });
  await expect(world.enrollAgent('pin', good)).resolves.toMatchObject({ name: 'pin' });
});

test('a name that is taken is refused, and the token stays good', async () => {
  world = await startWorld();
  const { machine } = await world.enrollAgent('web-1');
  const token = await world.issue();
  await expect(world.enrollAgent('web-1', token)).rejects.toMatchObject({ code: 'name-taken' });
  await expect(world.enrollAgent('web-2', token)).resolves.toMatchObject({ generation: 1 });
  // Re-enrolment may keep or change the name, not take another machine's.
  await expect(world.enrollAgent('web-2', await world.issue({ machine }))).rejects.toMatchObject({
    code: 'name-taken',
  });
  await expect(world.enrollAgent('web-1b', await world.issue({ machine }))).resolves.toMatchObject({ machine });
});

test('a re-enrolment is above the generation that a failover gave the manifest', async () => {
  world = await startWorld({ manifestGeneration: 7 });
  const { machine } = await world.enrollAgent('web-1');
  const again = await world.enrollAgent('web-1', await world.issue({ machine }));
  expect(again.generation).toBe(8);
});

test('bad input is a usage error', async () => {
  world = await startWorld();
  for (const token of ['', 'ai1.', 'ai1.e30', 'ai2.xyz', `ai1.${Buffer.from('{"a":"x"}').toString('base64url')}`]) {
    await expect(world.enrollAgent('x', token)).rejects.toMatchObject({ kind: 'usage', exitCode: 2 });
  }
  await expect(world.enrollAgent('not a name')).rejects.toMatchObject({ kind: 'usage' });
});

test('too many refused attempts from an address have to wait', async () => {
  world = await startWorld();
  const used = await world.issue();
  await world.enrollAgent('first', used);
  const codes: string[] = [];
  for (let i = 0; i < 12; i++) {
    await world.enrollAgent('x', used).catch((error: unknown) => codes.push((error as { code: string }).code));
  }
  expect(codes.slice(0, 10).every((code) => code === 'token-unknown')).toBe(true);
  expect(codes.at(-1)).toBe('enroll-rate');
});

test('nobody there: the error says where and what to do', async () => {
  world = await startWorld();
  const token = await world.issue({ address: '127.0.0.1:1' });
  await expect(world.enrollAgent('x', token)).rejects.toMatchObject({ code: 'connect-failed', kind: 'disconnected' });
});

test('the CA is made once and kept; its key is private', async () => {
  world = await startWorld();
  const stateDir = join(world.folder, 'other');
  const [a, b] = await Promise.all([openAuthority(stateDir, systemClock), openAuthority(stateDir, systemClock)]);
  const c = await openAuthority(stateDir, systemClock);
  expect(new Set([a.fingerprint, b.fingerprint, c.fingerprint]).size).toBe(1);
  expect((await stat(join(stateDir, 'ca', 'key.pem'))).mode & 0o777).toBe(0o600);
  expect((await readdir(stateDir)).filter((name) => name.startsWith('.ca'))).toEqual([]);
  await expect(access(join(stateDir, 'ca', 'cert.pem'))).resolves.toBeUndefined();
});

test.each([
  ['host:1', { host: 'host', port: 1 }],
  ['[::1]:7443', { host: '::1', port: 7443 }],
  ['1.2.3.4:65535', { host: '1.2.3.4', port: 65535 }],
  ['host', null],
  ['host:0', null],
  ['host:65536', null],
  ['::1:7443', null],
  ['a b:1', null],
])('address %s', (text, expected) => {
  expect(parseHostPort(text)).toEqual(expected);
});
