/**
 * FileStore: the conformance suite, and what is its own: crashes, a full filesystem, clean-up, the format object.
 */
import { execFileSync, spawn } from 'node:child_process';
import { mkdir, readdir, readlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { DeleteError } from '../../receiver/store/delete-error.js';
import { DurableFolders } from '../../receiver/store/durable-folders.js';
import { FileStore } from '../../receiver/store/file-store.js';
import { openStore, pathOfFileUrl } from '../../receiver/store/open.js';
import { MIB } from '../../shared/units.js';
import { MemoryStore } from '../helpers/memory-store.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { storeConformance } from './store.js';

removeTempFolders();

storeConformance('memory', {
  fresh: async () => {
    const store = new MemoryStore();
    return { store, reopen: async () => store };
  },
});

storeConformance('file', {
  // No pages here, but a sync for each.
  many: 300,
  fresh: async () => {
    const folder = await tempFolder('store');
    return { store: await FileStore.open(folder), reopen: () => FileStore.open(folder) };
  },
});

describe('file store', () => {
  it('shows no object of a writer that was killed', { timeout: 30_000 }, async () => {
    const folder = await tempFolder('killed');
    const child = spawn(
      process.execPath,
      ['--import', './test/helpers/ts-loader.mjs', 'test/conformance/writer-child.ts', `file:${folder}`],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    await new Promise((resolve) => child.stdout.once('data', resolve));
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await ended;
    const store = await openStore(`file:${folder}`);
    const found: string[] = [];
    for await (const object of store.list('')) found.push(object.name);
    expect(found).toEqual(['copies/format', 'format']);
    expect(await readdir(join(folder, '.tmp'))).toHaveLength(1);
    expect(await store.head('layers/killed')).toBeNull();
  });

  it('removes temporary files only when they are old', async () => {
    const folder = await tempFolder('tidy');
    await FileStore.open(folder);
    const old = join(folder, '.tmp', 'old');
    await writeFile(old, 'x');
    await writeFile(join(folder, '.tmp', 'young'), 'x');
    const twoHoursAgo = Date.now() / 1000 - 7200;
    await utimes(old, twoHoursAgo, twoHoursAgo);
    await FileStore.open(folder);
    expect(await readdir(join(folder, '.tmp'))).toEqual(['young']);
  });

  it('says so when a folder stands where an object should', async () => {
    const folder = await tempFolder('folder');
    const store = await FileStore.open(folder);
    await mkdir(join(folder, 'a'));
    await expect(store.createIfAbsent('a', Buffer.from('x'))).rejects.toMatchObject({ code: 'object-name' });
    await expect(store.createIfAbsent('a/b', Buffer.from('x'))).resolves.toBe('created');
    await expect(store.createIfAbsent('a/b/c', Buffer.from('x'))).rejects.toMatchObject({ kind: 'io' });
  });

  it('makes a folder again that was removed behind its back', async () => {
    const folder = await tempFolder('removed');
    const store = await FileStore.open(folder);
    await store.createIfAbsent('a/b/c', Buffer.from('x'));
    execFileSync('rm', ['-r', join(folder, 'a')]);
    expect(await store.createIfAbsent('a/b/d', Buffer.from('y'))).toBe('created');
  });
});

describe('file store, deletion', () => {
  it('removes folders that became empty, and only those', async () => {
    const folder = await tempFolder('emptied');
    const store = await FileStore.open(folder);
    for (const name of ['a/b/c/1', 'a/b/c/2', 'a/d/1']) await store.createIfAbsent(name, Buffer.from('x'));
    await store.deleteMany(['a/b/c/1']);
    expect(await readdir(join(folder, 'a/b'))).toEqual(['c']);
    await store.deleteMany(['a/b/c/2']);
    expect(await readdir(join(folder, 'a'))).toEqual(['d']);
    await store.deleteMany(['a/d/1']);
    expect((await readdir(folder)).sort()).toEqual(['.tmp']);
  });

  it('names what it could not delete, and deletes the rest', async () => {
    const folder = await tempFolder('kept');
    const store = await FileStore.open(folder);
    await store.createIfAbsent('a/b', Buffer.from('x'));
    await store.createIfAbsent('c', Buffer.from('x'));
    const error = await store.deleteMany(['a', 'c']).then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(DeleteError);
    expect(error).toMatchObject({ code: 'delete-failed', kept: [{ name: 'a', reason: 'failed' }] });
    expect(await store.head('c')).toBeNull();
    expect(await store.head('a/b')).not.toBeNull();
  });

  it('gives the space of a deleted object back at once, though it was read a moment ago', async () => {
    const folder = await tempFolder('open');
    const store = await FileStore.open(folder);
    await store.createIfAbsent('a', Buffer.alloc(100));
    await store.read('a', 0, 100);
    const open = async (): Promise<string[]> => {
      const fds = await readdir('/proc/self/fd');
      const targets = await Promise.all(fds.map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => '')));
      return targets.filter((target) => target.startsWith(folder));
    };
    expect(await open()).toEqual([join(folder, 'a')]);
    await store.deleteMany(['a']);
    expect(await open()).toEqual([]);
  });

  it('syncs a folder that came in place of the one that it knew', async () => {
    const folder = await tempFolder('replaced');
    const folders = new DurableFolders(folder);
    await folders.ensure('a/b');
    const synced: string[] = [];
    const mocked = vi.spyOn(folders, 'forget').mockImplementation((name) => void synced.push(name));
    await folders.ensureSame('a/b');
    expect(synced).toEqual([]);
    execFileSync('rmdir', [join(folder, 'a/b')]);
    await mkdir(join(folder, 'a/b'));
    await folders.ensureSame('a/b');
    expect(synced).toEqual(['a/b']);
    mocked.mockRestore();
  });
});

describe.skipIf(process.getuid?.() !== 0)('file store on a full filesystem (root)', () => {
  const mounts: string[] = [];
  const tmpfs = async (size: string): Promise<string> => {
    const folder = await tempFolder('full');
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', folder]);
    mounts.push(folder);
    return folder;
  };
  afterEach(() => {
    for (const folder of mounts.splice(0)) execFileSync('umount', [folder]);
  });

  it('refuses new layers when little is free, still takes a manifest', async () => {
    const store = await FileStore.open(await tmpfs('32m'));
    await expect(store.openWriter('layer')).rejects.toMatchObject({ code: 'store-full', kind: 'io' });
    expect(await store.createIfAbsent('manifest', Buffer.alloc(1000))).toBe('created');
  });

  it('fails with store-full in the middle of a layer, leaves nothing and works again later', async () => {
    const folder = await tmpfs('80m');
    const store = await FileStore.open(folder);
    const writer = await store.openWriter('layer');
    const fill = async (): Promise<void> => {
      for (let i = 0; i < 100; i++) await writer.write([Buffer.alloc(MIB, 1)]);
    };
    await expect(fill()).rejects.toMatchObject({ code: 'store-full', kind: 'io' });
    await expect(writer.finish()).rejects.toMatchObject({ code: 'writer-state' });
    await writer.abort();
    expect(await readdir(join(folder, '.tmp'))).toEqual([]);
    const again = await store.openWriter('layer');
    await again.write([Buffer.alloc(MIB, 1)]);
    expect(await again.finish()).toBe('created');
  });
});

describe('opening a store', () => {
  it('knows file URLs', () => {
    expect(pathOfFileUrl('file:/a/b')).toBe('/a/b');
    expect(pathOfFileUrl('file:///a/b/')).toBe('/a/b');
    expect(pathOfFileUrl('file:/a%20b')).toBe('/a b');
    for (const bad of ['file:a', 'file:', 'file://host/a', 'file:/%zz']) expect(() => pathOfFileUrl(bad)).toThrow();
  });

  it('refuses what is not a store, and other schemes, as bad input', async () => {
    const folder = await tempFolder('open');
    for (const url of [`file:${folder}`, `file:${folder}/none`, 'gs://bucket', 'nonsense']) {
      await expect(openStore(url)).rejects.toMatchObject({ kind: 'usage', exitCode: 2 });
    }
  });

  it('checks the format', async () => {
    const folder = await tempFolder('format');
    await openStore(`file:${folder}`, { create: true });
    await openStore(`file:${folder}`);
    const write = (value: string): Promise<void> => writeFile(join(folder, 'format'), value);
    await write('{"version":2}');
    await expect(openStore(`file:${folder}`)).rejects.toMatchObject({ code: 'version-newer', kind: 'unsupported' });
    // What is ours and isn't, or isn't anything, is broken: its copy says what it was, as long as that is whole.
    const broken = ['{"version":1,"hash":"md5"}', 'not json'];
    for (const value of broken) {
      await write(value);
      await openStore(`file:${folder}`);
    }
    await writeFile(join(folder, 'copies/format'), '{}');
    await expect(openStore(`file:${folder}`)).rejects.toMatchObject({ code: 'store-format', kind: 'corrupt' });
    await write(broken[0] ?? '');
    await expect(openStore(`file:${folder}`)).rejects.toMatchObject({ code: 'store-format' });
  });
});
