/**
 * Which receiver to dial next: where a redirect points, else the one that took us last, else every other that is known. Pure state; the caller waits
 * and dials.
 *
 * No address is left out for ever: a round goes through all that are known, the one of the enrolment among them. Circles end at the receiver, which
 * is told of each redirect and of each receiver that could not be reached (`hello.route`).
 */
import { FLEET_MAX, FORMER_ADDRESSES_MAX } from '../../shared/limits-fleet.js';
import { CLOSE } from '../../shared/wire/close-codes.js';
import type { FleetMessage, Hello, KnownReceiver } from '../../shared/wire/messages.js';
import type { SessionEnded } from './session.js';

/** What is kept over a restart. */
export interface KnownFleet {
  readonly receivers: readonly KnownReceiver[];
  /** The address that worked last. */
  readonly last: string | null;
  /** Addresses of receivers that have gone, newest first: when all are gone, a new one may have taken one of them. */
  readonly former: readonly string[];
}

export const NO_FLEET: KnownFleet = { receivers: [], last: null, former: [] };

/** How one connection ended. */
export interface Attempt {
  readonly address: string;
  /** A connection stood, by the pinned CA. */
  readonly connected: boolean;
  readonly welcomed: boolean;
  readonly ended: SessionEnded | null;
}

/** When to dial again: `now`, `next` (another address is left in this round), `round` (all were tried). */
export type Pace = 'now' | 'next' | 'round';

export class Route {
  readonly #fixed: readonly string[];
  readonly #random: () => number;
  #fleet: KnownFleet;
  /** Addresses of this round that are still to be tried. */
  #queue: string[] = [];
  #redirects = 0;
  readonly #unreachable = new Set<string>();
  /** Where redirects pointed: such a receiver may not be among those that we were told of. */
  readonly #pointedTo = new Map<string, string>();

  /** `fixed`: addresses that are never forgotten, that of the enrolment first. */
  constructor(fixed: readonly string[], fleet: KnownFleet, random: () => number) {
    this.#fixed = fixed;
    this.#fleet = fleet;
    this.#random = random;
  }

  get fleet(): KnownFleet {
    return this.#fleet;
  }

  /** Whether there is anybody else to go to. */
  get hasOthers(): boolean {
    return new Set([...this.#fixed, ...this.#present()]).size > 1;
  }

  /** What hello says; undefined when we came straight. */
  get soFar(): Hello['route'] {
    if (this.#redirects === 0 && this.#unreachable.size === 0) return undefined;
    return { redirects: this.#redirects, unreachable: [...this.#unreachable].slice(0, FLEET_MAX) };
  }

  /** The address to dial. The same until an attempt was reported. */
  next(): string {
    if (this.#queue.length === 0) this.#queue = this.#round();
    return this.#queue[0] ?? '';
  }

  /** True when something changed that is to be kept. */
  welcomed(address: string): boolean {
    this.#redirects = 0;
    this.#unreachable.clear();
    this.#queue = [];
    if (this.#fleet.last === address) return false;
    this.#fleet = { ...this.#fleet, last: address };
    return true;
  }

  /** True when something changed that is to be kept. */
  learnt({ receivers }: Pick<FleetMessage, 'receivers'>): boolean {
    if (JSON.stringify(receivers) === JSON.stringify(this.#fleet.receivers)) return false;
    const now = receivers.flatMap(({ addresses }) => addresses);
    const before = [...this.#fleet.receivers.flatMap(({ addresses }) => addresses), ...this.#fleet.former];
    const former = [...new Set(before)].filter((address) => !now.includes(address)).slice(0, FORMER_ADDRESSES_MAX);
    this.#fleet = { ...this.#fleet, receivers, former };
    return true;
  }

  ended({ address, connected, welcomed, ended }: Attempt): Pace {
    if (connected) for (const id of this.#idsAt(address)) this.#unreachable.delete(id);
    const redirect = ended?.redirect?.to ?? null;
    if (redirect !== null) {
      this.#redirects++;
      for (const other of redirect.addresses) this.#pointedTo.set(other, redirect.id);
      const others = this.#round().filter((other) => !redirect.addresses.includes(other));
      this.#queue = [...redirect.addresses, ...others];
      return 'now';
    }
    if (welcomed) {
      // One that stops by itself is not asked first whether it is back.
      const isLeaving = ended?.close?.code === CLOSE.goingAway.code;
      if (isLeaving) this.#doubt(address);
      const round = this.#round();
      this.#queue = isLeaving ? [...round.filter((other) => other !== address), address] : round;
      return 'round';
    }
    if (connected && ended?.close != null) {
      // It has answered: no circle, whatever it said.
      this.#redirects = 0;
      if (ended.close.retry === 'seldom') {
        this.#queue = [];
        return 'round';
      }
    } else this.#doubt(address);
    this.#queue = this.#queue.filter((other) => other !== address);
    return this.#queue.length === 0 ? 'round' : 'next';
  }

  #doubt(address: string): void {
    for (const id of this.#idsAt(address)) this.#unreachable.add(id);
  }

  #idsAt(address: string): string[] {
    const told = this.#fleet.receivers.filter(({ addresses }) => addresses.includes(address)).map(({ id }) => id);
    const pointed = this.#pointedTo.get(address);
    return pointed === undefined ? told : [...told, pointed];
  }

  #present(): string[] {
    return this.#fleet.receivers.flatMap(({ addresses }) => addresses);
  }

  /** The one that worked last, then the others in any order: a thousand agents of a receiver that died don't all go to the same. */
  #round(): string[] {
    const { last, former } = this.#fleet;
    const first = last === null ? this.#fixed : [last];
    const others = this.#shuffled([...this.#fixed, ...this.#present()]);
    return [...new Set([...first, ...others, ...this.#shuffled(former)])];
  }

  #shuffled(addresses: readonly string[]): string[] {
    return addresses
      .map((address) => ({ address, key: this.#random() }))
      .sort((a, b) => a.key - b.key)
      .map(({ address }) => address);
  }
}
