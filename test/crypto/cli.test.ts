/**
 * What an operator does with keys: the receiver's key file, a program that wraps keys, recovery key files, restores with and without them.
 */
import { randomBytes } from 'node:crypto';
import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { initKeys, rotateKeys } from '../../agent/keys/commands.js';
import { loadKeys } from '../../receiver/catalog/keys-io.js';
import { encryptionSchema, openKeys, type Encryption } from '../../receiver/keys/config.js';
import { addKek, FileProvider, initKekFile } from '../../receiver/keys/file-provider.js';
import { CommandProvider } from '../../receiver/keys/command-provider.js';
import { openStore } from '../../receiver/store/open.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { systemClock } from '../../shared/clock.js';
import { loadKeyFile } from '../../shared/crypto/key-file.js';
import type { KeySet } from '../../shared/crypto/keys.js';
import { runWith, type Ran } from '../cli/fixture.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { randomOf } from '../helpers/random.js';
import { differences } from '../helpers/restored.js';
import { blockBytes, GEOMETRY, MACHINE } from '../session/ingest-fixture.js';
import { KeyedAgent } from './world.js';

removeTempFolders();
let folder: string;
let store: ObjectStore;
const path = (name: string): string => join(folder, name);
beforeEach(async () => {
  folder = await tempFolder('keys');
  store = await openStore(`file:${path('store')}`, { create: true });
});

const NOBODY: NodeJS.ProcessEnv = {};
async function run(args: readonly string[], env = NOBODY): Promise<Ran> {
  return runWith(['--store', `file:${path('store')}`, ...args], { env });
}

const withConfig = async (encryption: object, args: readonly string[]): Promise<Ran> => {
  await writeFile(path('receiver.yaml'), JSON.stringify({ encryption }));
  return run(['--config', path('receiver.yaml'), ...args]);
};

/** A point of a machine whose receiver (by its configuration) or source (by its keys) encrypts. */
async function point(encryption: Partial<Encryption>, keys: KeySet | null): Promise<Map<number, Buffer>> {
  await openKeys(store, encryptionSchema.parse(encryption), { clock: systemClock });
  const random = randomOf(3);
  const agent = new KeyedAgent(store as never, keys);
  await agent.hello(agent.helloMessage());
  await agent.firstCopy(new Map([0, 1, 2, 20_000].map((n) => [n, blockBytes(random)])));
  await agent.end();
  return agent.model;
}

async function restores(args: readonly string[], model: ReadonlyMap<number, Buffer>, env = NOBODY): Promise<void> {
  const image = path(`image-${randomBytes(4).toString('hex')}`);
  const ran = await run(['restore', 'web1', '--point', 'latest', '--to', image, '--sparse', ...args], env);
  expect(ran).toMatchObject({ code: 0 });
  expect(await differences(image, GEOMETRY, model)).toEqual([]);
}

describe('a machine that the receiver encrypts', () => {
  it('is restored with the provider, with a recovery file alone, and not without', async () => {
    const provider = { file: path('kek.json') };
    await initKekFile(provider.file, randomBytes, 0);
    const model = await point({ provider }, null);
    const without = await run(['restore', 'web1', '--point', 'latest', '--to', path('none')]);
    expect(without.code).toBe(1);
    expect(without.err).toMatch(/keys? of the receiver.* is not at hand[\s\S]*--key FILE/);
    expect(await readFile(path('none')).catch(() => null)).toBeNull();
    expect((await withConfig({ provider }, ['verify', 'web1'])).out).toContain('restorable');
    const exported = await withConfig({ provider }, ['keys', 'export', 'web1', '--out', path('recovery.json')]);
    expect(exported.code).toBe(0);
    await restores(['--key', path('recovery.json')], model);
    await restores([], model, { AFTERIMAGE_KEY_FILE: path('recovery.json') });
    expect((await run(['verify', 'web1', '--key', path('recovery.json')])).out).toContain('restorable');
  });

  it('a recovery file is proven against the newest point; one that is older than a rotation, or another’s, is told apart', async () => {
    const provider = { file: path('kek.json') };
    await initKekFile(provider.file, randomBytes, 0);
    await point({ provider }, null);
    await withConfig({ provider }, ['keys', 'export', 'web1', '--out', path('recovery.json')]);
    const good = await run(['keys', 'check', 'web1', '--key', path('recovery.json'), '--all', '--json']);
    expect(JSON.parse(good.out)).toMatchObject({ point: 1, all: true, disks: [{ encryptedChunks: 2 }] });
    await initKeys(path('other.json'), null, 0);
    expect(await run(['keys', 'check', 'web1', '--key', path('other.json')])).toMatchObject({
      code: 1,
      err: expect.stringContaining('is not one of machine') as string,
    });
    expect((await withConfig({ provider }, ['keys', 'rotate', 'web1'])).code).toBe(0);
    expect(await run(['keys', 'check', 'web1', '--key', path('recovery.json')])).toMatchObject({
      code: 1,
      err: expect.stringContaining('older than the last rotation') as string,
    });
    // No verb shows a key.
    const secrets = (await loadKeyFile(path('recovery.json'))).data.map((d) => d.key.toString('base64'));
    const shown = await withConfig({ provider }, ['keys', 'show', 'web1']);
    expect(shown.out).toContain('encrypted by the receiver');
    for (const secret of secrets) expect(good.out + shown.out + shown.err).not.toContain(secret.slice(0, 12));
  });

  it('key-encryption keys are changed one by one: keys wrapped under the old one open until they are wrapped anew, and after', async () => {
    const provider = { file: path('kek.json') };
    await initKekFile(provider.file, randomBytes, 0);
    const model = await point({ provider }, null);
    const second = await addKek(provider.file, randomBytes, 1);
    expect((await withConfig({ provider }, ['verify', 'web1'])).code).toBe(0);
    expect((await withConfig({ provider }, ['keys', 'rewrap', 'web1'])).out).toContain('newest');
    expect((await loadKeys(store, MACHINE))?.receiver?.data.every((d) => d.kek === second)).toBe(true);
    expect((await withConfig({ provider }, ['keys', 'rewrap', 'web1'])).out).toContain('already');
    await withConfig({ provider }, ['keys', 'export', 'web1', '--out', path('recovery.json')]);
    await restores(['--key', path('recovery.json')], model);
  });

  it('a wrapped key of one machine or use does not open as another', async () => {
    await initKekFile(path('kek.json'), randomBytes, 0);
    const provider = new FileProvider(path('kek.json'), randomBytes);
    const wrapped = await provider.wrap(Buffer.alloc(32, 1), 'machine a');
    expect(await provider.unwrap(wrapped, 'machine a')).toEqual(Buffer.alloc(32, 1));
    await expect(provider.unwrap(wrapped, 'machine b')).rejects.toMatchObject({ code: 'key-missing' });
    await expect(provider.unwrap({ ...wrapped, kek: '00000001' }, 'machine a')).rejects.toThrow(/has no key 00000001/);
    await chmod(path('kek.json'), 0o644);
    await expect(provider.wrap(Buffer.alloc(32), 'x')).rejects.toThrow(/can be read by others/);
  });
});

describe('a machine whose source encrypts', () => {
  it('is restored with the agent’s key file, also after its rotation, and with no other', async () => {
    await initKeys(path('agent.json'), null, 0);
    const before = await loadKeyFile(path('agent.json'));
    const model = await point({}, before);
    const without = await run(['restore', 'web1', '--point', 'latest', '--to', path('none')]);
    expect(without).toMatchObject({ code: 1, err: expect.stringContaining('key file of its source') as string });
    expect((await run(['keys', 'check', 'web1', '--key', path('agent.json')])).out).toContain('opens point 1');
    await rotateKeys(path('agent.json'), 1);
    expect((await loadKeyFile(path('agent.json'))).hash).toEqual(before.hash);
    await restores(['--key', path('agent.json')], model);
    await initKeys(path('other.json'), null, 0);
    const wrong = await run([
      'restore',
      'web1',
      '--point',
      'latest',
      '--to',
      path('none'),
      '--key',
      path('other.json'),
    ]);
    expect(wrong.code).toBe(1);
    expect(await readFile(path('none')).catch(() => null)).toBeNull();
    expect((await withConfig({}, ['keys', 'rotate', 'web1'])).err).toContain('encrypted by its source');
  });
});

describe('a program that wraps keys', () => {
  const program = (body: string): CommandProvider =>
    new CommandProvider(
      ['node', '-e', `let t='';process.stdin.on('data',d=>t+=d).on('end',()=>{const q=JSON.parse(t);${body}})`],
      process.env,
    );

  it('is asked by JSON on its input, and believed by what it answers', async () => {
    const good = program(`const x=s=>Buffer.from(Buffer.from(s,'base64').map(b=>b^1)).toString('base64');
      console.log(JSON.stringify(q.operation==='wrap'?{kek:'k1',wrapped:x(q.key)}:q.operation==='unwrap'?{key:x(q.wrapped)}:{kek:'k1'}))`);
    const key = randomBytes(32);
    const wrapped = await good.wrap(key, 'c');
    expect(wrapped.kek).toBe('k1');
    expect(await good.unwrap(wrapped, 'c')).toEqual(key);
    expect(await good.currentKek()).toBe('k1');
  });

  it.each([
    ['fails', `console.error('no such key');process.exit(3)`, /exit code 3: no such key/],
    ['answers nonsense', `console.log('hello '+q.key)`, /not JSON/],
    ['answers something else', `console.log('{}')`, /lacks what was asked for/],
    ['answers too much', `console.log('x'.repeat(200000))`, /too long/],
  ])('that %s is an error without a key in it', async (_, body, message) => {
    const key = randomBytes(32);
    const error = await program(body)
      .wrap(key, 'c')
      .catch((e: unknown) => e);
    expect(String(error)).toMatch(message);
    expect(String(error)).not.toContain(key.toString('base64'));
  });
});
