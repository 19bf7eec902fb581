/**
 * A machine changes hands: what must hold at the instant at which a copy begins, a guest or home is let run, and home is given its right back. Knows what
 * the store says, what disks hold and which hosts live; nobody is asked what it believes.
 */
import type { Instance, Recovery } from '../../receiver/catalog/recovery.js';
import { recoveryPrefix } from '../../receiver/catalog/names.js';
import { CHALLENGE_MS } from '../../shared/limits.js';
import type { SimDisk } from './disk.js';
import type { SimMachine, Stopper } from './machine.js';
import { headOf, plainOf } from './needed.js';
import type { ReceiverNode } from './receiver-node.js';
import { recoveryOf } from './rights.js';
import type { Scheduler } from './scheduler.js';
import type { SimStore, StoreWatcher } from './store.js';
import type { Flip } from './tracker.js';

/** Who has lived for so long without a break has heard a question that was asked meanwhile, and answered it. */
const LIFE_MS = CHALLENGE_MS + 10_000;
/** Until an operator who hears that a machine is home lets it run. */
const BOOT_MS = 2_000;
/** A machine whose workload writes makes a point within this, whatever its interval. */
const POINTS_MS = 12_000;

export interface HandsWorld {
  readonly scheduler: Scheduler;
  readonly store: SimStore;
  readonly machines: readonly SimMachine[];
  readonly receivers: () => readonly ReceiverNode[];
  /** The instant of the cut of a point that home has made; undefined: a copy has. */
  readonly cutOf: (machine: SimMachine, point: number) => Flip | undefined;
  /** Requests to the store fail for more than a moment only where the store can't be reached: who lives can say so. */
  readonly isStoreSound: boolean;
  /** Nothing happens but tests. */
  readonly isQuiet: boolean;
  readonly violated: (what: string) => void;
}

export class Hands implements StoreWatcher {
  readonly #world: HandsWorld;
  /** Machines that were failed over by a plan. */
  readonly #planned = new Set<SimMachine>();
  /** When each job was first recorded. */
  readonly #begun = new Map<string, number>();
  /** Test copies that were made. */
  readonly #tests = new Set<string>();
  /** Machines that came home by a failback; planned failovers. */
  homecomings = 0;
  plannedFailovers = 0;

  constructor(world: HandsWorld) {
    this.#world = world;
    world.store.watchers.push(this);
    for (const machine of world.machines) machine.onRun = (by) => this.#homeRuns(machine, by);
  }

  get tests(): number {
    return this.#tests.size;
  }

  /** A volume of a copy is made. */
  opened(machine: SimMachine, copy: Instance, point: number): void {
    if (copy.kind === 'test') return this.#tested(machine, copy);
    if (recoveryOf(this.#world.store, machine)?.job?.operation !== 'planned-failover') return;
    if (!this.#planned.has(machine)) this.plannedFailovers++;
    this.#planned.add(machine);
    const cut = this.#world.cutOf(machine, point);
    if (cut === undefined) return;
    for (const disk of machine.disks)
      if (disk.lastOrder > cut.order)
        this.#world.violated(
          `${machine.name} runs from point ${point} as planned, and ${disk.id} was written after it`,
        );
  }

  /** Beside a test points go on. */
  #tested(machine: SimMachine, copy: Instance): void {
    const { scheduler, store, isQuiet, violated } = this.#world;
    if (this.#tests.has(copy.id)) return;
    this.#tests.add(copy.id);
    if (!isQuiet) return;
    const newest = headOf(store, machine.id)?.lastPoint ?? 0;
    scheduler.after(POINTS_MS, `points of ${machine.name} went on beside a test`, () => {
      if (!machine.isStill && (headOf(store, machine.id)?.lastPoint ?? 0) <= newest)
        violated(`${machine.name} has made no point for ${POINTS_MS / 1000} s beside a test`);
    });
  }

  /** A guest is started. */
  booted(machine: SimMachine, copy: Instance): void {
    if (copy.kind === 'test') return;
    const generation = headOf(this.#world.store, machine.id)?.generation ?? 0;
    if (generation < copy.generation)
      this.#world.violated(
        `a copy of ${machine.name} runs before its generation ${copy.generation}: the machine is at ${generation}`,
      );
  }

  /** A restore writes to the disks at home. */
  restoring(machine: SimMachine): void {
    const mode = recoveryOf(this.#world.store, machine)?.home.mode;
    if (mode !== 'restore') this.#world.violated(`the disks of ${machine.name} are restored, and home is to ${mode}`);
  }

  created(name: string, bytes: Buffer, by: string): void {
    const machine = this.#world.machines.find(({ id }) => name.startsWith(recoveryPrefix(id)));
    if (machine === undefined) return;
    const before = recoveryOf(this.#world.store, machine);
    const after = plainOf(bytes) as Recovery;
    const { job } = after;
    if (job !== null && !this.#begun.has(job.id)) this.#begun.set(job.id, this.#world.scheduler.nowMs);
    if (before === null) return;
    this.#checkLife(machine, before, after, by);
    if (before.home.mode !== 'replicate' && after.home.mode === 'replicate') this.#comesHome(machine, before, after);
  }

  deleting(): void {
    // Recovery objects are kept for ever: deletions.ts.
  }

  /** Who has a machine or a job of it keeps it as long as it lives. */
  #checkLife(machine: SimMachine, before: Recovery, after: Recovery, by: string): void {
    const { scheduler, isStoreSound, violated } = this.#world;
    if (!isStoreSound) return;
    const { nowMs } = scheduler;
    const self = this.#world.receivers().find(({ name }) => name === by.split('#')[0]);
    const livedSince = (receiver: string | undefined, sinceMs: number): boolean => {
      const other = this.#world.receivers().find(({ id }) => id === receiver);
      return other !== undefined && other !== self && other.wellSinceMs !== null && other.wellSinceMs <= sinceMs;
    };
    const takes = (what: string): void => violated(`${by} takes ${what} of ${machine.name} from a receiver that lives`);
    const isAwake = self?.wellSinceMs != null && self.wellSinceMs <= nowMs - LIFE_MS;
    const isOtherJob = before.job !== null && after.job?.id !== before.job.id && before.job.receiver !== self?.id;
    if (isOtherJob && isAwake && livedSince(before.job?.receiver, nowMs - LIFE_MS)) takes('a job');
    const isTaken = before.failover !== null && after.failover?.id !== before.failover.id;
    const begunMs = this.#begun.get(after.job?.id ?? '') ?? 0;
    if (isTaken && livedSince(before.failover?.receiver, begunMs)) takes('the copy');
  }

  /** Home may write again: the generation is its own by then; after a failback it is what the copy was, durably, and the copy has ended. */
  #comesHome(machine: SimMachine, before: Recovery, after: Recovery): void {
    const { scheduler, store, violated } = this.#world;
    this.#planned.delete(machine);
    const generation = headOf(store, machine.id)?.generation;
    if (after.home.mode === 'replicate' && generation !== after.home.generation)
      violated(
        `home of ${machine.name} is given generation ${after.home.generation}, and the machine is at ${generation}`,
      );
    if (before.home.mode === 'restore') this.#checkRestored(machine, before.failover);
    scheduler.after(BOOT_MS, `${machine.name} is let run`, () => {
      if (recoveryOf(store, machine)?.home.mode === 'replicate') machine.letRun('operator');
    });
  }

  #checkRestored(machine: SimMachine, copy: Instance | null): void {
    const { violated } = this.#world;
    this.homecomings++;
    const host = this.#world.receivers().find(({ id }) => id === copy?.receiver);
    const disks = copy === null ? null : (host?.copies.disksOf(copy.id) ?? null);
    if (copy === null || disks === null) return violated(`${machine.name} comes home, and its copy is gone`);
    if (host?.copies.runs(copy.id) === true) violated(`${machine.name} comes home, and its copy runs still`);
    // One that no point had when it was failed over is as it was.
    for (const disk of machine.disks.filter(({ id }) => copy.disks.some((one) => one.disk === id))) {
      const wrong = differing(
        disk,
        disks.find(({ id }) => id === disk.id),
      );
      if (wrong.length > 0)
        violated(
          `${machine.name} ${disk.id} came home with ${wrong.length} blocks that are not the copy’s: ${wrong[0]}`,
        );
      if (disk.unsynced > 0) violated(`${machine.name} ${disk.id} came home with blocks that are not durable`);
    }
  }

  #homeRuns(machine: SimMachine, by: Stopper): void {
    const mode = recoveryOf(this.#world.store, machine)?.home.mode ?? 'replicate';
    // One that was failed over without a plan may run on at home: only its points are refused.
    if (mode === 'restore' || (mode === 'refused' && this.#planned.has(machine)))
      this.#world.violated(`the workload of ${machine.name} is let run by ${by}, and the machine runs elsewhere`);
  }
}

function differing(home: SimDisk, copy: SimDisk | undefined): string[] {
  const wrong: string[] = [];
  for (let block = 0; block < home.geometry.blockCount; block++) {
    const is = home.halvesOf(block);
    const shall = copy?.halvesOf(block) ?? { low: -1, high: -1 };
    if (is.low === shall.low && is.high === shall.high && !home.isInFlight(block)) continue;
    wrong.push(`block ${block} is ${is.low}/${is.high}, not ${shall.low}/${shall.high}`);
  }
  return wrong;
}
