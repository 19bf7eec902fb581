/**
 * One simulated world from one seed: made, run with faults, healed, checked. The result says what was wrong, and has the hash of the trace, which is
 * the same whenever the seed is.
 */
import { pino, type Logger } from 'pino';
import { HANDOVER_PAUSE_MS } from '../../shared/limits-fleet.js';
import { PIN_TTL_MS } from '../../shared/limits-retention.js';
import { RESEND_ANSWER_MS } from '../../shared/limits-scrub.js';
import { CLOSE } from '../../shared/wire/close-codes.js';
import type { MarkTracker } from '../../agent/tracker/tracker.js';
import { MANIFEST_VERSION } from '../../receiver/catalog/manifest.js';
import type { Instance } from '../../receiver/catalog/recovery.js';
import { createIdentity } from '../../receiver/session/identity.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { AgentNode, hardwareIdOf } from './agent-node.js';
import { useSynchronousCodec } from './codec.js';
import type { SimDisk } from './disk.js';
import { Faults } from './faults.js';
import { Hands } from './hands.js';
import { SimKeys } from './keys.js';
import { SimMachine } from './machine.js';
import { Model } from './model.js';
import { Network } from './network.js';
import { Operator } from './operator.js';
import { hasCopies, planOf, withFleet, type FleetPlan, type Plan, type UpkeepPlan } from './plan.js';
import { EPOCH_MS, SimProcess } from './process.js';
import { certificateOf, ReceiverNode } from './receiver-node.js';
import { Reader } from './reader.js';
import { Rng } from './rng.js';
import { Scheduler } from './scheduler.js';
import { recoveryOf } from './rights.js';
import { misplaced } from './spread.js';
import { SimStore } from './store.js';
import { wayHome } from './switchover.js';
import { headOf } from './needed.js';

/** Where an agent dials. */
interface Dialled {
  readonly address: string;
  readonly timeoutMs: number | undefined;
}

/** Bugs that are planted by standing between the real parts; each must be caught. */
export interface Bugs {
  readonly wrapTracker?: (tracker: MarkTracker) => MarkTracker;
  readonly wrapStore?: (store: ObjectStore, service: SimStore) => ObjectStore;
  readonly changeMachine?: (machine: SimMachine) => void;
}

export interface WorldOptions {
  readonly seed: number;
  /** Overrides what the seed has drawn. */
  readonly plan?: Partial<Plan>;
  readonly bugs?: Bugs;
  /** Each line of the trace and of the logs. */
  readonly onLine?: (line: string) => void;
}

export interface WorldResult {
  readonly seed: number;
  readonly violations: readonly string[];
  readonly traceHash: string;
  readonly trace: readonly string[];
  readonly plan: Plan;
  readonly events: number;
  readonly virtualMs: number;
  readonly points: number;
  readonly checkedPoints: number;
  readonly writes: number;
  readonly requests: number;
  readonly objects: number;
  /** Pinned points that were read to the end beside everything else. */
  readonly readings: number;
  /** Points that an operator was told are held. */
  readonly holds: number;
  /** Objects that rotted; of these, those that were mended, and those that were named as lost. */
  readonly rot: Model['rot'];
  /** Data keys that were added to encrypted machines. */
  readonly rotations: number;
  /** Machines of which nothing may be readable in the store. */
  readonly encrypted: number;
  /** Virtual time from the end of the faults until all was well. */
  readonly healedMs: number | null;
  /** ... and from then until each machine was where it belongs; null: receivers don't share machines. */
  readonly spreadMs: number | null;
  /** Receivers that share the machines at the end; 0: they don't. */
  readonly receivers: number;
  /** Objects that were deleted by one that had lost the machine by then. */
  readonly lateDeletions: number;
  /** How often the right to write a machine went to a copy, or home again. */
  readonly changesOfHands: number;
  /** Machines that came home by a failback, with what their copies wrote. */
  readonly homecomings: number;
  readonly plannedFailovers: number;
  /** Test copies that were made. */
  readonly tests: number;
  readonly faults: ReadonlyMap<string, number>;
  /** Messages of the logs, without their numbers: which parts of the code the world came through. */
  readonly seen: ReadonlySet<string>;
}

/** How often the healing world is looked at. */
const LOOK_MS = 1_000;
const CHANCE_OF_A_WRONG_HINT = 0.05;
/** Upkeep has so many turns to remove all that is left of the faults. */
const CLEANING_PASSES = 10;
/** What has rotted is found, asked for and mended within this: an agent is given its time to answer, twice. */
const MENDING_MS = 2 * RESEND_ANSWER_MS + 300_000;
/** A machine that could not get to where it belongs is left alone for a while, and goes there at the rate of handovers. */
const SPREADING_MS = HANDOVER_PAUSE_MS + 180_000;
/** A source that is refused asks again every few seconds, unless it could reach nobody for long. */
const TOLD_MS = 120_000;
/**
 * Machines that were failed over are home again after this; an operator gives the command again and again. An agent that could not get to where its copy is
 * stays away for a while.
 */
const HOMECOMING_MS = HANDOVER_PAUSE_MS + 300_000;
const CHANCE_OF_A_CANCEL = 0.4;
const COMMAND_MS = 5_000;
/** A command that was given before may begin its job so late: the other receiver is asked first, and its record may be under way for long. */
const COMMANDS_LATE_MS = 150_000;
/** Where all are where they belong, nothing moves for so many heartbeats. */
const STILL_BEATS = 8;
/** A point's age is counted from its cut, which a receiver sees a moment later. */
const AGE_SLACK_MS = 2_000;

export async function runWorld(options: WorldOptions): Promise<WorldResult> {
  useSynchronousCodec();
  const world = new World(options);
  // In a real process this is its end: nobody waits for a promise that failed.
  const onUnhandled = (error: unknown): void => world.unhandled(error);
  process.on('unhandledRejection', onUnhandled);
  try {
    return await world.run();
  } finally {
    process.off('unhandledRejection', onUnhandled);
  }
}

class World {
  readonly #options: WorldOptions;
  readonly #plan: Plan;
  readonly #scheduler: Scheduler;
  readonly #store = new SimStore();
  readonly #network: Network;
  readonly #machines: readonly SimMachine[];
  readonly #agents: readonly AgentNode[];
  readonly #receivers: readonly ReceiverNode[];
  readonly #readers: readonly Reader[];
  readonly #operators: readonly Operator[];
  readonly #model: Model;
  readonly #hands: Hands;
  readonly #keys: SimKeys;
  readonly #faults: Faults;
  readonly #routes: number[];
  readonly #seen = new Set<string>();
  readonly #lies: Rng;
  readonly #ways: Rng;
  #contents = 0;

  constructor(options: WorldOptions) {
    this.#options = options;
    const rng = new Rng(options.seed);
    this.#plan = withFleet({ ...planOf(rng.fork('plan')), ...options.plan });
    const plan = this.#plan;
    this.#scheduler = new Scheduler(rng.fork('scheduler'));
    this.#lies = rng.fork('lies');
    this.#ways = rng.fork('ways');
    const { onLine } = options;
    if (onLine !== undefined) this.#scheduler.onTrace = onLine;
    this.#store.pageNames = plan.storePageNames;
    this.#network = new Network(this.#scheduler, rng.fork('network'), plan.netLatencyMs);
    this.#machines = plan.machines.map(
      (shape, i) =>
        new SimMachine(this.#scheduler, `machine${i}`, i, shape, rng.fork(`machine${i}`), () => ++this.#contents),
    );
    this.#model = new Model(this.#store, this.#machines, () => this.#scheduler.nowMs);
    this.#hands = new Hands({
      scheduler: this.#scheduler,
      store: this.#store,
      machines: this.#machines,
      receivers: () => this.#receivers,
      cutOf: (machine, point) => this.#model.cutOf(machine, point),
      isStoreSound: !plan.faults.has('store-requests') && !plan.faults.has('store-full'),
      isQuiet: [...plan.faults].every((fault) => fault === 'test-failover'),
      violated: (what) => this.#model.violated(what),
    });
    this.#keys = new SimKeys(this.#machines, plan.atRest, rng.fork('keys'));
    this.#keys.attachAtOnce(this.#store, new SimProcess(this.#scheduler, 'model').clock);
    this.#model.encrypted = this.#machines.filter((machine) => plan.atRest || machine.encrypts);
    const [first] = plan.upkeep?.policy.tiers ?? [];
    // A receiver whose clock jumps believes that points are older than they are.
    if (first !== undefined) {
      const keepsAll = first.everyMs === 0 && !plan.faults.has('wall-clock');
      this.#model.keepsAllForMs = keepsAll ? first.upToMs - AGE_SLACK_MS : 0;
    }
    const { bugs = {} } = options;
    this.#receivers = Array.from({ length: plan.receivers }, (_, i) => {
      const world = {
        scheduler: this.#scheduler,
        machines: this.#machines,
        nextContent: () => ++this.#contents,
        cut: (machine: SimMachine, disk: SimDisk, by: string) =>
          this.#model.cutOfCopy(machine, disk, by, this.#scheduler.nextOrder()),
        opened: (machine: SimMachine, copy: Instance, point: number) => {
          if (copy.kind === 'failover') this.#model.copied(machine, point);
          this.#hands.opened(machine, copy, point);
        },
        booted: (machine: SimMachine, copy: Instance) => this.#hands.booted(machine, copy),
        store: this.#store,
        storeLatencyMs: plan.storeLatencyMs,
        keys: this.#keys,
        log: (process: SimProcess) => this.#log(process),
        onCrash: (what: string) => this.#model.violated(what),
        upkeep: plan.upkeep,
        fleet: plan.fleet,
        isRouted: (machine: string, receiver: string) => this.#isRouted(machine, receiver),
        isLied: () => this.#faults.isOn && this.#lies.chance(CHANCE_OF_A_WRONG_HINT),
        wrapStore: (store: ObjectStore) => bugs.wrapStore?.(store, this.#store) ?? store,
      };
      return new ReceiverNode(world, `receiver${i}`, rng.fork(`receiver${i}`), plan.fleet?.weights[i]);
    });
    this.#model.receiverIds = new Map(this.#receivers.map(({ name, id }) => [name, id]));
    for (const receiver of this.#receivers.slice(plan.receivers - (plan.fleet?.joining ?? 0))) receiver.isAway = true;
    const addresses = this.#receivers.map(({ address }) => address);
    const known = plan.fleet?.areAllKnown === true ? addresses : addresses.slice(0, 1);
    this.#agents = this.#machines.map((machine, i) => {
      const world = {
        scheduler: this.#scheduler,
        log: (process: SimProcess) => this.#log(process),
        connect: (process: SimProcess, _machine: SimMachine, to: Dialled) => this.#connect(process, machine, i, to),
        ...(plan.fleet === null ? {} : { addresses: known }),
        onCrash: (what: string) => this.#model.violated(what),
        sourceKeys: (of: SimMachine, keys: Rng) => this.#keys.ofSource(of, keys),
        restoring: (of: SimMachine) => this.#hands.restoring(of),
        wrapTracker: bugs.wrapTracker ?? ((tracker: MarkTracker) => tracker),
      };
      return new AgentNode(world, machine, rng.fork(`agent${i}`), plan.interval);
    });
    for (const machine of this.#machines) bugs.changeMachine?.(machine);
    const readers = plan.upkeep?.readers ?? 0;
    this.#readers = Array.from({ length: readers }, (_, i) => {
      const world = {
        scheduler: this.#scheduler,
        store: this.#store,
        storeLatencyMs: plan.storeLatencyMs,
        keys: this.#keys,
        machines: this.#machines,
        violated: (what: string) => this.#model.violated(what),
        isDamaged: (machine: SimMachine) => this.#model.isDamaged(machine),
        wrapStore: (store: ObjectStore) => bugs.wrapStore?.(store, this.#store) ?? store,
      };
      return new Reader(world, `reader${i}`, rng.fork(`reader${i}`));
    });
    const operators = plan.upkeep?.operators ?? 0;
    this.#operators = Array.from({ length: operators }, (_, i) => {
      const world = {
        scheduler: this.#scheduler,
        store: this.#store,
        storeLatencyMs: plan.storeLatencyMs,
        keys: this.#keys,
        isDamaged: (machine: SimMachine) => this.#model.isDamaged(machine),
        hasReceiverKeys: (machine: SimMachine) => plan.atRest && !machine.encrypts,
        machines: this.#machines,
        held: (machine: SimMachine, name: string, point: number) => this.#model.held(machine, name, point),
        released: (machine: SimMachine, name: string) => this.#model.released(machine, name),
        violated: (what: string) => this.#model.violated(what),
        wrapStore: (store: ObjectStore) => bugs.wrapStore?.(store, this.#store) ?? store,
      };
      return new Operator(world, `operator${i}`, rng.fork(`operator${i}`));
    });
    this.#routes = this.#agents.map(() => 0);
    this.#faults = new Faults({
      scheduler: this.#scheduler,
      plan,
      rng: rng.fork('faults'),
      store: this.#store,
      network: this.#network,
      agents: this.#agents,
      receivers: this.#receivers,
      routes: this.#routes,
      rotted: (machine, name) => this.#model.rotted(machine, name),
    });
  }

  async run(): Promise<WorldResult> {
    const { faultyMs, healingMs, checks } = this.#plan;
    for (const machine of this.#machines) await this.#enrol(machine);
    for (const receiver of this.#receivers) receiver.start();
    for (const agent of this.#agents) {
      agent.machine.boot();
      agent.start();
    }
    for (const reader of this.#readers) void reader.run();
    for (const operator of this.#operators) void operator.run();
    this.#faults.start();
    for (let i = 1; i <= checks && !this.#isBroken; i++) {
      await this.#scheduler.run((faultyMs * i) / checks);
      await this.#model.check();
    }
    this.#faults.stop();
    for (const machine of this.#machines) {
      machine.isStill = true;
      machine.workload.stop();
    }
    // A held point that is damaged keeps what came after it from being mended, and with it the way home.
    for (const operator of this.#operators) operator.stop();
    if (!this.#isBroken && hasCopies(this.#plan.faults)) await this.#comeHome();
    const healedMs = this.#isBroken ? null : await this.#heal(healingMs);
    for (const reader of this.#readers) reader.stop();
    const spreadMs = this.#isBroken || this.#plan.fleet === null ? null : await this.#spread(this.#plan.fleet);
    if (!this.#isBroken) await this.#mend();
    if (!this.#isBroken && this.#plan.upkeep !== null) await this.#clean(this.#plan.upkeep);
    if (!this.#isBroken) await this.#model.check(true);
    if (!this.#isBroken) for (const machine of this.#machines) await this.#model.checkNewest(machine);
    if (!this.#isBroken) this.#model.checkSecrets();
    if (!this.#isBroken) this.#checkLeftovers();
    return this.#result(healedMs, spreadMs);
  }

  /** Agents reach one receiver, where receivers don't share them. */
  #isRouted(machine: string, receiver: string): boolean {
    const agent = this.#agents.findIndex((a) => a.machine.id === machine);
    return this.#receivers[this.#routes[agent] ?? 0]?.name === receiver;
  }

  unhandled(error: unknown): void {
    this.#model.violated(
      `unhandled rejection: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
    );
  }

  get #isBroken(): boolean {
    return this.#model.violations.length > 0;
  }

  /** Runs until every agent is protected and nothing waits to be sent; null (and a violation) when that takes too long. */
  async #heal(limitMs: number): Promise<number | null> {
    const startMs = this.#scheduler.nowMs;
    while (this.#scheduler.nowMs < startMs + limitMs) {
      await this.#scheduler.run(this.#scheduler.nowMs + LOOK_MS);
      if (this.#agents.every(isWell)) return this.#scheduler.nowMs - startMs;
    }
    for (const agent of this.#agents) {
      if (isWell(agent)) continue;
      const status = agent.status();
      const disks = status?.disks.map((d) => `${d.id} ${d.state} (${d.reason}) ${d.dataAtRisk.bytes} bytes at risk`);
      const why = JSON.stringify({ receiver: status?.receiver, fallback: status?.lastFallback });
      this.#model.violated(`${agent.machine.name} is not well after ${limitMs / 1000} s: ${disks?.join(', ')} ${why}`);
    }
    return null;
  }

  /** Whoever was failed over: its source is refused and told so; then it is brought home, or the failover is cancelled and home goes on. */
  async #comeHome(): Promise<void> {
    const isAway = (machine: SimMachine): boolean => recoveryOf(this.#store, machine)?.home.mode === 'refused';
    const away = this.#machines.filter(isAway);
    const before = away.map((machine) => this.#model.refusalsOf(machine));
    const says = ({ id }: SimMachine): boolean =>
      this.#agents.find(({ machine }) => machine.id === id)?.status()?.receiver.refused?.name === CLOSE.failedOver.name;
    const untold = (): SimMachine[] =>
      away.filter((m, i) => isAway(m) && (this.#model.refusalsOf(m) === before[i] || !says(m)));
    let limitMs = this.#scheduler.nowMs + TOLD_MS;
    while (untold().length > 0 && this.#scheduler.nowMs < limitMs && !this.#isBroken)
      await this.#scheduler.run(this.#scheduler.nowMs + LOOK_MS);
    for (const { name } of untold()) this.#model.violated(`${name} is failed over, and its source does not say so`);
    const isUp = (receiver: string): boolean => this.#receivers.some((r) => r.isUp && r.id === receiver);
    // A failover that fails may lack what rotted: home can send it again.
    const hasFailed = (machine: SimMachine): boolean =>
      this.#plan.faults.has('bit-rot') && recoveryOf(this.#store, machine)?.state.endsWith('FailoverFailed') === true;
    const byCancel = (machine: SimMachine): boolean =>
      !this.#plan.faults.has('switchover') ||
      hasFailed(machine) ||
      this.#ways.fork(machine.name).chance(CHANCE_OF_A_CANCEL);
    const next = (machine: SimMachine): ReturnType<typeof wayHome> =>
      wayHome(recoveryOf(this.#store, machine), byCancel(machine), isUp);
    limitMs = this.#scheduler.nowMs + HOMECOMING_MS;
    let homeSinceMs = this.#scheduler.nowMs;
    const isOver = (): boolean => this.#scheduler.nowMs - homeSinceMs >= COMMANDS_LATE_MS || this.#isBroken;
    while (!isOver() && this.#scheduler.nowMs < limitMs) {
      for (const machine of this.#machines) {
        const step = next(machine);
        if (step === null) continue;
        homeSinceMs = this.#scheduler.nowMs + COMMAND_MS;
        if (step !== 'wait') for (const receiver of this.#receivers) receiver.command(machine.id, step);
      }
      await this.#scheduler.run(this.#scheduler.nowMs + COMMAND_MS);
    }
    for (const machine of this.#machines) {
      if (next(machine) === null) continue;
      const { state, job } = recoveryOf(this.#store, machine) ?? {};
      this.#model.violated(`${machine.name} did not come home: ${state}, ${JSON.stringify(job?.tasks.at(-1))}`);
    }
  }

  /** Everybody is home: nothing of a copy is left on any host that runs, and home runs again. */
  #checkLeftovers(): void {
    for (const { name, copies } of this.#receivers.filter(({ isUp }) => isUp))
      for (const what of copies.leftovers()) this.#model.violated(`${name} still has ${what}`);
    for (const machine of this.#machines)
      if (machine.isDown('hook') || machine.isDown('operator'))
        this.#model.violated(`the workload of ${machine.name} was not let run again`);
  }

  /** Runs until each machine is with the one receiver that it belongs to; then it must stay there. */
  async #spread({ heartbeatMs }: FleetPlan): Promise<number | null> {
    const startMs = this.#scheduler.nowMs;
    const canReach = (machine: SimMachine, receiver: ReceiverNode): boolean =>
      !this.#network.isCutForGood(machine.name, receiver.name);
    const sharing = { store: this.#store, machines: this.#machines, receivers: this.#receivers, canReach };
    while (misplaced(sharing).length > 0 && this.#scheduler.nowMs < startMs + SPREADING_MS)
      await this.#scheduler.run(this.#scheduler.nowMs + LOOK_MS);
    const spreadMs = this.#scheduler.nowMs - startMs;
    for (const what of misplaced(sharing)) this.#model.violated(`after ${spreadMs / 1000} s still: ${what}`);
    if (this.#isBroken) return null;
    // One that must come back to it again and again may be on its way just now.
    const still = this.#machines.filter((machine) => this.#receivers.every((r) => !r.isUp || canReach(machine, r)));
    const epochs = (): (number | undefined)[] => still.map(({ id }) => headOf(this.#store, id)?.epoch);
    const before = epochs();
    await this.#scheduler.run(this.#scheduler.nowMs + STILL_BEATS * heartbeatMs);
    for (const [i, epoch] of epochs().entries())
      if (epoch !== before[i])
        this.#model.violated(`${still[i]?.name} was taken over although it was where it belongs`);
    return spreadMs;
  }

  /**
   * Runs until nothing is left that nobody needs. A new epoch comes first: what an owner has begun and given up stays in flight, as far as it knows,
   * for as long as it is the owner. Then receivers begin anew as well, twice: a takeover that was given up has left objects of the epoch that would have
   * been; who owned the machine before goes on below that, the next owner has that very number and takes them for its own, and the one after tidies up.
   */
  async #clean(upkeep: UpkeepPlan): Promise<void> {
    for (const withReceivers of [false, true, true]) {
      for (const receiver of withReceivers ? this.#receivers.filter(({ isUp }) => isUp) : []) {
        receiver.kill();
        receiver.start();
      }
      for (const agent of this.#agents) {
        agent.kill();
        agent.start();
      }
      await this.#heal(this.#plan.healingMs);
      await this.#collect(upkeep);
      if (this.#isBroken || this.#model.garbage().length === 0) return;
    }
    const left = this.#model.garbage();
    this.#model.violated(
      `${left.length} objects that nobody needs are still there, the first: ${left.slice(0, 5).join(', ')}`,
    );
  }

  /** Runs until nothing is left that nobody needs, or the passes that this may take have gone by. */
  async #collect({ intervalMs, deletionDelayMs }: UpkeepPlan): Promise<void> {
    // A pin whose removal was lost is honoured until it has expired twice.
    const pins = this.#readers.length > 0 || hasCopies(this.#plan.faults);
    const pinnedMs = pins ? 2 * PIN_TTL_MS : 0;
    const limitMs = this.#scheduler.nowMs + CLEANING_PASSES * (intervalMs + deletionDelayMs) + pinnedMs;
    while (this.#model.garbage().length > 0 && this.#scheduler.nowMs < limitMs && !this.#isBroken)
      await this.#scheduler.run(this.#scheduler.nowMs + LOOK_MS);
  }

  /** Runs until all that has rotted is mended, or is said to be lost. */
  async #mend(): Promise<void> {
    const limitMs = this.#scheduler.nowMs + MENDING_MS;
    const left = (): string[] => this.#machines.flatMap((machine) => this.#model.unsettled(machine));
    while (left().length > 0 && this.#scheduler.nowMs < limitMs && !this.#isBroken)
      await this.#scheduler.run(this.#scheduler.nowMs + LOOK_MS);
    const [first] = left();
    if (first !== undefined) this.#model.violated(`${left().length} objects are damaged still, the first: ${first}`);
  }

  async #enrol(machine: SimMachine): Promise<void> {
    await createIdentity(this.#store, {
      version: MANIFEST_VERSION,
      number: 1,
      machine: machine.id,
      name: machine.name,
      certificate: certificateOf(machine.id),
      hardwareId: hardwareIdOf(machine),
      generation: 1,
      enrolledAtMs: EPOCH_MS,
    });
  }

  #connect(process: SimProcess, machine: SimMachine, agent: number, to: Dialled): ReturnType<Network['dial']> {
    const isShared = this.#plan.fleet !== null;
    return this.#network.dial(
      process,
      () => {
        const receiver = isShared
          ? this.#receivers.find(({ address, isListening }) => isListening && address === to.address)
          : this.#receivers[this.#routes[agent] ?? 0];
        if (receiver === undefined) return null;
        return { process: receiver.process, accept: (transport) => receiver.accept(machine.id, transport) };
      },
      (agentEnd, receiverEnd) => {
        agentEnd.onArrival = (bytes) => this.#model.heardByAgent(machine, bytes);
        receiverEnd.onArrival = (bytes) => this.#model.heardByReceiver(machine, bytes);
      },
      to.timeoutMs,
    );
  }

  /** Logs are read for what they say happened, whether anybody looks at them or not. */
  #log(process: SimProcess): Logger {
    const { onLine } = this.#options;
    const write = (line: string): void => {
      this.#seen.add(happeningOf(line));
      onLine?.(`${this.#scheduler.nowMs.toFixed(3)} LOG ${process.name} ${line.trimEnd()}`);
    };
    const options = { level: 'info', base: null, timestamp: false, serializers: { err: pino.stdSerializers.err } };
    return pino(options, { write });
  }

  #result(healedMs: number | null, spreadMs: number | null): WorldResult {
    const points = this.#machines.reduce((sum, machine) => sum + this.#model.acknowledgedOf(machine).size, 0);
    return {
      seed: this.#options.seed,
      violations: this.#model.violations,
      traceHash: this.#scheduler.traceHash,
      trace: this.#scheduler.trace,
      plan: this.#plan,
      events: this.#scheduler.events,
      virtualMs: this.#scheduler.nowMs,
      points,
      checkedPoints: this.#model.checkedPoints,
      writes: this.#machines.reduce((sum, m) => sum + m.disks.reduce((n, d) => n + d.writes, 0), 0),
      requests: this.#store.requests,
      objects: this.#store.objects.size,
      readings: this.#readers.reduce((sum, reader) => sum + reader.readings, 0),
      rot: this.#model.rot,
      holds: this.#operators.reduce((sum, operator) => sum + operator.holds, 0),
      rotations: this.#operators.reduce((sum, operator) => sum + operator.rotations, 0),
      encrypted: this.#model.encrypted.length,
      healedMs,
      spreadMs,
      receivers: this.#plan.fleet === null ? 0 : this.#receivers.filter(({ isUp }) => isUp).length,
      lateDeletions: this.#model.lateDeletions,
      changesOfHands: this.#model.changesOfHands,
      homecomings: this.#hands.homecomings,
      plannedFailovers: this.#hands.plannedFailovers,
      tests: this.#hands.tests,
      faults: this.#faults.counts,
      seen: this.#seen,
    };
  }
}

/** What a line of a log says, without the numbers, names and ids in it. */
function happeningOf(line: string): string {
  const { msg, reason } = JSON.parse(line) as { msg: string; reason?: string };
  const text = reason === undefined || msg.includes(reason) ? msg : `${msg}: ${reason}`;
  return text
    .replaceAll(/[0-9a-f-]{36}/g, 'ID')
    .replaceAll(/machines\/\S+/g, 'NAME')
    .replaceAll(/\d+/g, 'N');
}

/** Protected, connected, and nothing that a point doesn't hold. */
function isWell(agent: AgentNode): boolean {
  const status = agent.status();
  if (status === null || !status.receiver.connected || status.state !== 'Protected') return false;
  return status.disks.every((disk) => disk.lastPoint > 0 && disk.dataAtRisk.bytes === 0 && disk.progress === null);
}
