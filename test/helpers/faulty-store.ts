/**
 * A decorator that makes an object store as unreliable as a network can: from one seed, so that a run can be repeated.
 * Every fault is one that a caller of ObjectStore may meet with the real adapters, none is one that it may not (nothing is overwritten, no name
 * is half there). What was begun and reported as failed may still happen, later: `settled` waits for it.
 */
import type { Clock } from '../../shared/clock.js';
import { AfterimageError } from '../../shared/errors.js';
import type { CreateResult, ListOptions, ObjectInfo, ObjectStore, ObjectWriter } from '../../receiver/store/store.js';

/** How often each kind of fault meets a request, 0 to 1; the sum must not be more than 1. */
export interface FaultRates {
  /** The request never reaches the store. */
  readonly lost?: number;
  /** It is carried out, its answer never comes back. */
  readonly answerLost?: number;
  /** Reported as failed at once, carried out some time later (only what changes the store). */
  readonly late?: number;
  /** Carried out and answered, and once more some time later, as a network that doubles a packet would (only what changes the store). */
  readonly repeated?: number;
  /** Carried out and answered, both after a while. */
  readonly slow?: number;
}
export type Fault = keyof FaultRates;

export interface FaultyOptions {
  /** 0 ≤ x < 1. */
  readonly random: () => number;
  readonly clock: Clock;
  /** Longest time that something comes late. */
  readonly delayMsMax: number;
  /** Told of every fault, for the log of a run. */
  readonly onFault?: (fault: Fault, request: string) => void;
}

const FAULTS: readonly Fault[] = ['lost', 'answerLost', 'late', 'repeated', 'slow'];

export class FaultyStore implements ObjectStore {
  /** May be changed at any time; {} heals the store. */
  rates: FaultRates;
  readonly #under: ObjectStore;
  readonly #options: FaultyOptions;
  readonly #pending = new Set<Promise<unknown>>();

  constructor(under: ObjectStore, rates: FaultRates, options: FaultyOptions) {
    this.#under = under;
    this.rates = rates;
    this.#options = options;
  }

  get url(): string {
    return this.#under.url;
  }

  createIfAbsent(name: string, bytes: Buffer): Promise<CreateResult> {
    // The caller may use its memory again as soon as it has an answer.
    const copy = Buffer.from(bytes);
    return this.#changing(`create ${name}`, () => this.#under.createIfAbsent(name, copy));
  }

  async openWriter(name: string): Promise<ObjectWriter> {
    const writer = await this.#asking(`open ${name}`, () => this.#under.openWriter(name));
    let late = false;
    return {
      write: (buffers) => this.#asking(`write ${name}`, () => writer.write(buffers)),
      finish: () =>
        this.#changing(
          `finish ${name}`,
          () => writer.finish(),
          () => {
            late = true;
          },
        ),
      // What comes late was sent before the caller gave up.
      abort: async () => {
        if (!late) await writer.abort();
      },
    };
  }

  get(name: string, maxBytes: number): Promise<Buffer | null> {
    return this.#asking(`get ${name}`, () => this.#under.get(name, maxBytes));
  }

  read(name: string, offset: number, lengthBytes: number, room?: Buffer): Promise<Buffer> {
    return this.#asking(`read ${name}`, () => this.#under.read(name, offset, lengthBytes, room));
  }

  head(name: string): Promise<ObjectInfo | null> {
    return this.#asking(`head ${name}`, () => this.#under.head(name));
  }

  /** Fails at its beginning or after any entry. */
  async *list(prefix: string, options?: ListOptions): AsyncGenerator<ObjectInfo> {
    await this.#asking(`list ${prefix}`, async () => undefined);
    for await (const info of this.#under.list(prefix, options)) {
      yield info;
      await this.#asking(`list ${prefix} after ${info.name}`, async () => undefined);
    }
  }

  listFolders(prefix: string): Promise<string[]> {
    return this.#asking(`folders ${prefix}`, () => this.#under.listFolders(prefix));
  }

  deleteMany(names: readonly string[]): Promise<void> {
    const copy = [...names];
    return this.#changing(`delete ${names.join(' ')}`, () => this.#under.deleteMany(copy));
  }

  freeBytes(): Promise<number | null> {
    return this.#asking('free', () => this.#under.freeBytes());
  }

  async close(): Promise<void> {
    await this.settled();
    await this.#under.close();
  }

  /** Resolves when nothing that comes late is on its way any more. */
  async settled(): Promise<void> {
    while (this.#pending.size > 0) await Promise.all(this.#pending);
  }

  /** A request that changes nothing: coming late or twice makes no difference to anybody. */
  async #asking<T>(request: string, work: () => Promise<T>): Promise<T> {
    const fault = this.#draw(request);
    if (fault === 'slow') await this.#wait();
    if (fault === 'lost' || fault === 'late') throw this.#failed(request);
    const result = await work();
    if (fault === 'answerLost') throw this.#failed(request);
    return result;
  }

  async #changing<T>(request: string, work: () => Promise<T>, onLate?: () => void): Promise<T> {
    const fault = this.#draw(request);
    if (fault === 'lost') throw this.#failed(request);
    if (fault === 'late') {
      onLate?.();
      this.#later(work);
      throw this.#failed(request);
    }
    if (fault === 'slow') await this.#wait();
    const result = await work();
    if (fault === 'repeated') this.#later(work);
    if (fault === 'answerLost') throw this.#failed(request);
    return result;
  }

  #draw(request: string): Fault | null {
    let left = this.#options.random();
    for (const fault of FAULTS) {
      left -= this.rates[fault] ?? 0;
      if (left >= 0) continue;
      this.#options.onFault?.(fault, request);
      return fault;
    }
    return null;
  }

  #later(work: () => Promise<unknown>): void {
    const done = this.#wait()
      .then(work)
      // Nobody is there any more to hear of it.
      .catch(() => undefined)
      .finally(() => this.#pending.delete(done));
    this.#pending.add(done);
  }

  #wait(): Promise<void> {
    return this.#options.clock.sleep(this.#options.random() * this.#options.delayMsMax);
  }

  #failed(request: string): AfterimageError {
    return new AfterimageError(`test: no answer to: ${request}`, { code: 'store-unavailable', kind: 'io' });
  }
}
