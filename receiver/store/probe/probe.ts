/**
 * What a place for objects must be able to do before a store is trusted to it, tried out one by one under `probe/<id>/`: each check gives one
 * verdict with what to do about it. Removes what it wrote, as far as it may; killed in the middle, it leaves that folder, which nothing reads.
 */
import { createHash } from 'node:crypto';
import type { Clock } from '../../../shared/clock.js';
import { AfterimageError, messageOf } from '../../../shared/errors.js';
import { STORE_PART_BYTES } from '../../../shared/limits-store.js';
import { formatBytes, formatDuration, MIB } from '../../../shared/units.js';
import { forEachAtOnce } from '../at-once.js';
import { DeleteError } from '../delete-error.js';
import type { ObjectStore } from '../store.js';

export interface Finding {
  /** Stable name of the check. */
  readonly check: string;
  /** `warn`: works, with something to know. `fail`: not fit for a store. */
  readonly verdict: 'ok' | 'warn' | 'fail';
  readonly text: string;
  readonly todo: string | null;
}

export interface ProbeOptions {
  /** Opens the place anew, as another process would. */
  readonly open: () => Promise<ObjectStore>;
  readonly clock: Clock;
  readonly id: string;
  /** Moved in each direction to measure the speed. */
  readonly sizeBytes: number;
  readonly onFinding: (finding: Finding) => void;
  readonly onProgress: (what: 'writing' | 'reading', doneBytes: number, ofBytes: number) => void;
  readonly signal: AbortSignal;
}

const RACERS = 8;
const RACES = 4;
const LISTED = 10;
/** Streams at once while the speed is measured: what a restore does. */
const STREAMS = 4;
const READ_BYTES = 1 * MIB;
/** Signatures are refused beyond 15 minutes; half of that is a warning. */
const SKEW_WARN_MS = 5_000;
const SKEW_FAIL_MS = 7 * 60_000;

const TRUST = 'Nothing can be done but to use another store: points could be lost or overwritten here.';

export async function probe(options: ProbeOptions): Promise<Finding[]> {
  const run = new ProbeRun(options);
  try {
    await run.all();
  } finally {
    await run.close();
  }
  return run.findings;
}

class ProbeRun {
  readonly findings: Finding[] = [];
  readonly #options: ProbeOptions;
  readonly #stores: ObjectStore[] = [];
  readonly #prefix: string;
  readonly #written: string[] = [];

  constructor(options: ProbeOptions) {
    this.#options = options;
    this.#prefix = `probe/${options.id}/`;
  }

  async all(): Promise<void> {
    if (!(await this.#check('open', 'opened', 'See the message.', () => this.#open()))) return;
    const [store, other] = this.#stores as [ObjectStore, ObjectStore];
    // Without these nothing else can be tried.
    const create = (): Promise<string | undefined> => this.#creation(store, other);
    if (!(await this.#check('create', 'objects are created, and never overwritten', TRUST, create))) {
      // There is nothing to say about deletion; most likely nothing was written.
      await store.deleteMany(this.#written).catch(() => undefined);
      return;
    }
    const needed = 'Allow reading and listing: no receiver can do without.';
    const read = await this.#check('read', 'objects and exact ranges of them are read', needed, () =>
      this.#reading(other),
    );
    const listed = await this.#check('list', 'what was written is listed at once, in order', needed, () =>
      this.#listing(store, other),
    );
    await this.#check('race', `of ${RACERS} that create one name at once, exactly one wins`, TRUST, () =>
      this.#races(),
    );
    await this.#check('large', 'objects in several parts appear whole, and replace nothing', TRUST, () =>
      this.#large(store, other),
    );
    if (read) await this.#speed(store);
    this.#skew(store);
    if (listed) await this.#remove();
  }

  async close(): Promise<void> {
    for (const store of this.#stores) await store.close();
  }

  #find(check: string, verdict: Finding['verdict'], text: string, todo: string | null = null): void {
    const finding = { check, verdict, text, todo };
    this.findings.push(finding);
    this.#options.onFinding(finding);
  }

  /** `work` returns what is wrong, or nothing. Errors that name what to do keep their own words. */
  async #check(check: string, good: string, todo: string, work: () => Promise<string | undefined>): Promise<boolean> {
    this.#options.signal.throwIfAborted();
    try {
      const wrong = await work();
      if (wrong === undefined) this.#find(check, 'ok', good);
      else this.#find(check, 'fail', wrong, todo);
      return wrong === undefined;
    } catch (error) {
      // A wrong URL is bad input, not a verdict about a store.
      if (error instanceof AfterimageError && error.kind === 'usage') throw error;
      this.#find(check, 'fail', messageOf(error), (error instanceof AfterimageError ? error.hint : undefined) ?? todo);
      return false;
    }
  }

  #name(name: string): string {
    const full = this.#prefix + name;
    this.#written.push(full);
    return full;
  }

  async #open(): Promise<undefined> {
    for (let i = 0; i < 2; i++) this.#stores.push(await this.#options.open());
  }

  async #creation(store: ObjectStore, other: ObjectStore): Promise<string | undefined> {
    const name = this.#name('one');
    if ((await store.createIfAbsent(name, Buffer.from('first'))) !== 'created') return 'a new name is said to be taken';
    if ((await other.createIfAbsent(name, Buffer.from('second'))) !== 'exists') return 'an object was overwritten';
    const bytes = await store.get(name, 100);
    return bytes?.toString() === 'first' ? undefined : 'an object that should have been kept was changed';
  }

  async #reading(store: ObjectStore): Promise<string | undefined> {
    const name = this.#name('ranges');
    const content = pattern(100_000, 1);
    await store.createIfAbsent(name, content);
    for (const [offset, length] of [
      [0, 10],
      [99_990, 10],
      [12_345, 50_000],
    ] as const) {
      const got = await store.read(name, offset, length);
      if (!got.equals(content.subarray(offset, offset + length))) return 'a range of an object holds other bytes';
    }
    const short = await store.read(name, 99_990, 11).then(
      () => 'a range beyond the end of an object is answered',
      (error: unknown) =>
        error instanceof AfterimageError && error.code === 'object-short' ? undefined : messageOf(error),
    );
    if (short !== undefined) return short;
    return (await store.head(this.#prefix + 'none')) === null ? undefined : 'an object is found that is not there';
  }

  async #listing(store: ObjectStore, other: ObjectStore): Promise<string | undefined> {
    const names: string[] = [];
    for (let i = 0; i < LISTED; i++) {
      names.push(this.#name(`list/${String(i).padStart(4, '0')}`));
      await store.createIfAbsent(names[i] ?? '', Buffer.from('x'));
      const found = await namesOf(other, `${this.#prefix}list/`);
      if (found.length !== names.length || found.some((name, at) => name !== names[at])) {
        return `${found.length} of ${names.length} objects are listed after the last was written`;
      }
    }
    const after = await namesOf(other, `${this.#prefix}list/`, names[3]);
    if (after.length !== LISTED - 4) return 'a listing does not go on after a name';
    return (await other.listFolders(this.#prefix)).includes('list') ? undefined : 'a folder is not listed';
  }

  async #races(): Promise<string | undefined> {
    for (let race = 0; race < RACES; race++) {
      const name = this.#name(`race-${race}`);
      const results = await Promise.all(
        Array.from({ length: RACERS }, (_, i) =>
          (this.#stores[i % 2] as ObjectStore).createIfAbsent(name, Buffer.from(`racer ${i}`)),
        ),
      );
      const winners = results.filter((result) => result === 'created').length;
      if (winners !== 1) return `${winners} of ${RACERS} that created one name at once were told that they had`;
      const bytes = await (this.#stores[0] as ObjectStore).get(name, 100);
      if (bytes?.toString() !== `racer ${results.indexOf('created')}`)
        return 'who won a race did not write what is there';
    }
    return undefined;
  }

  async #large(store: ObjectStore, other: ObjectStore): Promise<string | undefined> {
    const name = this.#name('large');
    const content = pattern(2 * STORE_PART_BYTES + 4096, 2);
    const writer = await store.openWriter(name);
    await writer.write([content]);
    if ((await other.head(name)) !== null) return 'a large object is there before it is complete';
    if ((await writer.finish()) !== 'created') return 'a new name is said to be taken';
    const late = await other.openWriter(name);
    await late.write([pattern(2 * STORE_PART_BYTES + 1, 3)]);
    if ((await late.finish()) !== 'exists') return 'a large object was overwritten';
    const around = await other.read(name, STORE_PART_BYTES - 50, 100);
    return around.equals(content.subarray(STORE_PART_BYTES - 50, STORE_PART_BYTES + 50))
      ? undefined
      : 'a large object holds other bytes';
  }

  async #speed(store: ObjectStore): Promise<void> {
    const { clock, sizeBytes, onProgress, signal } = this.#options;
    const block = pattern(MIB, 4);
    const perStream = Math.max(1, Math.round(sizeBytes / STREAMS / MIB));
    const total = perStream * STREAMS * MIB;
    const streams = Array.from({ length: STREAMS }, (_, i) => this.#name(`speed-${i}`));
    try {
      let moved = 0;
      const startMs = clock.monotonicMs();
      await forEachAtOnce(streams, STREAMS, async (name) => {
        const writer = await store.openWriter(name);
        for (let i = 0; i < perStream; i++) {
          signal.throwIfAborted();
          await writer.write([block]);
          onProgress('writing', (moved += MIB), total);
        }
        await writer.finish();
      });
      const writtenMs = clock.monotonicMs() - startMs;
      this.#find('write-speed', 'ok', `${rate(total, writtenMs)} written, ${STREAMS} objects at once`);
      moved = 0;
      const readStartMs = clock.monotonicMs();
      await forEachAtOnce(streams, STREAMS, async (name) => {
        for (let at = 0; at < perStream * MIB; at += READ_BYTES) {
          signal.throwIfAborted();
          await store.read(name, at, READ_BYTES);
          onProgress('reading', (moved += READ_BYTES), total);
        }
      });
      const readMs = clock.monotonicMs() - readStartMs;
      this.#find('read-speed', 'ok', `${rate(total, readMs)} read, ${STREAMS} ranges at once`);
    } catch (error) {
      signal.throwIfAborted();
      const hint = error instanceof AfterimageError ? error.hint : undefined;
      this.#find('speed', 'fail', messageOf(error), hint ?? 'See the message.');
    }
  }

  #skew(store: ObjectStore): void {
    const skewMs = store.serverClockMs?.() ?? null;
    if (skewMs === null) return;
    const text = `the server's clock and this host's differ by ${formatDuration(Math.abs(skewMs))}`;
    if (Math.abs(skewMs) < SKEW_WARN_MS) this.#find('clock', 'ok', text);
    else this.#find('clock', Math.abs(skewMs) < SKEW_FAIL_MS ? 'warn' : 'fail', text, 'Let both follow a time server.');
  }

  /** Last: what was written is what is deleted. */
  async #remove(): Promise<void> {
    const [store] = this.#stores;
    const objects = await (store?.deleteMany(this.#written) ?? Promise.resolve()).then(
      () => 'gone' as const,
      (error: unknown) => error,
    );
    if (objects === 'gone') {
      const left = await namesOf(store as ObjectStore, this.#prefix);
      if (left.length > 0) this.#find('delete', 'fail', 'deleted objects are still listed', TRUST);
      else this.#find('delete', 'ok', 'objects are deleted: enough for a receiver and for its upkeep');
      return;
    }
    const left = `What this probe wrote stays under ${this.#prefix}`;
    if (objects instanceof DeleteError && objects.code === 'object-locked') {
      const until = Math.max(...objects.kept.map((object) => object.lockedUntilMs ?? 0));
      const text = `the store keeps what is written${until > 0 ? ` until ${new Date(until).toISOString()}` : ''}: its upkeep deletes later`;
      return this.#find('delete', 'warn', text, `${left} until then.`);
    }
    const text = `no deletion: enough for a receiver, not for its upkeep (${messageOf(objects)})`;
    this.#find('delete', 'warn', text, `Give upkeep credentials that may delete. ${left}; delete that.`);
  }
}

async function namesOf(store: ObjectStore, prefix: string, after?: string): Promise<string[]> {
  const names: string[] = [];
  for await (const { name } of store.list(prefix, after === undefined ? {} : { after })) names.push(name);
  return names;
}

const rate = (bytes: number, ms: number): string => `${formatBytes((bytes / Math.max(1, ms)) * 1000)}/s`;

/** Bytes that nothing can compress or guess, the same for the same seed. */
function pattern(length: number, seed: number): Buffer {
  const result = Buffer.alloc(length);
  const block = createHash('sha512').update(`probe ${seed}`).digest();
  for (let at = 0; at < length; at += block.length) {
    block.writeUInt32LE(at, 0);
    block.copy(result, at);
  }
  return result;
}
