/**
 * This receiver among others on the same store: shows that it lives, watches who else does, and says where machines belong. The loop around the
 * pure parts (roster.ts, placement.ts); see README.md for what is a hint here and what decides.
 *
 * A store that doesn't answer costs looks, and a look that failed counts for nobody's silence. Nothing is kept over a restart.
 */
import { messageOf } from '../../shared/errors.js';
import { FLEET_MAX, RECEIVER_MISSES_MAX } from '../../shared/limits-fleet.js';
import type { MachineId } from '../../shared/units.js';
import type { KnownGroups } from '../catalog/groups.js';
import type { Manifest, ManifestOwner } from '../catalog/manifest.js';
import type { Recovery } from '../catalog/recovery.js';
import { Calls, callersOf } from './calls.js';
import { newFleetCounters } from './counters.js';
import {
  boundTo,
  claimOf,
  directionOf,
  placementOf,
  type Claim,
  type Direction,
  type FleetMember,
  type FleetView,
  type RouteSoFar,
} from './placement.js';
import { highestNumbers, readReceiverRecord, type ReceiverLoad, type ReceiverRecord } from './record.js';
import { Registrar, type RegistrarDeps, type Self } from './registrar.js';
import { wantedOwner } from './wanted.js';
import { Roster, type RosterEntry } from './roster.js';

/** What agents are told of a receiver. */
export interface KnownReceiver {
  readonly id: string;
  readonly name: string;
  readonly addresses: string[];
}

export interface FleetDeps extends RegistrarDeps {
  readonly load: () => ReceiverLoad;
  /** Machines that belong together; absent: none do. */
  readonly groups?: KnownGroups;
}

type Bound = Pick<Recovery, 'job' | 'failover'> | null;

export class Fleet {
  readonly #deps: FleetDeps;
  readonly #self: Self;
  readonly #registrar: Registrar;
  readonly #roster = new Roster();
  readonly #listeners = new Set<() => void>();
  /** Newest record of each receiver that was ever read, by id. */
  /** Of the last look. */
  #highest: ReadonlyMap<string, number> = new Map();
  readonly #records = new Map<string, ReceiverRecord>();
  readonly #lookers = new Set<() => void>();
  readonly #calls = new Calls();
  #groupsProblem = '';
  readonly counters = newFleetCounters();
  #lookedAtMs: number | null = null;
  /** Ends the pause before the next beat. */
  #hurry = new AbortController();
  readonly #ended = new AbortController();
  #loop: Promise<void> = Promise.resolve();
  #told = '';
  #problem = '';
  /** Of each receiver whose record can't be read, why. */
  readonly #unreadable = new Map<string, string>();

  constructor(deps: FleetDeps, self: Self) {
    this.#deps = deps;
    this.#self = self;
    this.#registrar = new Registrar(deps, self);
  }

  get id(): string {
    return this.#self.id;
  }

  /** As it stands in the manifests of the machines that we own. */
  get owner(): ManifestOwner {
    const { id, name, addresses } = this.#self;
    return { receiver: id, name, address: addresses[0] ?? '' };
  }

  get isDoubled(): boolean {
    return this.#registrar.isDoubled;
  }

  /** Why this receiver can't be seen, or can't see others; empty: it can. */
  get problem(): string {
    return this.#problem;
  }

  /** Wall time of the last look at the others that succeeded; null before the first. */
  get lookedAtMs(): number | null {
    return this.#lookedAtMs;
  }

  /** The others. */
  get entries(): RosterEntry[] {
    return this.#roster.entries(this.#deps.clock.monotonicMs());
  }

  get view(): FleetView {
    const others = this.entries;
    const self: FleetMember = { ...this.#self, liveness: 'live' };
    return {
      self: this.id,
      members: [self, ...others.map(({ record, liveness, back }) => ({ ...record, liveness, back }))],
      isSettled: this.#roster.isSettled,
      settleMs: (RECEIVER_MISSES_MAX + 2) * this.#self.heartbeatMs,
      ...(this.#deps.groups === undefined ? {} : { together: this.#deps.groups.together }),
    };
  }

  /** Those that an agent may find: all that are not known to be gone. */
  get known(): KnownReceiver[] {
    return this.view.members
      .filter((member) => member.liveness !== 'gone')
      .slice(0, FLEET_MAX)
      .map(({ id, name, addresses }) => ({ id, name, addresses: [...addresses] }));
  }

  /** Called whenever `known` has changed, until the returned function is. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Called after each look at the others, until the returned function is. */
  onLook(listener: () => void): () => void {
    this.#lookers.add(listener);
    return () => this.#lookers.delete(listener);
  }

  /** Other receivers that may live, as manifests name them. */
  get others(): ManifestOwner[] {
    return this.entries
      .filter(({ liveness }) => liveness !== 'gone')
      .map(({ record: { id, name, addresses } }) => ({ receiver: id, name, address: addresses[0] ?? '' }));
  }

  /** Has the machine's agent sent here by the receiver that has it, if the machine is bound to us; until the returned function is called. */
  call(machine: MachineId): () => void {
    const release = this.#calls.add(machine);
    this.#hurry.abort();
    return release;
  }

  /** Which other receiver calls for which machine. */
  get callers(): ReadonlyMap<MachineId, string> {
    return callersOf(this.entries);
  }

  direction(machine: MachineId, recovery: Bound, route: RouteSoFar): Direction {
    const { view } = this;
    return directionOf(placementOf(machine, boundTo(recovery), view), view, route);
  }

  /** Whether the machines of a group belong here. */
  isGroupOurs(group: string): boolean {
    return (
      wantedOwner(
        group,
        this.view.members.filter(({ liveness }) => liveness === 'live'),
      ) === this.id
    );
  }

  /** Whether this receiver does the upkeep of a machine that has no session here. */
  isOurs(machine: MachineId, manifest: Pick<Manifest, 'owner'> | null, recovery: Bound): Claim {
    return claimOf(machine, manifest, recovery, this.view);
  }

  start(): void {
    this.#loop = this.#run();
  }

  /** Says that we leave; others and agents need not wait for our silence. */
  async leave(): Promise<void> {
    this.#ended.abort();
    this.#hurry.abort();
    await this.#loop;
    await this.#try(() => this.#registrar.beat('leaving', this.#deps.load()));
  }

  /** Shows that we live, and looks who else does. Never rejects; what went wrong is in `problem`. */
  beat(): Promise<void> {
    return this.#try(async () => {
      await this.#registrar.beat('serving', this.#deps.load(), this.#calls.machines);
      await this.#look();
    });
  }

  async #run(): Promise<void> {
    const { clock } = this.#deps;
    const { signal } = this.#ended;
    while (!signal.aborted) {
      await this.beat();
      // One signal for all that can end the pause: joined ones would pile up on a signal that lives as long as we do.
      await clock.sleep(this.#self.heartbeatMs, this.#hurry.signal);
      if (this.#hurry.signal.aborted) this.#hurry = new AbortController();
    }
  }

  async #look(): Promise<void> {
    const { store, clock } = this.#deps;
    const highest = await highestNumbers(store, this.#highest);
    this.#highest = highest;
    for (const id of this.#records.keys()) if (!highest.has(id)) this.#records.delete(id);
    for (const [id, number] of highest) {
      if (id === this.id || this.#records.get(id)?.number === number) continue;
      // Gone again already: it beats, and its next number is read at the next look.
      const record = await readReceiverRecord(store, id, number).catch((error: unknown) => this.#skip(id, error));
      if (record === null) continue;
      this.#records.set(id, record);
      this.#unreadable.delete(id);
    }
    await this.#lookAtGroups();
    this.#roster.look([...this.#records.values()], clock.monotonicMs());
    this.#lookedAtMs = clock.nowMs();
    this.#tell();
    for (const listener of this.#lookers) listener();
  }

  /** Groups that can't be read leave machines where they belonged by those that were known. */
  async #lookAtGroups(): Promise<void> {
    try {
      await this.#deps.groups?.recent();
      this.#groupsProblem = '';
    } catch (error) {
      const problem = messageOf(error);
      if (this.#groupsProblem !== problem) this.#deps.log.warn({ err: error }, `groups can't be read: ${problem}`);
      this.#groupsProblem = problem;
    }
  }

  /** One that can't be read (a newer program's, a damaged one) hides nobody else. */
  #skip(id: string, error: unknown): null {
    const problem = messageOf(error);
    if (this.#unreadable.get(id) !== problem)
      this.#deps.log.warn({ receiver: id }, `its record can't be read: ${problem}`);
    this.#unreadable.set(id, problem);
    return null;
  }

  #tell(): void {
    const known = JSON.stringify(this.known);
    if (known === this.#told) return;
    this.#told = known;
    this.#deps.log.info({ receivers: this.known }, 'receivers on this store');
    for (const listener of this.#listeners) listener();
  }

  async #try(work: () => Promise<void>): Promise<void> {
    try {
      await work();
      this.#problem = '';
    } catch (error) {
      const problem = messageOf(error);
      // Said once, not at each beat.
      if (problem !== this.#problem)
        this.#deps.log.warn({ err: error }, `this receiver can't show that it lives, or see who else does: ${problem}`);
      this.#problem = problem;
    }
  }
}
