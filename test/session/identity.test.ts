/** Who is let in, asked again and again while the store changes. Proven to be able to fail: newer identities and revocations not looked for, or their copies. */
import { beforeEach, expect, it } from 'vitest';
import { revokedName } from '../../receiver/catalog/names.js';
import { authenticator, createIdentity, revokeIdentity, type Authenticate } from '../../receiver/session/identity.js';
import { MemoryStore } from '../helpers/memory-store.js';
import { IDENTITY, MACHINE } from './ingest-fixture.js';

let store: MemoryStore;
let ask: Authenticate;

beforeEach(async () => {
  store = new MemoryStore();
  ask = authenticator(store);
  await createIdentity(store, IDENTITY);
  expect(await ask(MACHINE, IDENTITY.certificate)).toEqual({ identity: IDENTITY });
});

it('goes on to be let in, also when its identity is damaged', async () => {
  expect(await ask(MACHINE, IDENTITY.certificate)).toEqual({ identity: IDENTITY });
  for (const name of store.objects.keys()) if (!name.includes('/copies/')) store.objects.set(name, Buffer.from('x'));
  expect(await ask(MACHINE, IDENTITY.certificate)).toEqual({ identity: IDENTITY });
  expect(await authenticator(store)(MACHINE, IDENTITY.certificate)).toEqual({ identity: IDENTITY });
});

it('is refused once it is revoked, also when the revocation is lost later', async () => {
  await revokeIdentity(store, IDENTITY, 1);
  expect(await ask(MACHINE, IDENTITY.certificate)).toMatchObject({
    reason: expect.stringContaining('was revoked') as string,
  });
  store.objects.delete(revokedName(MACHINE, IDENTITY.number));
  expect(await ask(MACHINE, IDENTITY.certificate)).toMatchObject({
    reason: expect.stringContaining('was revoked') as string,
  });
});

it('is refused once another identity took its place', async () => {
  const next = { ...IDENTITY, number: IDENTITY.number + 1, certificate: 'b'.repeat(64) };
  await createIdentity(store, next);
  expect(await ask(MACHINE, IDENTITY.certificate)).toMatchObject({
    reason: expect.stringContaining('enrolled again') as string,
  });
  expect(await ask(MACHINE, next.certificate)).toEqual({ identity: next });
});
