/**
 * The object store of a simulated world: the service with its objects, and the client of a process, whose requests travel, get lost, come late or
 * twice, or meet a full store. The service is what real ones are: each request takes effect at one instant, nothing is ever overwritten, a listing
 * is made of pages and is no snapshot. It tells its watchers of every object that is made or deleted.
 */
import { AfterimageError, corrupt } from '../../shared/errors.js';
import { MIB } from '../../shared/units.js';
import type { CreateResult, ListOptions, ObjectInfo, ObjectStore, ObjectWriter } from '../../receiver/store/store.js';
import type { SimProcess } from './process.js';
import type { Rng } from './rng.js';
import type { Scheduler } from './scheduler.js';

export interface StoreWatcher {
  created(name: string, bytes: Buffer, by: string): void;
  deleting(name: string, by: string): void;
}

/** What can happen to a request; chances, 0 for a store that works. */
export interface StoreFaults {
  /** Fails at once, without effect. */
  error: number;
  /** Never arrives. */
  lostRequest: number;
  /** Takes effect; its answer never arrives. */
  lostReply: number;
  /** Its client has given up when it takes effect. */
  late: number;
  /** Arrives twice; the answer is that of the second. */
  repeated: number;
}

const WORKING: StoreFaults = { error: 0, lostRequest: 0, lostReply: 0, late: 0, repeated: 0 };
/** A client gives a request up after this. */
const TIMEOUT_MS = 10_000;
/** A late request may be under way for so long. */
const LATE_MAX_MS = 120_000;

export class SimStore implements ObjectStore {
  readonly url = 'sim:';
  readonly objects = new Map<string, Buffer>();
  readonly watchers: StoreWatcher[] = [];
  /** Of objects that have rotted and were neither made anew nor deleted since: what they were. */
  readonly rotten = new Map<string, Buffer>();
  faults: StoreFaults = { ...WORKING };
  isFull = false;
  pageNames = 100;
  requests = 0;
  /** Names in order; null: to be sorted anew. */
  #sorted: string[] | null = null;

  heal(): void {
    this.faults = { ...WORKING };
    this.isFull = false;
  }

  create(name: string, bytes: Buffer, by: string): CreateResult {
    if (this.objects.has(name)) return 'exists';
    for (const watcher of this.watchers) watcher.created(name, bytes, by);
    this.objects.set(name, Buffer.from(bytes));
    this.rotten.delete(name);
    this.#sorted = null;
    return 'created';
  }

  delete(names: readonly string[], by: string): void {
    for (const name of names) {
      if (!this.objects.has(name)) continue;
      for (const watcher of this.watchers) watcher.deleting(name, by);
      this.objects.delete(name);
      this.#sorted = null;
    }
  }

  /** What lay there is not what was put there any more, and nobody is told. */
  rot(name: string, rng: Rng): 'flipped' | 'truncated' | 'lost' {
    const bytes = this.objects.get(name);
    if (bytes === undefined) throw new Error(`no object ${name}`);
    const how = rng.pick(['flipped', 'truncated', 'lost'] as const);
    this.rotten.set(name, Buffer.from(bytes));
    if (how === 'flipped') {
      const at = rng.below(bytes.length);
      bytes[at] = (bytes[at] ?? 0) ^ (1 << rng.below(8));
    } else if (how === 'truncated') this.objects.set(name, Buffer.from(bytes.subarray(0, rng.below(bytes.length))));
    else {
      this.objects.delete(name);
      this.#sorted = null;
    }
    return how;
  }

  /** What an object is, or was before it rotted. */
  truth(name: string): Buffer | undefined {
    return this.rotten.get(name) ?? this.objects.get(name);
  }

  /** Up to a page of names after one. */
  page(prefix: string, after: string): ObjectInfo[] {
    const names = (this.#sorted ??= [...this.objects.keys()].sort());
    const from = after > prefix ? after : prefix;
    const found: ObjectInfo[] = [];
    for (let i = firstNotBefore(names, from); i < names.length && found.length < this.pageNames; i++) {
      const name = names[i] as string;
      if (!name.startsWith(prefix)) break;
      if (name > after) found.push({ name, sizeBytes: this.objects.get(name)?.length ?? 0 });
    }
    return found;
  }

  folders(prefix: string): string[] {
    const found = new Set<string>();
    for (const name of this.objects.keys()) {
      const end = name.startsWith(prefix) ? name.indexOf('/', prefix.length) : -1;
      if (end > 0) found.add(name.slice(prefix.length, end));
    }
    return [...found].sort();
  }

  part(name: string, offset: number, lengthBytes: number): Buffer {
    const bytes = this.objects.get(name);
    if (bytes === undefined) {
      throw new AfterimageError(`object ${name} is absent`, { code: 'object-missing', kind: 'not-found' });
    }
    if (offset + lengthBytes > bytes.length) throw corrupt('object-short', `object ${name} is shorter than expected`);
    return Buffer.from(bytes.subarray(offset, offset + lengthBytes));
  }

  whole(name: string, maxBytes: number): Buffer | null {
    const bytes = this.objects.get(name);
    if (bytes === undefined) return null;
    if (bytes.length > maxBytes) throw corrupt('object-large', `object ${name} is larger than expected`);
    return Buffer.from(bytes);
  }

  // The service itself, without a network, for the model and for making a world.

  createIfAbsent(name: string, bytes: Buffer): Promise<CreateResult> {
    return Promise.resolve(this.create(name, bytes, 'world'));
  }

  openWriter(): Promise<ObjectWriter> {
    return Promise.reject(new Error('the world writes no layers'));
  }

  get(name: string, maxBytes: number): Promise<Buffer | null> {
    return Promise.resolve(this.whole(name, maxBytes));
  }

  async read(name: string, offset: number, lengthBytes: number): Promise<Buffer> {
    return this.part(name, offset, lengthBytes);
  }

  head(name: string): Promise<ObjectInfo | null> {
    const bytes = this.objects.get(name);
    return Promise.resolve(bytes === undefined ? null : { name, sizeBytes: bytes.length });
  }

  async *list(prefix: string, options: ListOptions = {}): AsyncGenerator<ObjectInfo> {
    for (let after = options.after ?? ''; ;) {
      const page = this.page(prefix, after);
      yield* page;
      const last = page.at(-1);
      if (last === undefined) return;
      after = last.name;
    }
  }

  listFolders(prefix: string): Promise<string[]> {
    return Promise.resolve(this.folders(prefix));
  }

  deleteMany(names: readonly string[]): Promise<void> {
    this.delete(names, 'world');
    return Promise.resolve();
  }

  freeBytes(): Promise<number | null> {
    return Promise.resolve(null);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

function firstNotBefore(names: readonly string[], name: string): number {
  let low = 0;
  let high = names.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((names[middle] as string) < name) low = middle + 1;
    else high = middle;
  }
  return low;
}

const unreachable = (what: string): AfterimageError =>
  new AfterimageError(`${what}: the store did not answer`, { code: 'store-unreachable', kind: 'io' });
const full = (): AfterimageError => new AfterimageError('the store is full', { code: 'store-full', kind: 'io' });

type Kind = 'read' | 'write';

/** The store as one process sees it. */
export class StoreClient implements ObjectStore {
  readonly url = 'sim:';
  readonly #scheduler: Scheduler;
  readonly #store: SimStore;
  readonly #process: SimProcess;
  readonly #rng: Rng;
  readonly #latencyMs: number;
  /** No way to the store. */
  isCut = false;

  constructor(scheduler: Scheduler, store: SimStore, process: SimProcess, rng: Rng, latencyMs: number) {
    this.#scheduler = scheduler;
    this.#store = store;
    this.#process = process;
    this.#rng = rng;
    this.#latencyMs = latencyMs;
  }

  createIfAbsent(name: string, bytes: Buffer): Promise<CreateResult> {
    const copy = Buffer.from(bytes);
    return this.#request('write', `create ${name}`, () => this.#create(name, copy));
  }

  async openWriter(name: string): Promise<ObjectWriter> {
    if (this.#store.isFull) throw full();
    await this.#process.after(this.#travelMs(), `open ${name}`);
    const parts: Buffer[] = [];
    return {
      write: async (buffers) => {
        await this.#process.after(this.#travelMs(), `write ${name}`);
        // Copied now: the caller must not have touched them meanwhile.
        for (const buffer of buffers) parts.push(Buffer.from(buffer));
      },
      finish: () => this.#request('write', `finish ${name}`, () => this.#create(name, Buffer.concat(parts))),
      abort: () => this.#process.after(this.#travelMs(), `abort ${name}`),
    };
  }

  get(name: string, maxBytes: number): Promise<Buffer | null> {
    return this.#request('read', `get ${name}`, () => this.#store.whole(name, maxBytes));
  }

  read(name: string, offset: number, lengthBytes: number): Promise<Buffer> {
    return this.#request('read', `read ${name} ${offset}+${lengthBytes}`, () =>
      this.#store.part(name, offset, lengthBytes),
    );
  }

  head(name: string): Promise<ObjectInfo | null> {
    return this.#request('read', `head ${name}`, () => {
      const bytes = this.#store.objects.get(name);
      return bytes === undefined ? null : { name, sizeBytes: bytes.length };
    });
  }

  async *list(prefix: string, options: ListOptions = {}): AsyncGenerator<ObjectInfo> {
    for (let after = options.after ?? ''; ;) {
      const from = after;
      const page = await this.#request('read', `list ${prefix} ${from}`, () => this.#store.page(prefix, from));
      yield* page;
      const last = page.at(-1);
      if (last === undefined || page.length < this.#store.pageNames) return;
      after = last.name;
    }
  }

  listFolders(prefix: string): Promise<string[]> {
    return this.#request('read', `folders ${prefix}`, () => this.#store.folders(prefix));
  }

  deleteMany(names: readonly string[]): Promise<void> {
    const copy = [...names];
    return this.#request('write', `delete ${copy.join(' ')}`, () => this.#store.delete(copy, this.#process.name));
  }

  freeBytes(): Promise<number | null> {
    return this.#request('read', 'free', () => (this.#store.isFull ? 1 * MIB : null));
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  #create(name: string, bytes: Buffer): CreateResult {
    if (this.#store.isFull && !this.#store.objects.has(name)) throw full();
    return this.#store.create(name, bytes, this.#process.name);
  }

  #travelMs(): number {
    return 0.1 + this.#rng.wait(this.#latencyMs);
  }

  /** One request and its answer, through whatever happens to them. */
  #request<T>(kind: Kind, what: string, apply: () => T): Promise<T> {
    this.#store.requests++;
    return new Promise<T>((resolve, reject) => {
      this.#process.act(() => this.#issue(kind, what, apply, resolve, reject));
    });
  }

  #issue<T>(
    kind: Kind,
    what: string,
    apply: () => T,
    resolve: (value: T) => void,
    reject: (error: Error) => void,
  ): void {
    const { name } = this.#process;
    const fail = (error: unknown): void => reject(error instanceof Error ? error : new Error(String(error)));
    const giveUp = (): void => {
      this.#scheduler.after(TIMEOUT_MS, `${name} gives up ${what}`, () =>
        this.#process.deliver(() => fail(unreachable(what))),
      );
    };
    const arrive = (delayMs: number, answer: boolean): void => {
      this.#scheduler.after(delayMs, `${name} ${what}`, () => {
        let settle: () => void;
        try {
          const result = apply();
          settle = () => resolve(result);
        } catch (error) {
          settle = () => fail(error);
        }
        if (!answer) return;
        this.#scheduler.after(this.#travelMs(), `${name} answer`, () => this.#process.deliver(settle));
      });
    };
    switch (this.#fate(kind)) {
      case 'ok':
        arrive(this.#travelMs(), true);
        return;
      case 'error':
        this.#scheduler.after(this.#travelMs(), `${name} refused ${what}`, () =>
          this.#process.deliver(() => fail(unreachable(what))),
        );
        return;
      case 'lost-request':
        giveUp();
        return;
      case 'lost-reply':
        arrive(this.#travelMs(), false);
        giveUp();
        return;
      case 'late':
        arrive(this.#rng.between(TIMEOUT_MS, LATE_MAX_MS), false);
        giveUp();
        return;
      case 'repeated': {
        const first = this.#travelMs();
        arrive(first, false);
        arrive(first + this.#travelMs(), true);
      }
    }
  }

  #fate(kind: Kind): 'ok' | 'error' | 'lost-request' | 'lost-reply' | 'late' | 'repeated' {
    if (this.isCut) return 'lost-request';
    const { error, lostRequest, lostReply, late, repeated } = this.#store.faults;
    const fates = [
      ['error', error],
      ['lost-request', lostRequest],
      ['lost-reply', kind === 'write' ? lostReply : 0],
      ['late', kind === 'write' ? late : 0],
      ['repeated', kind === 'write' ? repeated : 0],
    ] as const;
    let left = this.#rng.unit();
    for (const [fate, chance] of fates) {
      if (left < chance) return fate;
      left -= chance;
    }
    return 'ok';
  }
}
