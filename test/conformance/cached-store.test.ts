/**
 * The local cache of a store: the conformance suite through it, what it spares, and that it never gives bytes that aren't the object's.
 */
import { readdir, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { systemClock } from '../../shared/clock.js';
import { CACHE_PIECE_BYTES, CACHED_OBJECT_BYTES_MAX } from '../../shared/limits-store.js';
import { withCache } from '../../receiver/store-cache.js';
import { CachedStore } from '../../receiver/store/cached-store.js';
import { MeteredStore } from '../../receiver/store/metered-store.js';
import { RequestCounts } from '../../receiver/store/watch.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { MemoryStore } from '../helpers/memory-store.js';
import { randomOf } from '../helpers/random.js';
import { storeConformance } from './store.js';

removeTempFolders();

storeConformance('cached', {
  many: 100,
  fresh: async () => {
    const under = new MemoryStore();
    const store = await CachedStore.open(under, await tempFolder('cache'), 1 << 20);
    return { store, reopen: async () => under };
  },
});

const world = async (bytesMax = 1 << 24) => {
  const under = new MemoryStore();
  const counts = new RequestCounts();
  const folder = await tempFolder('cache');
  const store = await CachedStore.open(new MeteredStore(under, counts, systemClock), folder, bytesMax);
  return { under, counts, folder, store };
};
const random = randomOf(1);
const content = Buffer.from(Array.from({ length: 3 * CACHE_PIECE_BYTES + 100 }, () => Math.floor(random() * 256)));

describe('cached store', () => {
  it('reads what was just written without a request', async () => {
    const { store, counts, under } = await world();
    await store.createIfAbsent('a', content);
    const writer = await store.openWriter('b');
    await writer.write([content.subarray(0, 1000), content.subarray(1000)]);
    await writer.finish();
    for (const name of ['a', 'b']) {
      expect((await store.get(name, content.length))?.equals(content)).toBe(true);
      const range = await store.read(name, CACHE_PIECE_BYTES - 10, 20);
      expect(range.equals(content.subarray(CACHE_PIECE_BYTES - 10, CACHE_PIECE_BYTES + 10))).toBe(true);
    }
    expect(counts.counts).toEqual({ create: 2 });
    under.objects.set('c', content);
    await store.get('c', content.length);
    await store.get('c', content.length);
    expect(counts.counts).toEqual({ create: 2, get: 1 });
  });

  it('keeps nothing of an object that it did not create, that is too large, or that was given up', async () => {
    const { store, under, folder } = await world(1 << 26);
    under.objects.set('theirs', Buffer.from('theirs'));
    expect(await store.createIfAbsent('theirs', Buffer.from('mine'))).toBe('exists');
    expect((await store.get('theirs', 10))?.toString()).toBe('theirs');
    await store.deleteMany(['theirs']);
    await store.createIfAbsent('large', Buffer.alloc(CACHED_OBJECT_BYTES_MAX + 1));
    const writer = await store.openWriter('gone');
    await writer.write([content]);
    await writer.abort();
    expect(await readdir(folder)).toEqual([]);
  });

  it('reads from the store what is damaged, cut or gone on the local disk', async () => {
    const damage: readonly ((path: string) => Promise<void>)[] = [
      (path) => writeFile(path, Buffer.concat([content.subarray(0, -1), Buffer.from([(content.at(-1) ?? 0) ^ 1])])),
      (path) => truncate(path, 100),
      (path) => rm(path),
    ];
    for (const harm of damage) {
      const { store, counts, folder } = await world();
      await store.createIfAbsent('a', content);
      const [file = ''] = await readdir(folder);
      await harm(join(folder, file));
      const tail = await store.read('a', content.length - 50, 50);
      expect(tail.equals(content.subarray(content.length - 50))).toBe(true);
      expect((await store.get('a', content.length))?.equals(content)).toBe(true);
      expect(counts.counts).toEqual({ create: 1, read: 1, get: 1 });
    }
  });

  it('holds no more than it may, and lets go what rested longest', async () => {
    const { store, counts, folder } = await world(3000);
    for (const name of ['a', 'b', 'c']) await store.createIfAbsent(name, Buffer.alloc(1000, name));
    await store.read('a', 0, 1);
    await store.createIfAbsent('d', Buffer.alloc(1000, 'd'));
    const sizes = await Promise.all((await readdir(folder)).map(async (f) => (await stat(join(folder, f))).size));
    expect(sizes).toEqual([1000, 1000, 1000]);
    await store.read('a', 0, 1);
    expect(counts.counts.read).toBeUndefined();
    expect((await store.read('b', 0, 1)).toString()).toBe('b');
    expect(counts.counts.read).toBe(1);
  });

  it('knows nothing of what was deleted, and starts empty', async () => {
    const { store, under, folder } = await world();
    await store.createIfAbsent('a', Buffer.from('x'));
    await store.deleteMany(['a']);
    expect(await store.get('a', 10)).toBeNull();
    await store.createIfAbsent('b', Buffer.from('x'));
    expect(await readdir(folder)).toHaveLength(1);
    await CachedStore.open(under, folder, 1000);
    expect(await readdir(folder)).toEqual([]);
  });
});

describe('the receiver’s cache', () => {
  const storeCache = { enabled: true, folder: undefined, bytes: 1000 };

  it('is for buckets alone, and empties no folder but its own', async () => {
    const stateDir = await tempFolder('state');
    await writeFile(join(stateDir, 'ca-key.pem'), 'x');
    const folder = new MemoryStore();
    Object.assign(folder, { url: 'file:/srv/x' });
    expect(await withCache(folder, { stateDir, storeCache })).toBe(folder);
    const bucket = new MemoryStore();
    expect(await withCache(bucket, { stateDir, storeCache: { ...storeCache, enabled: false } })).toBe(bucket);
    for (let i = 0; i < 2; i++) {
      const store = await withCache(bucket, { stateDir, storeCache });
      expect(store).toBeInstanceOf(CachedStore);
      await store.createIfAbsent(`object-${i}`, Buffer.from('x'));
    }
    expect((await readdir(stateDir)).sort()).toEqual(['afterimage-store-cache', 'ca-key.pem']);
    expect(await readdir(join(stateDir, 'afterimage-store-cache'))).toHaveLength(1);
  });
});
