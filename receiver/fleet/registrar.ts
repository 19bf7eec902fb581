/**
 * Shows the other receivers on the store that this one lives: a new number at each beat, a last one that says `leaving` at a clean stop. Removes its
 * own older numbers but one, which others may be about to read.
 *
 * Promises: numbers of one receiver only rise, over restarts too. On a crash its newest number stays and stands still, which is how others notice.
 */
import type { Clock } from '../../shared/clock.js';
import { messageOf } from '../../shared/errors.js';
import { RECEIVER_RECORDS_TIDIED } from '../../shared/limits-fleet.js';
import type { Logger } from '../../shared/log.js';
import { receiverName } from '../catalog/names.js';
import { DeleteError, type KeptObject } from '../store/delete-error.js';
import { LockedNames } from '../store/locked-names.js';
import type { ObjectStore } from '../store/store.js';
import {
  createReceiverRecord,
  readReceiverRecord,
  receiverNumbers,
  type ReceiverLoad,
  type ReceiverRecord,
} from './record.js';

export interface Self {
  readonly id: string;
  readonly name: string;
  readonly addresses: readonly string[];
  readonly program: string;
  readonly weight: number;
  readonly heartbeatMs: number;
}

export interface RegistrarDeps {
  readonly store: ObjectStore;
  readonly clock: Clock;
  readonly randomId: () => string;
  readonly log: Logger;
}

/** Beats in a row that may meet numbers which another process takes; then the next beat tries again. */
const COLLISIONS_MAX = 3;

export class Registrar {
  readonly #deps: RegistrarDeps;
  readonly #self: Self;
  readonly #instance: string;
  readonly #startedAtMs: number;
  #last: number | null = null;
  /** Of ours, in the store as far as we know, ascending. */
  #standing: number[] = [];
  #isDoubled = false;
  #canDelete = true;
  readonly #locked = new LockedNames();

  constructor(deps: RegistrarDeps, self: Self) {
    this.#deps = deps;
    this.#self = self;
    this.#instance = deps.randomId();
    this.#startedAtMs = deps.clock.nowMs();
  }

  /** Another process on this store says that it is us. */
  get isDoubled(): boolean {
    return this.#isDoubled;
  }

  /** `calls`: machines whose agents are called over. */
  async beat(state: ReceiverRecord['state'], load: ReceiverLoad, calls: readonly string[] = []): Promise<void> {
    for (let attempt = 0; attempt < COLLISIONS_MAX; attempt++) {
      if (this.#last === null) {
        this.#standing = await receiverNumbers(this.#deps.store, this.#self.id);
        this.#last = this.#standing.at(-1) ?? 0;
      }
      const number = this.#last + 1;
      if (await this.#create(number, state, load, calls)) {
        this.#last = number;
        this.#standing.push(number);
        await this.#tidy();
        return;
      }
      this.#last = null;
    }
  }

  async #create(
    number: number,
    state: ReceiverRecord['state'],
    load: ReceiverLoad,
    calls: readonly string[],
  ): Promise<boolean> {
    const { store, clock, log } = this.#deps;
    const { id, addresses, ...self } = this.#self;
    const record = {
      ...{ id, number, instance: this.#instance, addresses: [...addresses] },
      ...{ ...self, state, startedAtMs: this.#startedAtMs, writtenAtMs: clock.nowMs(), load, calls: [...calls] },
    };
    if ((await createReceiverRecord(store, record)) === 'created') return true;
    // Our own try whose answer was lost, or somebody else.
    const there = await readReceiverRecord(store, id, number);
    if (there?.instance === this.#instance) return true;
    if (there !== null && !this.#isDoubled) {
      this.#isDoubled = true;
      log.error(
        { receiver: id, number, instance: there.instance, name: there.name },
        'another process on this store has this receiver’s id: it was copied with the state folder. Remove `receiver-id` from one of the two folders',
      );
    }
    return false;
  }

  async #tidy(): Promise<void> {
    const { store, clock, log } = this.#deps;
    const nowMs = clock.nowMs();
    // The oldest first, and so many at most: where nothing can be deleted they become very many, and each beat would ask for all.
    const old = this.#standing.slice(0, -2).slice(0, RECEIVER_RECORDS_TIDIED);
    const due = old.filter((number) => !this.#locked.isLocked(receiverName(this.#self.id, number), nowMs));
    if (due.length === 0) return;
    const names = due.map((number) => receiverName(this.#self.id, number));
    try {
      await store.deleteMany(names);
      this.#gone(names, []);
    } catch (error) {
      if (error instanceof DeleteError) this.#gone(names, error.kept);
      // Under a lock they go when that ends.
      if (error instanceof DeleteError && error.code === 'object-locked') return;
      // They are tried again at the next beat; said once.
      if (this.#canDelete) log.warn({ err: error }, `old signs of life can't be removed: ${messageOf(error)}`);
      this.#canDelete = false;
    }
  }

  #gone(names: readonly string[], kept: readonly KeptObject[]): void {
    this.#locked.note(names, kept, this.#deps.clock.nowMs());
    const gone = new Set(names);
    for (const { name } of kept) gone.delete(name);
    this.#standing = this.#standing.filter((number) => !gone.has(receiverName(this.#self.id, number)));
    if (kept.length === 0) this.#canDelete = true;
  }
}
