/**
 * A receiver of a simulated world: the real SessionRegistry with its sessions, in a process that can be killed, paused and started again. It keeps
 * nothing: all that a new process knows comes from the store.
 */
import type { Logger } from 'pino';
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { UPKEEP_BYTES_PER_SECOND } from '../../shared/limits-upkeep.js';
import { MIB, type MachineId } from '../../shared/units.js';
import { CLOSE } from '../../shared/wire/close-codes.js';
import { encodeControl } from '../../shared/wire/messages.js';
import { resumeGeneration } from '../../receiver/catalog/generation.js';
import { OwnedMachines } from '../../receiver/catalog/owned-machines.js';
import { FailoverEngine } from '../../receiver/failover/engine.js';
import type { OperationRequest } from '../../receiver/failover/operations.js';
import { replicatorOf } from '../../receiver/failover/real-parts.js';
import { Fleet } from '../../receiver/fleet/fleet.js';
import { Handovers } from '../../receiver/fleet/handovers.js';
import { loadHead } from '../../receiver/catalog/reader.js';
import { loadRecovery } from '../../receiver/catalog/recovery-io.js';
import { authenticator } from '../../receiver/session/identity.js';
import type { Candidate } from '../../receiver/fleet/wanted.js';
import { SessionRegistry } from '../../receiver/session/registry.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { Mending } from '../../receiver/upkeep/mending.js';
import { ScrubTask } from '../../receiver/upkeep/scrub-task.js';
import { UpkeepService, type UpkeepServiceDeps } from '../../receiver/upkeep/service.js';
import { IndexCache } from '../../receiver/volume/index-cache.js';
import { openPointContent } from '../../receiver/volume/point-content.js';
import { VolumeReplicator } from '../../receiver/volume/replicate.js';
import { CopyHost, type CopyWorld } from './copy-host.js';
import type { SimKeys } from './keys.js';
import type { SimMachine } from './machine.js';
import type { SimTransport } from './network.js';
import type { FleetPlan, UpkeepPlan } from './plan.js';
import { SimProcess } from './process.js';
import type { Rng } from './rng.js';
import { StoreClient, type SimStore } from './store.js';

export interface ReceiverWorld extends CopyWorld {
  readonly store: SimStore;
  readonly storeLatencyMs: number;
  readonly log: (process: SimProcess) => Logger;
  readonly onCrash: (what: string) => void;
  readonly keys: SimKeys;
  readonly upkeep: UpkeepPlan | null;
  readonly fleet: FleetPlan | null;
  /** Whether a machine's agent is routed to a receiver, where they don't find each other by themselves. */
  readonly isRouted: (machine: MachineId, receiver: string) => boolean;
  /** Whether what a receiver believes of who looks after a machine is wrong this time. */
  readonly isLied: () => boolean;
  /** Stands between receiver and store: planted bugs. */
  readonly wrapStore: (store: ObjectStore) => ObjectStore;
}

/** Fingerprint of the certificate that a simulated machine was enrolled with. */
export const certificateOf = (machine: MachineId): string => machine.replaceAll('-', '').padEnd(64, '0');

/** Between two points of a copy. */
const COPY_INTERVAL_MS = 2_000;
/** Points are proven once in so many passes. */
const PROVE_PASSES = 3;

/** What a process of a receiver runs. */
interface Life {
  readonly registry: SessionRegistry;
  readonly store: ObjectStore;
  readonly client: StoreClient;
  readonly fleet: Fleet | null;
  readonly engine: FailoverEngine | null;
  readonly stop: AbortController;
  /** Loops that end after `stop`. */
  readonly loops: Promise<void>[];
  readonly open: Set<SimTransport>;
  isListening: boolean;
}

type Deps = Pick<UpkeepServiceDeps, 'store' | 'clock' | 'log' | 'randomId' | 'machines' | 'owner' | 'isOurs'>;

type BaseDeps = Pick<Deps, 'store' | 'clock' | 'log' | 'randomId'>;

export class ReceiverNode {
  readonly #world: ReceiverWorld;
  readonly #rng: Rng;
  readonly #weight: number;
  readonly #copies: CopyHost;
  #life: Life | null = null;
  #starts = 0;
  #isStoreCut = false;
  /** Since when the store has been as reachable, or not, as it is. */
  #storeSinceMs = 0;
  process: SimProcess;
  /** As it is kept in the state folder: the same for each process on this host. */
  readonly id: string;
  readonly address: string;
  /** It was stopped, or lost, and isn't started again for now. */
  isAway = false;

  constructor(
    world: ReceiverWorld,
    readonly name: string,
    rng: Rng,
    weight = 1,
  ) {
    this.#world = world;
    this.#rng = rng;
    this.#weight = weight;
    this.#copies = new CopyHost(world, rng.fork('copies'));
    this.id = rng.fork('id').uuid();
    this.address = `${name}:7443`;
    this.process = new SimProcess(world.scheduler, `${name}#0`);
    this.process.kill();
  }

  get isUp(): boolean {
    return this.process.isAlive;
  }

  /** Takes new connections. */
  get isListening(): boolean {
    return this.isUp && this.#life?.isListening === true;
  }

  /** Copies on this host. */
  get copies(): CopyHost {
    return this.#copies;
  }

  /** Since when it has been running and reaching the store, without a break; null: it isn't. */
  get wellSinceMs(): number | null {
    const { isRunning, runningSinceMs } = this.process;
    return isRunning && !this.#isStoreCut && !this.isAway ? Math.max(runningSinceMs, this.#storeSinceMs) : null;
  }

  get candidate(): Candidate {
    return { id: this.id, weight: this.#weight };
  }

  /** The machine's agent replicates to this receiver, as far as it knows. */
  serves(machine: MachineId): boolean {
    const machines = this.isUp ? (this.#life?.registry.machines ?? []) : [];
    return machines.some((m) => m.machine === machine && m.connected && m.mode === 'replicate');
  }

  start(): void {
    if (this.isUp || this.isAway) return;
    const { scheduler, store: service, storeLatencyMs, wrapStore } = this.#world;
    const process = new SimProcess(scheduler, `${this.name}#${++this.#starts}`);
    this.process = process;
    const rng = this.#rng.fork(process.name);
    const client = new StoreClient(scheduler, service, process, rng.fork('store'), storeLatencyMs);
    client.isCut = this.#isStoreCut;
    const store = wrapStore(client);
    this.#world.keys.attach(store, process, rng.fork('keys'));
    const log = this.#world.log(process);
    const base = { store, clock: process.clock, randomId: () => rng.uuid(), log };
    const fleet = this.#fleetOf(base, () => registry.sessions.length);
    const machines = new OwnedMachines();
    const more = fleet === null ? {} : { fleet };
    const registry: SessionRegistry = new SessionRegistry({ ...base, machines, program: 'simulation', ...more });
    const engine = fleet === null ? null : this.#engineOf(base, machines, fleet, registry);
    const life: Life = {
      ...{
        registry,
        store,
        client,
        fleet,
        engine,
        stop: new AbortController(),
        loops: [],
        open: new Set(),
        isListening: true,
      },
    };
    this.#life = life;
    engine?.start().catch((error: unknown) => log.error({ err: error }, 'not every machine could be resumed'));
    if (fleet !== null) this.#share(life, fleet, base, rng.fork('handovers'));
    if (this.#world.upkeep === null) return;
    const deps = { ...base, machines, owner: fleet?.owner ?? null, isOurs: this.#claims(store, fleet) };
    const upkeep = this.#keepUp(life, deps, this.#world.upkeep);
    const { scrubEveryMs } = this.#world.upkeep;
    if (scrubEveryMs !== null) this.#scrub(life, deps, upkeep, rng.fork('scrub'), scrubEveryMs);
  }

  #fleetOf(base: BaseDeps, machines: () => number): Fleet | null {
    const { fleet: plan } = this.#world;
    if (plan === null) return null;
    const { id, name, address } = this;
    const load = (): { machines: number; bytesPerSecond: number } => ({ machines: machines(), bytesPerSecond: 0 });
    const self = { id, name, addresses: [address], program: 'simulation' };
    return new Fleet({ ...base, load }, { ...self, weight: this.#weight, heartbeatMs: plan.heartbeatMs });
  }

  #engineOf(base: BaseDeps, machines: OwnedMachines, fleet: Fleet, registry: SessionRegistry): FailoverEngine {
    const { store, clock, randomId, log } = base;
    const indexes = new IndexCache();
    return new FailoverEngine(
      {
        ...base,
        ...this.#copies.parts(this.process),
        home: registry.homeAgents,
        owner: fleet.owner,
        fleet,
        openContent: (view, point, disk, signal) => openPointContent(store, view, point, disk, indexes, signal),
        replicator: ({ owned, volumes }) => {
          machines.add(owned);
          const options = { owned, volumes, intervalMs: COPY_INTERVAL_MS, reason: 'running copy' };
          return replicatorOf(new VolumeReplicator({ store, clock, randomId, log }, options), clock);
        },
      },
      {
        ...{ receiver: this.id, receiverName: this.name, folder: `/${this.name}`, provider: 'none', hydrate: null },
      },
    );
  }

  /** An operator gives a command on this host. */
  command(machine: MachineId, request: OperationRequest): void {
    const engine = this.isUp ? this.#life?.engine : null;
    if (engine == null) return;
    this.process.deliver(() => {
      engine.begin(machine, request).catch((error: unknown) => {
        if (!(error instanceof AfterimageError)) this.#world.onCrash(`${request.operation}: ${messageOf(error)}`);
      });
    });
  }

  #share(life: Life, fleet: Fleet, base: Pick<Deps, 'store' | 'clock' | 'log'>, rng: Rng): void {
    const perMinute = this.#world.fleet?.handoversPerMinute ?? 1;
    fleet.start();
    const handovers = new Handovers({ ...base, random: rng.unit, fleet, sessions: life.registry, perMinute });
    this.#loop(life, 'handing over', handovers.run(life.stop.signal));
  }

  /** Of machines that nobody writes here: whether their upkeep is this receiver's, as it believes. */
  #claims(store: ObjectStore, fleet: Fleet | null): Deps['isOurs'] {
    const { isRouted, isLied } = this.#world;
    return async (machine) => {
      const isOurs =
        fleet === null
          ? isRouted(machine, this.name)
          : fleet.isOurs(machine, await loadHead(store, machine), await loadRecovery(store, machine)).ours;
      return isLied() ? !isOurs : isOurs;
    };
  }

  /** A loop that must end when the receiver stops, and not before. */
  #loop({ stop, loops }: Life, what: string, running: Promise<void>): void {
    const ended = running.then(
      () => {
        if (!stop.signal.aborted) this.#world.onCrash(`${what} of ${this.name} ended by itself`);
      },
      (error: unknown) => this.#world.onCrash(`${what} of ${this.name} ended: ${messageOf(error)}`),
    );
    loops.push(ended);
  }

  #keepUp(life: Life, deps: Deps, { intervalMs, deletionDelayMs, policy }: UpkeepPlan): UpkeepService {
    const service = new UpkeepService(
      { ...deps, policyOf: () => Promise.resolve(policy) },
      {
        ...{ intervalMs, deletionDelayMs, bytesPerSecond: UPKEEP_BYTES_PER_SECOND },
        // Of small disks with few points, too.
        shortcuts: { layerBytesMax: MIB, layersMin: 3, coveredMin: 2, shareMax: 1 },
        bases: { readAmplification: 1.2, liveBytesMin: 10_000 },
      },
    );
    this.#loop(life, 'upkeep', service.run(life.stop.signal));
    return service;
  }

  #scrub(life: Life, { store, clock, log, isOurs }: Deps, upkeep: UpkeepService, rng: Rng, everyMs: number): void {
    const bytesPerSecond = UPKEEP_BYTES_PER_SECOND;
    const mending = new Mending({
      ...{ store, beneath: store, clock, log, bytesPerSecond },
      ownerOf: (machine) => upkeep.ownerOf(machine),
      resend: (...asked) => life.engine?.resend(...asked) ?? life.registry.homeAgents.resend(...asked),
      wholeCopy: (machine) => life.engine?.wholeCopy(machine) ?? null,
    });
    const scrub = new ScrubTask({
      ...{ store, clock, log, random: rng.unit, isOurs },
      settings: { enabled: true, bytesPerSecond, everyMs, prove: { by: 'interval', everyMs: PROVE_PASSES * everyMs } },
      repair: (machine, ended) => mending.mend(machine, ended),
    });
    this.#loop(life, 'the scrub', scrub.run(life.stop.signal));
  }

  /** Stops as the daemon does: says that it leaves, ends its sessions, lets what is under way come to its end. */
  async leave(): Promise<void> {
    const life = this.#life;
    const { process } = this;
    if (life === null) return;
    life.stop.abort();
    await life.fleet?.leave();
    life.isListening = false;
    for (const transport of life.open) transport.close(CLOSE.goingAway.code, 'the receiver is stopping');
    await life.registry.settled();
    await Promise.all(life.loops);
    await life.engine?.stop();
    process.kill();
  }

  kill(): void {
    this.process.kill();
  }

  /** Nothing passes between this host and the store. */
  cutStore(isCut: boolean): void {
    if (isCut !== this.#isStoreCut) this.#storeSinceMs = this.#world.scheduler.nowMs;
    this.#isStoreCut = isCut;
    if (this.#life !== null) this.#life.client.isCut = isCut;
  }

  /** Takes a machine over without a session of its agent, as failover and upkeep do. */
  takeOver(machine: SimMachine): void {
    const life = this.#life;
    if (!this.isUp || life === null) return;
    const { process } = this;
    const rng = this.#rng.fork(`takeover ${process.name} ${this.#world.scheduler.nowMs}`);
    const owner = life.fleet?.owner ?? null;
    const deps = { store: life.store, clock: process.clock, randomId: () => rng.uuid(), owner };
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
    const life = this.#life;
    if (life === null) return;
    life.open.add(transport);
    void transport.closed.then(() => life.open.delete(transport));
    void this.#admit(life.registry, life.store, machine, transport);
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
