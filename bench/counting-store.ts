/** A store in memory that counts what is asked of it: requests by kind, objects, bytes. Listings cost what their folder holds. */
import { AfterimageError, corrupt } from '../shared/errors.js';
import type { CreateResult, ListOptions, ObjectInfo, ObjectStore, ObjectWriter } from '../receiver/store/store.js';

/** A listing returns so many names per request, a deletion takes so many. */
const PER_REQUEST = 1000;

const folderOf = (name: string): string => name.slice(0, name.lastIndexOf('/') + 1);

export class CountingStore implements ObjectStore {
  readonly url = 'memory:';
  readonly kinds: Record<string, number> = {};
  readonly #folders = new Map<string, Map<string, Buffer>>();

  get requests(): number {
    return Object.values(this.kinds).reduce((sum, n) => sum + n, 0);
  }

  objects(): number {
    let count = 0;
    for (const folder of this.#folders.values()) count += folder.size;
    return count;
  }

  /** Of all objects whose folder contains `part`. */
  bytes(part = ''): number {
    let sum = 0;
    for (const [name, folder] of this.#folders) {
      if (!name.includes(part)) continue;
      for (const bytes of folder.values()) sum += bytes.length;
    }
    return sum;
  }

  sizeOf(name: string): number {
    return this.#find(name)?.length ?? 0;
  }

  /** All of it, into another store. */
  async copyTo(other: ObjectStore): Promise<void> {
    for (const folder of this.#folders.values()) {
      for (const [name, bytes] of folder) {
        const writer = await other.openWriter(name);
        await writer.write([bytes]);
        await writer.finish();
      }
    }
  }

  createIfAbsent(name: string, bytes: Buffer): Promise<CreateResult> {
    this.#count('create');
    return Promise.resolve(this.#create(name, Buffer.from(bytes)));
  }

  openWriter(name: string): Promise<ObjectWriter> {
    const parts: Buffer[] = [];
    return Promise.resolve({
      write: (buffers: readonly Buffer[]) => {
        for (const buffer of buffers) parts.push(Buffer.from(buffer));
        return Promise.resolve();
      },
      finish: () => {
        this.#count('put');
        return Promise.resolve(this.#create(name, Buffer.concat(parts)));
      },
      abort: () => Promise.resolve(),
    });
  }

  get(name: string, maxBytes: number): Promise<Buffer | null> {
    this.#count('get');
    const bytes = this.#find(name);
    if (bytes === undefined) return Promise.resolve(null);
    if (bytes.length > maxBytes) return Promise.reject(corrupt('object-too-large', `object ${name} is too large`));
    return Promise.resolve(Buffer.from(bytes));
  }

  read(name: string, offset: number, lengthBytes: number, room?: Buffer): Promise<Buffer> {
    this.#count('read');
    const bytes = this.#find(name);
    if (bytes === undefined) {
      const absent = { code: 'object-absent', kind: 'not-found' } as const;
      return Promise.reject(new AfterimageError(`object ${name} is absent`, absent));
    }
    if (bytes.length < offset + lengthBytes) return Promise.reject(corrupt('object-short', `object ${name} is short`));
    const target = room?.subarray(0, lengthBytes) ?? Buffer.allocUnsafe(lengthBytes);
    bytes.copy(target, 0, offset, offset + lengthBytes);
    return Promise.resolve(target);
  }

  head(name: string): Promise<ObjectInfo | null> {
    this.#count('head');
    const bytes = this.#find(name);
    return Promise.resolve(bytes === undefined ? null : { name, sizeBytes: bytes.length });
  }

  async *list(prefix: string, { after = '' }: ListOptions = {}): AsyncGenerator<ObjectInfo> {
    const found: ObjectInfo[] = [];
    for (const [name, folder] of this.#folders) {
      if (!name.startsWith(prefix)) continue;
      for (const [key, bytes] of folder) if (key > after) found.push({ name: key, sizeBytes: bytes.length });
    }
    this.#count('list', Math.max(1, Math.ceil(found.length / PER_REQUEST)));
    yield* found.sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  listFolders(): Promise<string[]> {
    return Promise.reject(new Error('not needed'));
  }

  deleteMany(names: readonly string[]): Promise<void> {
    this.#count('delete', Math.ceil(names.length / PER_REQUEST));
    for (const name of names) this.#folders.get(folderOf(name))?.delete(name);
    return Promise.resolve();
  }

  freeBytes(): Promise<null> {
    return Promise.resolve(null);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  #find(name: string): Buffer | undefined {
    return this.#folders.get(folderOf(name))?.get(name);
  }

  #create(name: string, bytes: Buffer): CreateResult {
    const folder = this.#folders.get(folderOf(name)) ?? new Map<string, Buffer>();
    this.#folders.set(folderOf(name), folder);
    if (folder.has(name)) return 'exists';
    folder.set(name, bytes);
    return 'created';
  }

  #count(kind: string, times = 1): void {
    this.kinds[kind] = (this.kinds[kind] ?? 0) + times;
  }
}
