/**
 * A receiver of a simulated world: the real SessionRegistry with its sessions, in a process that can be killed, paused and started again. It keeps
 * nothing: all that a new process knows comes from the store.
 */
import type { Logger } from 'pino';
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { UPKEEP_BYTES_PER_SECOND } from '../../shared/limits-upkeep.js';
import { MIB, type MachineId } from '../../shared/units.js';
import { encodeControl } from '../../shared/wire/messages.js';
import { resumeGeneration } from '../../receiver/catalog/generation.js';
import { OwnedMachines } from '../../receiver/catalog/owned-machines.js';
import { authenticator } from '../../receiver/session/identity.js';
import { SessionRegistry } from '../../receiver/session/registry.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { Mending } from '../../receiver/upkeep/mending.js';
import { ScrubTask } from '../../receiver/upkeep/scrub-task.js';
import { UpkeepService } from '../../receiver/upkeep/service.js';
import type { SimKeys } from './keys.js';
import type { SimMachine } from './machine.js';
import type { SimTransport } from './network.js';
import type { UpkeepPlan } from './plan.js';
import { SimProcess } from './process.js';
import type { Rng } from './rng.js';
import type { Scheduler } from './scheduler.js';
import { StoreClient, type SimStore } from './store.js';

export interface ReceiverWorld {
  readonly scheduler: Scheduler;
  readonly store: SimStore;
  readonly storeLatencyMs: number;
  readonly log: (process: SimProcess) => Logger;
  readonly onCrash: (what: string) => void;
  readonly keys: SimKeys;
  readonly upkeep: UpkeepPlan | null;
  /** What a receiver believes of who looks after a machine. */
  readonly isOurs: (machine: MachineId, receiver: string) => boolean;
  /** Stands between receiver and store: planted bugs. */
  readonly wrapStore: (store: ObjectStore) => ObjectStore;
}

/** Fingerprint of the certificate that a simulated machine was enrolled with. */
export const certificateOf = (machine: MachineId): string => machine.replaceAll('-', '').padEnd(64, '0');

/** Points are proven once in so many passes. */
const PROVE_PASSES = 3;

export class ReceiverNode {
  readonly #world: ReceiverWorld;
  readonly #rng: Rng;
  #registry: SessionRegistry | null = null;
  #client: StoreClient | null = null;
  #store: ObjectStore | null = null;
  #starts = 0;
  #isStoreCut = false;
  process: SimProcess;

  constructor(
    world: ReceiverWorld,
    readonly name: string,
    rng: Rng,
  ) {
    this.#world = world;
    this.#rng = rng;
    this.process = new SimProcess(world.scheduler, `${name}#0`);
    this.process.kill();
  }

  get isUp(): boolean {
    return this.process.isAlive;
  }

  start(): void {
    if (this.isUp) return;
    const { scheduler, store, storeLatencyMs, wrapStore } = this.#world;
    const process = new SimProcess(scheduler, `${this.name}#${++this.#starts}`);
    this.process = process;
    const rng = this.#rng.fork(process.name);
    this.#client = new StoreClient(scheduler, store, process, rng.fork('store'), storeLatencyMs);
    this.#client.isCut = this.#isStoreCut;
    this.#store = wrapStore(this.#client);
    this.#world.keys.attach(this.#store, process, rng.fork('keys'));
    const machines = new OwnedMachines();
    const log = this.#world.log(process);
    const deps = { store: this.#store, clock: process.clock, randomId: () => rng.uuid(), log, machines };
    this.#registry = new SessionRegistry({ ...deps, program: 'simulation' });
    if (this.#world.upkeep === null) return;
    const service = this.#keepUp(deps, this.#world.upkeep);
    const { scrubEveryMs } = this.#world.upkeep;
    if (scrubEveryMs !== null) this.#scrub(deps, service, this.#registry, rng.fork('scrub'), scrubEveryMs);
  }

  #keepUp(
    deps: Omit<ConstructorParameters<typeof UpkeepService>[0], 'isOurs' | 'policyOf'>,
    { intervalMs, deletionDelayMs, policy }: UpkeepPlan,
  ): UpkeepService {
    const service = new UpkeepService(
      {
        ...deps,
        isOurs: (machine) => Promise.resolve(this.#world.isOurs(machine, this.name)),
        policyOf: () => Promise.resolve(policy),
      },
      {
        ...{ intervalMs, deletionDelayMs, bytesPerSecond: UPKEEP_BYTES_PER_SECOND },
        // Of small disks with few points, too.
        shortcuts: { layerBytesMax: MIB, layersMin: 3, coveredMin: 2, shareMax: 1 },
        bases: { readAmplification: 1.2, liveBytesMin: 10_000 },
      },
    );
    service.run(new AbortController().signal).then(
      () => this.#world.onCrash(`upkeep of ${this.name} ended by itself`),
      (error: unknown) => this.#world.onCrash(`upkeep of ${this.name} ended: ${messageOf(error)}`),
    );
    return service;
  }

  #scrub(
    { store, clock, log }: Pick<ConstructorParameters<typeof UpkeepService>[0], 'store' | 'clock' | 'log'>,
    upkeep: UpkeepService,
    registry: SessionRegistry,
    rng: Rng,
    everyMs: number,
  ): void {
    const bytesPerSecond = UPKEEP_BYTES_PER_SECOND;
    const mending = new Mending({
      ...{ store, beneath: store, clock, log, bytesPerSecond },
      ownerOf: (machine) => upkeep.ownerOf(machine),
      resend: (...asked) => registry.homeAgents.resend(...asked),
    });
    const scrub = new ScrubTask({
      ...{ store, clock, log, random: rng.unit },
      settings: { enabled: true, bytesPerSecond, everyMs, prove: { by: 'interval', everyMs: PROVE_PASSES * everyMs } },
      isOurs: (machine) => Promise.resolve(this.#world.isOurs(machine, this.name)),
      repair: (machine, ended) => mending.mend(machine, ended),
    });
    scrub.run(new AbortController().signal).then(
      () => this.#world.onCrash(`the scrub of ${this.name} ended by itself`),
      (error: unknown) => this.#world.onCrash(`the scrub of ${this.name} ended: ${messageOf(error)}`),
    );
  }

  kill(): void {
    this.process.kill();
  }

  /** Nothing passes between this host and the store. */
  cutStore(isCut: boolean): void {
    this.#isStoreCut = isCut;
    if (this.#client !== null) this.#client.isCut = isCut;
  }

  /** Takes a machine over without a session of its agent, as failover and upkeep do. */
  takeOver(machine: SimMachine): void {
    if (!this.isUp || this.#store === null) return;
    const { process } = this;
    const rng = this.#rng.fork(`takeover ${process.name} ${this.#world.scheduler.nowMs}`);
    const deps = { store: this.#store, clock: process.clock, randomId: () => rng.uuid() };
    const work = async (): Promise<void> => {
      const owned = await resumeGeneration(deps, machine.id, machine.generation);
      await owned.commit((current) => current);
    };
    work().then(
      () => undefined,
      (error: unknown) => {
        // A machine without points, a store that doesn't answer, somebody who was faster.
        if (!(error instanceof AfterimageError)) this.#world.onCrash(messageOf(error));
      },
    );
  }

  /** As the session server does it: who a peer is, is decided before a byte of the session is read. */
  accept(machine: MachineId, transport: SimTransport): void {
    const registry = this.#registry;
    const store = this.#store;
    if (registry === null || store === null) return;
    void this.#admit(registry, store, machine, transport);
  }

  async #admit(
    registry: SessionRegistry,
    store: ObjectStore,
    machine: MachineId,
    transport: SimTransport,
  ): Promise<void> {
    try {
      const decision = await authenticator(store)(machine, certificateOf(machine));
      if ('identity' in decision) {
        await registry.admit({ identity: decision.identity, remote: 'agent' }, transport);
        return;
      }
      const { refusal, reason } = decision;
      const said = encodeControl({ type: 'refused', code: refusal.code, reason, hint: refusal.hint });
      await transport.send(said).catch(() => undefined);
      transport.close(refusal.code, reason);
    } catch (error) {
      transport.close(4500, messageOf(error));
    }
  }
}
