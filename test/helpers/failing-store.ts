/** A store whose n-th request fails, before it did anything or after it has (the answer is lost). Counts requests of everything, writers as well. */
import { AfterimageError } from '../../shared/errors.js';
import type { ListOptions, ObjectStore, ObjectWriter } from '../../receiver/store/store.js';

export class FailingStore {
  readonly store: ObjectStore;
  requests = 0;
  /** Number of the request that fails; 0 for none. */
  failAt = 0;
  /** The request is carried out, and its answer lost. */
  late = false;
  /** What failed, once it did. */
  failed: string | null = null;

  constructor(under: ObjectStore) {
    this.store = new Proxy(under, {
      get: (target, key) => {
        const value: unknown = Reflect.get(target, key, target);
        if (typeof value !== 'function') return value;
        const call = value.bind(target) as (...args: unknown[]) => unknown;
        if (key === 'close') return call;
        if (key === 'list') return (prefix: string, options?: ListOptions) => this.#list(target, prefix, options);
        return (...args: unknown[]) =>
          this.#request(String(key), async () => {
            const result = await call(...args);
            return key === 'openWriter' ? this.#writer(result as ObjectWriter) : result;
          });
      },
    });
  }

  async *#list(under: ObjectStore, prefix: string, options?: ListOptions): ReturnType<ObjectStore['list']> {
    await this.#request('list', () => Promise.resolve());
    yield* under.list(prefix, options);
  }

  #writer(under: ObjectWriter): ObjectWriter {
    return {
      write: (buffers) => this.#request('writer.write', () => under.write(buffers)),
      finish: () => this.#request('writer.finish', () => under.finish()),
      abort: () => under.abort(),
    };
  }

  async #request<T>(what: string, carryOut: () => Promise<T>): Promise<T> {
    const fails = ++this.requests === this.failAt;
    if (!fails) return carryOut();
    this.failed = what;
    if (this.late) await carryOut();
    throw new AfterimageError(`test: request ${this.requests} (${what}) failed`, { code: 'test-io', kind: 'io' });
  }
}
