/**
 * What every backend of the object store must do, as tests that can be run against any of them.
 */
import { describe, expect, it } from 'vitest';
import { AfterimageError } from '../../shared/errors.js';
import type { ObjectStore } from '../../receiver/store/store.js';

export interface StoreUnderTest {
  /** Opens a fresh, empty place. */
  readonly fresh: () => Promise<{
    readonly store: ObjectStore;
    /** Another store object on the same place, as another process would have. */
    readonly reopen: () => Promise<ObjectStore>;
  }>;
  /** Objects that are deleted at once: more than one page of a listing and one request of deletions hold, where the backend has such. */
  readonly many?: number;
}

/** Some at a time. */
async function inParallel<T>(items: readonly T[], work: (item: T) => Promise<unknown>): Promise<void> {
  const rest = [...items];
  const worker = async (): Promise<void> => {
    for (let item = rest.shift(); item !== undefined; item = rest.shift()) await work(item);
  };
  await Promise.all(Array.from({ length: 16 }, worker));
}

const names = async (store: ObjectStore, prefix = '', after?: string): Promise<string[]> => {
  const found: string[] = [];
  for await (const object of store.list(prefix, after === undefined ? {} : { after })) found.push(object.name);
  return found;
};

const caught = async (promise: Promise<unknown>): Promise<AfterimageError> => {
  try {
    await promise;
  } catch (error) {
    if (error instanceof AfterimageError) return error;
    throw error;
  }
  throw new Error('no error was thrown');
};

const text = (value: string): Buffer => Buffer.from(value, 'utf8');

export function storeConformance(name: string, under: StoreUnderTest): void {
  describe(`object store ${name}: create if absent`, () => {
    it('creates once, then says that it exists and keeps the first bytes', async () => {
      const { store, reopen } = await under.fresh();
      expect(await store.createIfAbsent('a/b', text('one'))).toBe('created');
      expect(await store.createIfAbsent('a/b', text('two'))).toBe('exists');
      expect(await (await reopen()).get('a/b', 100)).toEqual(text('one'));
    });

    it('lets exactly one of eight at once win', async () => {
      const { store, reopen } = await under.fresh();
      const others = [store, await reopen()];
      for (let round = 0; round < 5; round++) {
        const tries = Array.from({ length: 8 }, (_, i) =>
          (others[i % 2] ?? store).createIfAbsent(`race/new-${round}/${round}`, text(`writer ${i}`)),
        );
        const results = await Promise.all(tries);
        expect(results.filter((r) => r === 'created')).toHaveLength(1);
        const bytes = await store.get(`race/new-${round}/${round}`, 100);
        expect(bytes?.toString()).toBe(`writer ${results.indexOf('created')}`);
      }
    });

    it('takes empty objects', async () => {
      const { store } = await under.fresh();
      expect(await store.createIfAbsent('empty', Buffer.alloc(0))).toBe('created');
      expect(await store.head('empty')).toEqual({ name: 'empty', sizeBytes: 0 });
      expect(await store.get('empty', 0)).toEqual(Buffer.alloc(0));
    });
  });

  describe(`object store ${name}: writer`, () => {
    it('shows nothing before finish, everything after', async () => {
      const { store } = await under.fresh();
      const writer = await store.openWriter('layers/one');
      const parts = Array.from({ length: 3000 }, (_, i) => text(`part ${i};`));
      await writer.write(parts.slice(0, 2500));
      await writer.write([]);
      await writer.write(parts.slice(2500));
      expect(await store.head('layers/one')).toBeNull();
      expect(await names(store)).toEqual([]);
      expect(await writer.finish()).toBe('created');
      expect(await store.get('layers/one', 1 << 20)).toEqual(Buffer.concat(parts));
    });

    it('lets buffers be reused once write has resolved', async () => {
      const { store } = await under.fresh();
      const writer = await store.openWriter('reused');
      const buffer = text('first!');
      await writer.write([buffer]);
      buffer.write('second');
      await writer.write([buffer]);
      await writer.finish();
      expect((await store.get('reused', 100))?.toString()).toBe('first!second');
    });

    it('does not replace an object that came first', async () => {
      const { store } = await under.fresh();
      const writer = await store.openWriter('taken');
      await writer.write([text('late')]);
      await store.createIfAbsent('taken', text('early'));
      expect(await writer.finish()).toBe('exists');
      expect((await store.get('taken', 100))?.toString()).toBe('early');
    });

    it('leaves nothing after abort, not even a folder', async () => {
      const { store } = await under.fresh();
      const writer = await store.openWriter('gone/away');
      await writer.write([Buffer.alloc(100_000, 7)]);
      await writer.abort();
      await writer.abort();
      expect(await names(store)).toEqual([]);
      expect(await store.listFolders('')).toEqual([]);
      expect((await caught(writer.write([text('x')]))).code).toBe('writer-state');
      expect((await caught(writer.finish())).code).toBe('writer-state');
    });
  });

  describe(`object store ${name}: reading`, () => {
    it('gives exact ranges, and says so when an object is short or absent', async () => {
      const { store } = await under.fresh();
      await store.createIfAbsent('ten', text('0123456789'));
      expect((await store.read('ten', 3, 4)).toString()).toBe('3456');
      expect((await store.read('ten', 9, 1)).toString()).toBe('9');
      expect(await store.read('ten', 10, 0)).toHaveLength(0);
      expect(await caught(store.read('ten', 8, 3))).toMatchObject({ code: 'object-short', kind: 'corrupt' });
      expect(await caught(store.read('ten', 50, 1))).toMatchObject({ code: 'object-short', kind: 'corrupt' });
      expect(await caught(store.read('eleven', 0, 1))).toMatchObject({ kind: 'not-found' });
    });

    it('gives null for what is absent and refuses what is too large', async () => {
      const { store } = await under.fresh();
      await store.createIfAbsent('a', text('0123456789'));
      expect(await store.get('b', 100)).toBeNull();
      expect(await store.get('a/under/a/file', 100)).toBeNull();
      expect(await store.head('b')).toBeNull();
      expect(await caught(store.get('a', 9))).toMatchObject({ kind: 'corrupt' });
      expect(await store.get('a', 10)).toHaveLength(10);
    });
  });

  describe(`object store ${name}: listing`, () => {
    it('goes by name, folders and objects alike', async () => {
      const { store } = await under.fresh();
      const wanted = ['a', 'a-b', 'a.b', 'a0', 'b/1', 'b/10', 'b/2', 'b-c/x', 'b.c', 'c/d/e/f', 'Z', '_x'];
      for (const object of wanted) await store.createIfAbsent(object, text(object));
      expect(await names(store)).toEqual([...wanted].sort());
      expect(await names(store, 'b/')).toEqual(['b/1', 'b/10', 'b/2']);
      expect(await names(store, 'none/')).toEqual([]);
      expect(await store.listFolders('')).toEqual(['b', 'b-c', 'c']);
      expect(await store.listFolders('c/')).toEqual(['d']);
      expect(await store.listFolders('none/')).toEqual([]);
    });

    it('goes on after any name, whether it exists or not', async () => {
      const { store } = await under.fresh();
      const wanted = ['a', 'b-c/x', 'b.c', 'b/1', 'b/10', 'b/2', 'b/2/3', 'b0', 'c/d/e', 'c/d/f', 'c/e/a'];
      const can = wanted.filter((n) => n !== 'b/2/3');
      for (const object of can) await store.createIfAbsent(object, text(object));
      const probes = [...wanted, 'b', 'b/1/0', 'b/0', 'b/9', 'b-', 'c/d', 'c/d/e/f', 'c/dd', 'A', 'zz', 'c', 'c/d/zz'];
      for (const prefix of ['', 'b/', 'c/', 'c/d/', 'none/']) {
        for (const after of probes) {
          const expected = can.filter((n) => n.startsWith(prefix) && n > after).sort();
          expect(await names(store, prefix, after), `${prefix} after ${after}`).toEqual(expected);
        }
      }
      expect((await caught(names(store, '', '../x'))).code).toBe('object-name');
    });

    it('tells sizes', async () => {
      const { store } = await under.fresh();
      for (let i = 0; i < 150; i++) await store.createIfAbsent(`n/${String(i).padStart(4, '0')}`, Buffer.alloc(i));
      const sizes: number[] = [];
      for await (const object of store.list('n/')) sizes.push(object.sizeBytes);
      expect(sizes).toEqual(Array.from({ length: 150 }, (_, i) => i));
    });

    it('shows neither temporary nor foreign things', async () => {
      const { store } = await under.fresh();
      const writer = await store.openWriter('one');
      await writer.write([text('x')]);
      expect(await names(store)).toEqual([]);
      expect(await store.listFolders('')).toEqual([]);
      await writer.abort();
    });
  });

  describe(`object store ${name}: deletion`, () => {
    it('deletes what it is told and nothing else, and does not mind what is absent', async () => {
      const { store, reopen } = await under.fresh();
      const all = ['a', 'd/1', 'd/2', 'd/e/1', 'd-', 'dd/1', 'f/g/h'];
      for (const object of all) await store.createIfAbsent(object, text(object));
      await store.deleteMany([]);
      await store.deleteMany(['d/1', 'f/g/h', 'd/1', 'none', 'd/none', 'a/under/a/file']);
      for (const one of [store, await reopen()]) {
        expect(await names(one)).toEqual(['a', 'd-', 'd/2', 'd/e/1', 'dd/1']);
        expect(await one.listFolders('')).toEqual(['d', 'dd']);
        expect(await one.head('d/1')).toBeNull();
        expect(await one.get('d/1', 10)).toBeNull();
        expect(await caught(one.read('d/1', 0, 1))).toMatchObject({ kind: 'not-found' });
        expect((await one.get('d/2', 10))?.toString()).toBe('d/2');
      }
      await store.deleteMany(['d/1']);
    });

    it('deletes many at once', { timeout: 60_000 }, async () => {
      const { store } = await under.fresh();
      const many = Array.from({ length: under.many ?? 2100 }, (_, i) => `many/${String(i).padStart(5, '0')}`);
      await inParallel(many, (object) => store.createIfAbsent(object, Buffer.alloc(0)));
      expect(await names(store, 'many/')).toEqual(many);
      expect(await names(store, 'many/', many[many.length - 3])).toEqual(many.slice(-2));
      await store.deleteMany(many.slice(1));
      expect(await names(store)).toEqual(many.slice(0, 1));
    });

    it('forgets what it read of a deleted object, and takes its name again', async () => {
      const { store } = await under.fresh();
      await store.createIfAbsent('x/again', text('first'));
      expect((await store.read('x/again', 0, 5)).toString()).toBe('first');
      await store.deleteMany(['x/again']);
      expect(await caught(store.read('x/again', 0, 5))).toMatchObject({ kind: 'not-found' });
      expect(await store.createIfAbsent('x/again', text('later'))).toBe('created');
      expect((await store.read('x/again', 0, 5)).toString()).toBe('later');
    });

    it('refuses bad names before anything is deleted', async () => {
      const { store } = await under.fresh();
      await store.createIfAbsent('stays', text('x'));
      expect((await caught(store.deleteMany(['stays', '../stays']))).code).toBe('object-name');
      expect(await names(store)).toEqual(['stays']);
    });

    it('loses no object that is made while its neighbours are deleted', { timeout: 60_000 }, async () => {
      const { store, reopen } = await under.fresh();
      const other = await reopen();
      // The folder is empty again and again, just when somebody puts an object into it.
      for (let round = 0; round < 15; round++) {
        const folder = `busy/f${round % 3}/deep`;
        await store.createIfAbsent(`${folder}/old-${round}`, text('old'));
        const made = [`${folder}/new-${round}`, `${folder}/newer-${round}`, `busy/f${round % 3}/up-${round}`];
        const results = await Promise.all([
          other.deleteMany([`${folder}/old-${round}`]),
          ...made.map((object, i) => (i % 2 === 0 ? store : other).createIfAbsent(object, text(object))),
        ]);
        expect(results.slice(1)).toEqual(['created', 'created', 'created']);
        expect(await names(store, 'busy/')).toEqual([...made].sort());
        await Promise.all(made.map((object) => store.deleteMany([object])));
      }
      expect(await names(other)).toEqual([]);
    });
  });

  describe(`object store ${name}: names`, () => {
    it('refuses whatever could leave the store', async () => {
      const { store } = await under.fresh();
      const bad = [
        '',
        '/',
        '/a',
        'a/',
        'a//b',
        '.',
        '..',
        '../a',
        'a/../b',
        '.tmp/x',
        'a/.b',
        'a b',
        'ä',
        'a\0',
        'a\n',
        'a%2f',
        'x'.repeat(1000),
      ];
      for (const object of bad) {
        expect((await caught(store.createIfAbsent(object, text('x')))).code).toBe('object-name');
        expect((await caught(store.openWriter(object))).code).toBe('object-name');
        expect((await caught(store.get(object, 1))).code).toBe('object-name');
        expect((await caught(store.head(object))).code).toBe('object-name');
        expect((await caught(store.deleteMany([object]))).code).toBe('object-name');
      }
      expect((await caught(names(store, 'a'))).code).toBe('object-name');
      expect((await caught(store.listFolders('../'))).code).toBe('object-name');
    });
  });
}
