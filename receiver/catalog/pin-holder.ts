/**
 * Holding a pin: written, renewed at a third of its time to live, removed at the end (pins.ts says what a pin is).
 *
 * Promises: while `lost` is not aborted, whoever deletes by the rules of pins.ts deletes nothing that the holder's plan needs. It is aborted when
 * renewals failed for as long as the pin lives, or when somebody has removed the pin as ended (this host slept, or its clock is wrong): what was planned
 * must then not be trusted to stay readable; what is read of it is still proven as ever.
 * On a crash the pin ends by itself.
 */
import type { Clock } from '../../shared/clock.js';
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { PIN_TTL_MS } from '../../shared/limits-retention.js';
import type { MachineId } from '../../shared/units.js';
import type { ObjectStore } from '../store/store.js';
import { pinName } from './names.js';
import { isEnded, PIN_VERSION, type Pin, readPin } from './pins.js';
import { sealJson } from './sealed-json.js';

export interface PinDeps {
  readonly store: ObjectStore;
  readonly clock: Clock;
  /** A UUID. */
  readonly randomId: () => string;
}

export interface PinWish {
  readonly point: number;
  /** Number of the newest manifest that is known. */
  readonly manifest: number;
  /** For people: who reads, and for what. */
  readonly holder: string;
}

/** Renewals per life of a pin: two may fail. */
const RENEWALS_PER_TTL = 3;
/** Tries of a renewal that fails, per life of a pin. */
const TRIES_PER_TTL = 30;

export const pinLost = (why: string): AfterimageError =>
  new AfterimageError(`the pin that keeps what is read here is lost: ${why}`, {
    code: 'pin-lost',
    kind: 'io',
    hint: 'What was planned may be deleted by now. Begin again: a restore goes on where it was.',
  });

export class PinHolder {
  readonly id: string;
  readonly #deps: PinDeps;
  readonly #machine: MachineId;
  readonly #wish: PinWish;
  readonly #ttlMs: number;
  readonly #stop = new AbortController();
  readonly #lost = new AbortController();
  #sequence = 0;
  #removed = 0;
  /** By the monotonic clock; counted from before the request that wrote the pin. */
  #trustedUntilMs = 0;
  #loops: Promise<unknown> = Promise.resolve();
  /** Of the last renewal that failed. */
  #failure = '';

  private constructor(deps: PinDeps, machine: MachineId, wish: PinWish, ttlMs: number) {
    this.id = deps.randomId();
    this.#deps = deps;
    this.#machine = machine;
    this.#wish = { ...wish, holder: wish.holder.slice(0, 500) };
    this.#ttlMs = ttlMs;
  }

  /** Resolved: the pin stands. The head has to be read again now, and the plan made from that. */
  static async acquire(deps: PinDeps, machine: MachineId, wish: PinWish, ttlMs = PIN_TTL_MS): Promise<PinHolder> {
    const holder = new PinHolder(deps, machine, wish, ttlMs);
    await holder.#write(1);
    holder.#loops = Promise.all([holder.#renewRegularly(), holder.#watch()]);
    return holder;
  }

  /** Aborted once the pin can't be relied upon any more; the reason is an error for the caller to throw. */
  get lost(): AbortSignal {
    return this.#lost.signal;
  }

  /** Ends the pin; never throws: one that can't be removed ends by itself. */
  async release(): Promise<void> {
    this.#stop.abort();
    await this.#loops;
    const names: string[] = [];
    for (let n = this.#removed + 1; n <= this.#sequence; n++) names.push(pinName(this.#machine, this.id, n));
    await this.#deps.store.deleteMany(names).catch(() => undefined);
  }

  /** False: somebody has ended it. */
  async #write(sequence: number): Promise<boolean> {
    const { store, clock } = this.#deps;
    const startMs = clock.monotonicMs();
    const nowMs = clock.nowMs();
    const pin: Pin = {
      version: PIN_VERSION,
      id: this.id,
      sequence,
      ...this.#wish,
      writtenAtMs: nowMs,
      ttlMs: this.#ttlMs,
      expiresAtMs: nowMs + this.#ttlMs,
    };
    this.#sequence = sequence;
    const name = pinName(this.#machine, this.id, sequence);
    if ((await store.createIfAbsent(name, sealJson(pin))) === 'exists') {
      // Of a try whose answer was lost, or written by upkeep as the end of a pin that it may not remove.
      const there = await readPin(store, name);
      if (there === null || 'why' in there || isEnded(there)) return false;
    }
    this.#trustedUntilMs = startMs + this.#ttlMs;
    return true;
  }

  async #renewRegularly(): Promise<void> {
    const { clock } = this.#deps;
    const signal = AbortSignal.any([this.#stop.signal, this.#lost.signal]);
    while (!signal.aborted) {
      await clock.sleep(this.#ttlMs / RENEWALS_PER_TTL, signal);
      const next = this.#sequence + 1;
      while (!signal.aborted && !(await this.#renew(next))) await clock.sleep(this.#ttlMs / TRIES_PER_TTL, signal);
    }
  }

  /** False: try again. The new object comes first, so that there is one at every instant. */
  async #renew(next: number): Promise<boolean> {
    const { store } = this.#deps;
    const before = pinName(this.#machine, this.id, next - 1);
    try {
      if (!(await this.#write(next)) || (await store.head(before)) === null) {
        this.#lose('somebody removed it as ended');
        return true;
      }
    } catch (error) {
      this.#failure = messageOf(error);
      return false;
    }
    await store.deleteMany([before]).then(
      () => (this.#removed = next - 1),
      // Without the right to delete the old ones stay until upkeep removes them.
      () => undefined,
    );
    return true;
  }

  /** A request that hangs must not keep the loss from being seen. */
  async #watch(): Promise<void> {
    const { clock } = this.#deps;
    const signal = AbortSignal.any([this.#stop.signal, this.#lost.signal]);
    while (!signal.aborted) {
      const leftMs = this.#trustedUntilMs - clock.monotonicMs();
      if (leftMs <= 0) this.#lose(`it could not be renewed${this.#failure === '' ? '' : `: ${this.#failure}`}`);
      else await clock.sleep(leftMs, signal);
    }
  }

  #lose(why: string): void {
    if (!this.#stop.signal.aborted) this.#lost.abort(pinLost(why));
  }
}
