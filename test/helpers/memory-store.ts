/** An object store in memory, as strict as the real ones (it passes their conformance suite), whose every request can be watched or made to fail. */
import { AfterimageError, corrupt } from '../../shared/errors.js';
import { checkName, checkPrefix, startAfter } from '../../receiver/store/object-name.js';
import type { CreateResult, ListOptions, ObjectInfo, ObjectStore, ObjectWriter } from '../../receiver/store/store.js';

export class MemoryStore implements ObjectStore {
  readonly url = 'memory:';
  /** By name; tests may look and change things behind the store's back. */
  readonly objects = new Map<string, Buffer>();

  async createIfAbsent(name: string, bytes: Buffer): Promise<CreateResult> {
    checkName(name);
    if (this.objects.has(name)) return 'exists';
    this.objects.set(name, Buffer.from(bytes));
    return 'created';
  }

  async openWriter(name: string): Promise<ObjectWriter> {
    checkName(name);
    return new MemoryWriter(name, (bytes) => this.createIfAbsent(name, bytes));
  }

  async get(name: string, maxBytes: number): Promise<Buffer | null> {
    checkName(name);
    const bytes = this.objects.get(name);
    if (bytes === undefined) return null;
    if (bytes.length > maxBytes) {
      throw corrupt('object-too-large', `object ${name} has ${bytes.length} bytes, at most ${maxBytes} were expected`);
    }
    return Buffer.from(bytes);
  }

  async read(name: string, offset: number, lengthBytes: number, room?: Buffer): Promise<Buffer> {
    checkName(name);
    const bytes = this.objects.get(name);
    if (bytes === undefined) {
      throw new AfterimageError(`object ${name} is absent`, { code: 'object-absent', kind: 'not-found' });
    }
    if (bytes.length < offset + lengthBytes) {
      throw corrupt(
        'object-short',
        `object ${name} ends at byte ${bytes.length}, ${offset + lengthBytes} were expected`,
      );
    }
    const target = room?.subarray(0, lengthBytes) ?? Buffer.allocUnsafe(lengthBytes);
    bytes.copy(target, 0, offset, offset + lengthBytes);
    return target;
  }

  async head(name: string): Promise<ObjectInfo | null> {
    checkName(name);
    const bytes = this.objects.get(name);
    return bytes === undefined ? null : { name, sizeBytes: bytes.length };
  }

  async *list(prefix: string, options: ListOptions = {}): AsyncGenerator<ObjectInfo> {
    checkPrefix(prefix);
    const after = startAfter(prefix, options.after);
    if (after === null) return;
    for (const name of [...this.objects.keys()].filter((n) => n.startsWith(prefix) && n > after).sort()) {
      const bytes = this.objects.get(name);
      if (bytes !== undefined) yield { name, sizeBytes: bytes.length };
    }
  }

  async listFolders(prefix: string): Promise<string[]> {
    checkPrefix(prefix);
    const found = new Set<string>();
    for (const name of this.objects.keys()) {
      const end = name.indexOf('/', prefix.length);
      if (name.startsWith(prefix) && end > 0) found.add(name.slice(prefix.length, end));
    }
    return [...found].sort();
  }

  async deleteMany(names: readonly string[]): Promise<void> {
    for (const name of names) checkName(name);
    for (const name of names) this.objects.delete(name);
  }

  async freeBytes(): Promise<null> {
    return null;
  }

  async close(): Promise<void> {
    // Nothing is held.
  }
}

class MemoryWriter implements ObjectWriter {
  readonly #name: string;
  readonly #create: (bytes: Buffer) => Promise<CreateResult>;
  readonly #parts: Buffer[] = [];
  #open = true;

  constructor(name: string, create: (bytes: Buffer) => Promise<CreateResult>) {
    this.#name = name;
    this.#create = create;
  }

  async write(buffers: readonly Buffer[]): Promise<void> {
    this.#mustBeOpen();
    for (const buffer of buffers) this.#parts.push(Buffer.from(buffer));
  }

  async finish(): Promise<CreateResult> {
    this.#mustBeOpen();
    this.#open = false;
    return this.#create(Buffer.concat(this.#parts));
  }

  async abort(): Promise<void> {
    this.#open = false;
  }

  #mustBeOpen(): void {
    if (this.#open) return;
    throw new AfterimageError(`writer of ${this.#name} is closed`, { code: 'writer-state', kind: 'internal' });
  }
}

/** What is around each request of the store; may throw instead of it or after it. */
export type Around = <T>(what: string, work: () => Promise<T>) => Promise<T>;

/** The same objects, seen by one process. */
export function storeThrough(store: ObjectStore, around: Around): ObjectStore {
  return {
    url: store.url,
    createIfAbsent: (name, bytes) => around(`create ${name}`, () => store.createIfAbsent(name, bytes)),
    openWriter: (name) => around(`open ${name}`, () => store.openWriter(name)),
    get: (name, maxBytes) => around(`get ${name}`, () => store.get(name, maxBytes)),
    read: (name, offset, length, room) => around(`read ${name}`, () => store.read(name, offset, length, room)),
    head: (name) => around(`head ${name}`, () => store.head(name)),
    async *list(prefix, options) {
      const found = await around(`list ${prefix}`, async () => {
        const all: ObjectInfo[] = [];
        for await (const info of store.list(prefix, options)) all.push(info);
        return all;
      });
      yield* found;
    },
    listFolders: (prefix) => around(`folders ${prefix}`, () => store.listFolders(prefix)),
    deleteMany: (names) => around(`delete ${names.join(' ')}`, () => store.deleteMany(names)),
    freeBytes: () => store.freeBytes(),
    close: () => store.close(),
  };
}
