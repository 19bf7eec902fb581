/**
 * A decorator that tells of each request, for stores that have no requests of their own (a folder): each call is one.
 */
import type { Clock } from '../../shared/clock.js';
import type { CreateResult, ListOptions, ObjectInfo, ObjectStore, ObjectWriter } from './store.js';
import type { RequestKind, RequestWatch } from './watch.js';

export class MeteredStore implements ObjectStore {
  readonly url: string;
  readonly lend: ObjectStore['lend'];
  readonly #under: ObjectStore;
  readonly #watch: RequestWatch;
  readonly #clock: Clock;

  constructor(under: ObjectStore, watch: RequestWatch, clock: Clock) {
    this.url = under.url;
    this.#under = under;
    this.#watch = watch;
    this.#clock = clock;
    const lend = under.lend;
    this.lend = lend && ((name, lengthBytes, use) => this.#lent(() => lend(name, lengthBytes, use), lengthBytes));
  }

  async createIfAbsent(name: string, bytes: Buffer): Promise<CreateResult> {
    const result = await this.#request('create', () => this.#under.createIfAbsent(name, bytes));
    this.#watch.moved('written', bytes.length);
    return result;
  }

  /** One request: what counts is the object that it makes. */
  async openWriter(name: string): Promise<ObjectWriter> {
    const writer = await this.#under.openWriter(name);
    return {
      write: async (buffers) => {
        await writer.write(buffers);
        for (const buffer of buffers) this.#watch.moved('written', buffer.length);
      },
      finish: () => this.#request('create', () => writer.finish()),
      abort: () => writer.abort(),
    };
  }

  async get(name: string, maxBytes: number): Promise<Buffer | null> {
    const bytes = await this.#request('get', () => this.#under.get(name, maxBytes));
    this.#watch.moved('read', bytes?.length ?? 0);
    return bytes;
  }

  async read(name: string, offset: number, lengthBytes: number, room?: Buffer): Promise<Buffer> {
    const bytes = await this.#request('read', () => this.#under.read(name, offset, lengthBytes, room));
    this.#watch.moved('read', lengthBytes);
    return bytes;
  }

  async #lent<T>(work: () => Promise<T>, lengthBytes: number): Promise<T> {
    const result = await this.#request('read', work);
    this.#watch.moved('read', lengthBytes);
    return result;
  }

  head(name: string): Promise<ObjectInfo | null> {
    return this.#request('head', () => this.#under.head(name));
  }

  /** Its time is that until the first name. */
  async *list(prefix: string, options?: ListOptions): AsyncGenerator<ObjectInfo> {
    const names = this.#under.list(prefix, options)[Symbol.asyncIterator]();
    try {
      let next = await this.#request('list', () => names.next());
      while (next.done !== true) {
        yield next.value;
        next = await names.next();
      }
    } finally {
      await names.return?.();
    }
  }

  listFolders(prefix: string): Promise<string[]> {
    return this.#request('list', () => this.#under.listFolders(prefix));
  }

  deleteMany(names: readonly string[]): Promise<void> {
    return this.#request('delete', () => this.#under.deleteMany(names));
  }

  freeBytes(): Promise<number | null> {
    return this.#under.freeBytes();
  }

  close(): Promise<void> {
    return this.#under.close();
  }

  async #request<T>(kind: RequestKind, work: () => Promise<T>): Promise<T> {
    const startMs = this.#clock.monotonicMs();
    const report = (outcome: 'ok' | 'failed'): void =>
      this.#watch.request({ kind, outcome, ms: this.#clock.monotonicMs() - startMs });
    try {
      const result = await work();
      report('ok');
      return result;
    } catch (error) {
      report('failed');
      throw error;
    }
  }
}
