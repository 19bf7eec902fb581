/**
 * What goes wrong in a world, and when: one loop per kind of fault that the plan has. `stop` ends them and puts everything right again; what is
 * broken then must heal by itself.
 */
import { PIN_TTL_MS } from '../../shared/limits-retention.js';
import type { OperationRequest } from '../../receiver/failover/operations.js';
import type { AgentNode } from './agent-node.js';
import type { SimMachine } from './machine.js';
import { headOf, listedBy, namedBy, smallObjects } from './needed.js';
import { originalOf } from '../../receiver/catalog/second-copies.js';
import type { Network } from './network.js';
import { hasCopies, SWITCHOVERS, type Fault, type Plan } from './plan.js';
import type { ReceiverNode } from './receiver-node.js';
import type { SimProcess } from './process.js';
import { recoveryOf } from './rights.js';
import type { Rng } from './rng.js';
import type { Scheduler } from './scheduler.js';
import type { SimStore } from './store.js';
import { nextStep, nextTest } from './switchover.js';

export interface Faulty {
  readonly scheduler: Scheduler;
  readonly plan: Plan;
  readonly rng: Rng;
  readonly store: SimStore;
  readonly network: Network;
  readonly agents: readonly AgentNode[];
  readonly receivers: readonly ReceiverNode[];
  /** Which receiver agents reach, by the number of the agent. */
  readonly routes: number[];
  /** An object of a machine has rotted. */
  readonly rotted: (machine: SimMachine, name: string) => void;
}

/** A stalled process is frozen for so long at most: longer than leases, heartbeats and the patience of others. */
const STALL_MAX_MS = 90_000;
/** Operators who switch machines over do one thing after the other. */
const COMMAND_EVERY_MS = 6_000;
/** Things that a process does in one or two points: requests, messages, calls. */
const TRAP_STEPS_MAX = 60;
/** ... and in a takeover: listing, reading, creating, the look at the boundary. */
const TAKEOVER_STEPS = 5;
const LAYER = /\/disks\/[^/]+\/(base|delta)\//;
const DOWN_MAX_MS = 20_000;
/** Then whoever has asked a receiver to stop ends it. */
const LEAVE_MAX_MS = 30_000;
const WALL_JUMP_MAX_MS = 3 * 60 * 60 * 1000;

export class Faults {
  readonly #world: Faulty;
  readonly #counts = new Map<Fault, number>();
  /** Originals: of an object and its copy only one rots. */
  readonly #onceRotten = new Set<string>();
  readonly #rotten = new Set<SimMachine>();
  isOn = true;

  constructor(world: Faulty) {
    this.#world = world;
  }

  get counts(): ReadonlyMap<Fault, number> {
    return this.#counts;
  }

  start(): void {
    const { plan, store, agents } = this.#world;
    if (plan.faults.has('store-requests')) store.faults = { ...plan.store };
    if (plan.faults.has('missed-marks'))
      for (const { machine } of agents) Object.assign(machine.kernel.faults, plan.tracker);
    for (const fault of plan.faults) this.#again(fault);
  }

  /** No more faults; everybody runs and hears everybody. */
  stop(): void {
    this.isOn = false;
    const { store, network, agents, receivers } = this.#world;
    store.heal();
    network.mend();
    this.#leaveSomeone();
    this.#leaveWhatIsWhole();
    for (const receiver of receivers) {
      receiver.cutStore(false);
      receiver.process.resume();
      receiver.start();
    }
    for (const agent of agents) {
      Object.assign(agent.machine.kernel.faults, { missedCompletion: 0, missedSubmission: 0, falseHit: 0 });
      agent.machine.setStateFull(false);
      agent.process.resume();
      this.#revive(agent);
    }
  }

  #again(fault: Fault): void {
    const { scheduler, plan, rng } = this.#world;
    const isCommand = SWITCHOVERS.some((what) => what === fault);
    const meanMs = isCommand ? Math.min(plan.faultEveryMs, COMMAND_EVERY_MS) : plan.faultEveryMs;
    scheduler.after(rng.wait(meanMs), `fault ${fault}`, () => {
      if (!this.isOn) return;
      this.#counts.set(fault, (this.#counts.get(fault) ?? 0) + 1);
      this.#do(fault);
      this.#again(fault);
    });
  }

  #do(fault: Fault): void {
    const { rng, network, store, agents, receivers, routes } = this.#world;
    const agent = rng.pick(agents);
    const receiver = rng.pick(receivers);
    switch (fault) {
      case 'store-requests':
      case 'missed-marks':
        // Chances of each request and mark.
        return;
      case 'agent-crash':
        this.#soon(agent.process, () => {
          agent.kill();
          this.#later(rng.between(0, DOWN_MAX_MS), 'agent starts', () => this.#revive(agent));
        });
        return;
      case 'power-cut':
        this.#soon(agent.process, () => {
          agent.kill();
          agent.machine.powerCut();
          this.#later(rng.between(1_000, DOWN_MAX_MS), 'machine boots', () => this.#revive(agent));
        });
        return;
      case 'receiver-crash':
        this.#soon(receiver.process, () => {
          receiver.kill();
          this.#later(rng.between(0, DOWN_MAX_MS), 'receiver starts', () => receiver.start());
        });
        return;
      case 'receiver-stall':
        this.#stall(receiver, rng.whole(1, TRAP_STEPS_MAX));
        return;
      case 'agent-stall': {
        const stalled = agent.process;
        this.#soon(stalled, () => {
          stalled.pause();
          this.#later(rng.between(500, STALL_MAX_MS / 2), 'agent wakes', () => stalled.resume());
        });
        return;
      }
      case 'fleet-change':
        this.#changeFleet();
        return;
      case 'failover':
        this.#failOver(agent.machine);
        return;
      case 'switchover':
        this.#switchOver(agent.machine);
        return;
      case 'test-failover':
        this.#test(agent.machine);
        return;
      case 'lasting-cut':
        this.#cutForGood(agent, receiver);
        return;
      case 'reroute':
        routes[rng.below(routes.length)] = rng.below(receivers.length);
        return;
      case 'takeover':
        this.#takeOver(agent, receiver);
        return;
      case 'partition':
        if (rng.chance(0.5)) network.cut(agent.machine.name, receiver.name);
        else receiver.cutStore(true);
        this.#later(rng.between(1_000, 60_000), 'partition ends', () => {
          network.mend();
          receiver.cutStore(false);
        });
        return;
      case 'connection-loss':
        network.breakOne(rng);
        return;
      case 'store-full':
        store.isFull = true;
        this.#later(rng.between(1_000, 30_000), 'store has room', () => (store.isFull = false));
        return;
      case 'bit-rot':
        this.#rot(agent.machine);
        return;
      case 'state-full':
        agent.machine.setStateFull(true);
        this.#later(rng.between(1_000, 30_000), 'state has room', () => agent.machine.setStateFull(false));
        return;
      case 'wall-clock':
        (rng.chance(0.5) ? agent : receiver).process.wallOffsetMs = rng.between(-this.#wallMaxMs, this.#wallMaxMs);
    }
  }

  /** One that falls asleep over it decides on a head that is long gone when it goes on; meanwhile the agent is served elsewhere. */
  #takeOver(agent: AgentNode, receiver: ReceiverNode): void {
    const { rng, receivers, routes } = this.#world;
    const isServing =
      this.#world.plan.fleet === null
        ? routes.some((route) => receivers[route] === receiver)
        : receiver.serves(agent.machine.id);
    if (!isServing && rng.chance(0.7)) this.#stall(receiver, rng.whole(1, TAKEOVER_STEPS));
    receiver.takeOver(agent.machine);
  }

  /** Of a layer that counts, or a small object, each with its copy once: what nobody needs any more may rot unseen. */
  #rot(machine: SimMachine): void {
    const { rng, store, rotted } = this.#world;
    const head = headOf(store, machine.id);
    if (head === null) return;
    const layers = [...namedBy(store, head)].filter((name) => LAYER.test(name) && store.objects.has(name)).sort();
    const small = smallObjects(store, head).filter((name) => !this.#onceRotten.has(originalOf(name) ?? name));
    const names = small.length > 0 && rng.chance(0.4) ? small.sort() : layers;
    if (names.length === 0) return;
    const name = rng.pick(names);
    this.#onceRotten.add(originalOf(name) ?? name);
    this.#world.scheduler.note(`${name} is ${store.rot(name, rng)}`);
    this.#rotten.add(machine);
    rotted(machine, name);
  }

  /** A receiver comes, leaves, or is lost; all of them may be gone for a while. */
  #changeFleet(): void {
    const { rng, receivers } = this.#world;
    const absent = receivers.filter(({ isAway, isUp }) => isAway && !isUp);
    const present = receivers.filter(({ isAway }) => !isAway);
    if (absent.length > 0 && (present.length === 0 || rng.chance(0.5))) {
      const comes = rng.pick(absent);
      comes.isAway = false;
      comes.start();
      return;
    }
    if (present.length === 0) return;
    const goes = rng.pick(present);
    if (rng.chance(0.4)) {
      this.#soon(goes.process, () => {
        goes.isAway = true;
        goes.kill();
      });
      return;
    }
    goes.isAway = true;
    const { process } = goes;
    process.deliver(() => void goes.leave());
    this.#later(LEAVE_MAX_MS, 'receiver was given its time to stop', () => process.kill());
  }

  /** In the end each agent knows one that is there, and reaches it. */
  #leaveSomeone(): void {
    const { plan, network, receivers, agents } = this.#world;
    const [first] = receivers;
    if (first?.isAway !== true) return;
    const present = receivers.filter(({ isAway }) => !isAway);
    const hasWay = ({ machine }: AgentNode): boolean =>
      present.some(({ name }) => !network.isCutForGood(machine.name, name));
    if (plan.fleet?.areAllKnown === true && agents.every(hasWay)) return;
    first.isAway = false;
    // It may be about to stop.
    first.kill();
  }

  /** What rotted in the store may be whole in a copy alone: its host isn't lost for good as well. */
  #leaveWhatIsWhole(): void {
    const { store, receivers } = this.#world;
    const hosts = new Set([...this.#rotten].map((machine) => recoveryOf(store, machine)?.failover?.receiver));
    for (const receiver of receivers) {
      if (!receiver.isAway || !hosts.has(receiver.id)) continue;
      receiver.isAway = false;
      receiver.kill();
    }
  }

  /** An operator fails a machine over, or takes that back; mostly where the copy is. */
  #failOver(machine: SimMachine): void {
    const { rng, store, receivers } = this.#world;
    const up = receivers.filter(({ isUp }) => isUp);
    // Nobody here has the keys of a source that encrypts.
    if (machine.encrypts || up.length === 0) return;
    const copy = recoveryOf(store, machine)?.failover ?? null;
    const holder = up.find(({ id }) => id === copy?.receiver);
    const asked = holder !== undefined && rng.chance(0.8) ? holder : rng.pick(up);
    if (copy !== null && rng.chance(0.6)) asked.command(machine.id, { operation: 'cancel' });
    else asked.command(machine.id, { operation: 'failover', point: 'latest', shutdown: false, commit: false });
  }

  /** One step there, or home again. Before home's disks may be restored the machine is shut down there. */
  #switchOver(machine: SimMachine): void {
    const { rng, store } = this.#world;
    const recovery = recoveryOf(store, machine);
    const step = nextStep(recovery, rng);
    if (step === null || machine.encrypts) return;
    if (['commit', 'reprotect', 'failback'].includes(step.operation) && recovery?.home.mode !== 'replicate')
      machine.shutDown('operator');
    this.#command(machine, recovery?.failover?.receiver ?? recovery?.job?.receiver, step);
  }

  #test(machine: SimMachine): void {
    const { rng, store } = this.#world;
    const head = headOf(store, machine.id);
    if (head === null || machine.encrypts) return;
    const recovery = recoveryOf(store, machine);
    const step = nextTest(recovery, [...listedBy(store, head).keys()], rng);
    this.#command(machine, recovery?.testFailover.instance?.receiver, step);
  }

  /** Mostly where it belongs. */
  #command(machine: SimMachine, receiver: string | undefined, step: OperationRequest): void {
    const { rng, receivers } = this.#world;
    const up = receivers.filter(({ isUp }) => isUp);
    if (up.length === 0) return;
    const holder = up.find(({ id }) => id === receiver);
    const asked = holder !== undefined && rng.chance(0.9) ? holder : rng.pick(up);
    asked.command(machine.id, step);
  }

  /** Not from the first, so that an agent has always somewhere to go. */
  #cutForGood(agent: AgentNode, receiver: ReceiverNode): void {
    const { network, receivers } = this.#world;
    if (receiver !== receivers[0]) network.cutForGood(agent.machine.name, receiver.name);
  }

  #stall(receiver: ReceiverNode, steps: number): void {
    const { rng } = this.#world;
    const stalled = receiver.process;
    stalled.trap(steps, () => {
      if (!this.isOn) return;
      stalled.pause();
      // Mostly somebody notices and the agents go elsewhere.
      if (rng.chance(0.7)) this.#reroute(receiver);
      this.#later(rng.between(500, STALL_MAX_MS), 'receiver wakes', () => stalled.resume());
    });
  }

  /** At one of the next things that the process does, where it hurts most; at times at once, whatever it is at. */
  #soon(process: SimProcess, happens: () => void): void {
    const { rng } = this.#world;
    if (rng.chance(0.3)) happens();
    else
      process.trap(rng.whole(1, TRAP_STEPS_MAX), () => {
        if (this.isOn) happens();
      });
  }

  /** Pins are honoured while clocks differ by less than their time to live, and no promise is made beyond. */
  get #wallMaxMs(): number {
    const { upkeep, faults } = this.#world.plan;
    return (upkeep?.readers ?? 0) > 0 || hasCopies(faults) ? PIN_TTL_MS / 3 : WALL_JUMP_MAX_MS;
  }

  #reroute(away: ReceiverNode): void {
    const { rng, receivers, routes } = this.#world;
    const others = receivers.flatMap((r, i) => (r === away ? [] : [i]));
    if (others.length === 0) return;
    for (let i = 0; i < routes.length; i++) if (receivers[routes[i] ?? 0] === away) routes[i] = rng.pick(others);
  }

  #revive(agent: AgentNode): void {
    agent.machine.boot();
    agent.start(agent.process.wallOffsetMs);
  }

  #later(delayMs: number, what: string, run: () => void): void {
    this.#world.scheduler.after(delayMs, what, () => {
      if (this.isOn) run();
    });
  }
}
