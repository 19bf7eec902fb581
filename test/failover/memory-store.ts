/** An object store in memory, whose every request can be watched or made to fail. */
import type { CreateResult, ObjectInfo, ObjectStore, ObjectWriter } from '../../receiver/store/store.js';

export class MemoryStore implements ObjectStore {
  readonly url = 'memory:';
  readonly objects = new Map<string, Buffer>();

  createIfAbsent(name: string, bytes: Buffer): Promise<CreateResult> {
    if (this.objects.has(name)) return Promise.resolve('exists');
    this.objects.set(name, Buffer.from(bytes));
    return Promise.resolve('created');
  }

  openWriter(name: string): Promise<ObjectWriter> {
    const parts: Buffer[] = [];
    return Promise.resolve({
      write: (buffers: readonly Buffer[]) => {
        for (const b of buffers) parts.push(Buffer.from(b));
        return Promise.resolve();
      },
      finish: () => this.createIfAbsent(name, Buffer.concat(parts)),
      abort: () => Promise.resolve(),
    });
  }

  get(name: string): Promise<Buffer | null> {
    return Promise.resolve(this.objects.get(name) ?? null);
  }

  read(name: string, offset: number, lengthBytes: number): Promise<Buffer> {
    const bytes = this.objects.get(name);
    if (bytes === undefined) return Promise.reject(new Error(`absent: ${name}`));
    return Promise.resolve(bytes.subarray(offset, offset + lengthBytes));
  }

  head(name: string): Promise<ObjectInfo | null> {
    const bytes = this.objects.get(name);
    return Promise.resolve(bytes === undefined ? null : { name, sizeBytes: bytes.length });
  }

  async *list(prefix: string): AsyncGenerator<ObjectInfo> {
    for (const name of [...this.objects.keys()].filter((n) => n.startsWith(prefix)).sort()) {
      yield { name, sizeBytes: this.objects.get(name)?.length ?? 0 };
    }
  }

  listFolders(prefix: string): Promise<string[]> {
    const found = new Set<string>();
    for (const name of this.objects.keys()) {
      if (name.startsWith(prefix) && name.indexOf('/', prefix.length) > 0)
        found.add(name.slice(prefix.length, name.indexOf('/', prefix.length)));
    }
    return Promise.resolve([...found].sort());
  }

  freeBytes(): Promise<null> {
    return Promise.resolve(null);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** What is around each request of the store; may throw instead of it or after it. */
export type Around = <T>(what: string, work: () => Promise<T>) => Promise<T>;

/** The same objects, seen by one process. */
export function storeThrough(store: MemoryStore, around: Around): ObjectStore {
  return {
    url: store.url,
    createIfAbsent: (name, bytes) => around(`create ${name}`, () => store.createIfAbsent(name, bytes)),
    openWriter: (name) => around(`open ${name}`, () => store.openWriter(name)),
    get: (name) => around(`get ${name}`, () => store.get(name)),
    read: (name, offset, length) => around(`read ${name}`, () => store.read(name, offset, length)),
    head: (name) => around(`head ${name}`, () => store.head(name)),
    async *list(prefix) {
      const found = await around(`list ${prefix}`, async () => {
        const all: ObjectInfo[] = [];
        for await (const info of store.list(prefix)) all.push(info);
        return all;
      });
      yield* found;
    },
    listFolders: (prefix) => around(`folders ${prefix}`, () => store.listFolders(prefix)),
    freeBytes: () => store.freeBytes(),
    close: () => store.close(),
  };
}
