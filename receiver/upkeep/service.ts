/**
 * Upkeep in a running receiver: at an interval, one machine after the other, each through the OwnedMachine of its session or copy. A machine that nobody
 * owns is taken over when it is ours to look after and there is something to do. Keeps what each run found for status and metrics.
 *
 * One run at a time, paced, so that ingest never waits for more than the manifest that upkeep writes. On a crash: see machine-upkeep.ts.
 */
import type { Clock } from '../../shared/clock.js';
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { UPKEEP_START_DELAY_MS } from '../../shared/limits-upkeep.js';
import type { Logger } from '../../shared/log.js';
import { InTurn } from '../../shared/in-turn.js';
import { asMachineId, isUuid, type MachineId } from '../../shared/units.js';
import { MACHINES_PREFIX } from '../catalog/names.js';
import type { CatalogDeps, OwnedMachine } from '../catalog/owned-machine.js';
import type { OwnedMachines } from '../catalog/owned-machines.js';
import { loadHead } from '../catalog/reader.js';
import type { ObjectStore } from '../store/store.js';
import { cancelled } from '../volume/plan-point.js';
import type { BaseLimits } from './base-plan.js';
import { MachineUpkeep, type UpkeepDeps } from './machine-upkeep.js';
import { Pace } from './pace.js';
import type { ShortcutLimits } from './shortcut-plan.js';
import { isUnused, takeOverForUpkeep } from './take-over.js';
import { UPKEEP_TASKS, type TaskResult, type UpkeepTask } from './task-result.js';
import { statusOf, type MachineUpkeepStatus } from './upkeep-status.js';

export interface UpkeepServiceDeps extends CatalogDeps {
  readonly store: ObjectStore;
  readonly clock: Clock;
  readonly log: Logger;
  readonly machines: OwnedMachines;
  /** Whether a machine that nobody here owns is ours to look after. */
  readonly isOurs: (machine: MachineId) => Promise<boolean>;
  readonly policyOf: UpkeepDeps['policyOf'];
}

export interface UpkeepSettings {
  readonly intervalMs: number;
  readonly bytesPerSecond: number;
  readonly deletionDelayMs: number;
  /** Other limits of bases and shortcuts than the usual. */
  readonly bases?: Partial<BaseLimits>;
  readonly shortcuts?: ShortcutLimits;
}

export class UpkeepService {
  readonly #deps: UpkeepServiceDeps;
  readonly #settings: UpkeepSettings;
  readonly #upkeep = new Map<MachineId, MachineUpkeep>();
  readonly #names = new Map<MachineId, string>();
  /** The run under way and those that wait. */
  readonly #runs = new InTurn();
  #running: MachineId | null = null;
  readonly #stopped = new AbortController();
  /** One for all machines. */
  readonly #pace: Pace;

  constructor(deps: UpkeepServiceDeps, settings: UpkeepSettings) {
    this.#deps = deps;
    this.#settings = settings;
    this.#pace = new Pace(deps.clock, settings.bytesPerSecond, this.#stopped.signal);
  }

  get status(): MachineUpkeepStatus[] {
    return [...this.#upkeep].map(([machine, upkeep]) =>
      statusOf(machine, this.#names.get(machine) ?? machine, upkeep, this.#running === machine),
    );
  }

  /** Until aborted; what is under way then is given up at the next step. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#deps;
    signal.addEventListener('abort', () => this.#stopped.abort(), { once: true });
    await clock.sleep(Math.min(UPKEEP_START_DELAY_MS, this.#settings.intervalMs), signal);
    while (!signal.aborted) {
      const startedMs = clock.monotonicMs();
      await this.#round(signal).catch((error: unknown) => {
        if (!signal.aborted) log.warn({ err: error }, `upkeep: ${messageOf(error)}`);
      });
      const elapsedMs = clock.monotonicMs() - startedMs;
      await clock.sleep(Math.max(0, this.#settings.intervalMs - elapsedMs), signal);
    }
    await this.#runs.settled();
  }

  /** These tasks of one machine now, after what is under way. Throws when it isn't ours, or was taken over meanwhile. */
  runNow(machine: MachineId, tasks: readonly UpkeepTask[] = UPKEEP_TASKS): Promise<TaskResult[]> {
    return this.#inTurn(async () => {
      const owned = this.#deps.machines.get(machine) ?? (await this.#take(machine));
      return this.#runOwned(owned, tasks);
    });
  }

  /** For other work on a machine, such as mending it: whoever has it here, or a takeover when nobody writes it. Null: it is another's. */
  async ownerOf(machine: MachineId): Promise<OwnedMachine | null> {
    const { machines, isOurs, store } = this.#deps;
    return (
      machines.get(machine) ??
      this.#inTurn(async () => {
        const owned = machines.get(machine);
        if (owned !== null) return owned;
        if (!(await isOurs(machine)) || !(await isUnused(store, machine))) return null;
        return (await loadHead(store, machine)) === null ? null : this.#take(machine);
      })
    );
  }

  async #round(signal: AbortSignal): Promise<void> {
    const { store, log } = this.#deps;
    for (const folder of await store.listFolders(MACHINES_PREFIX)) {
      if (signal.aborted) return;
      if (!isUuid(folder)) continue;
      const machine = asMachineId(folder);
      await this.#inTurn(() => this.#one(machine)).catch((error: unknown) => {
        if (signal.aborted) return;
        // Another has it now, and looks after it.
        if (error instanceof AfterimageError && error.kind === 'fenced') log.info({ machine }, 'upkeep: taken over');
        else log.warn({ err: error, machine }, `upkeep: ${messageOf(error)}`);
      });
    }
  }

  async #one(machine: MachineId): Promise<void> {
    const owned = this.#deps.machines.get(machine);
    if (owned !== null) {
      await this.#runOwned(owned, UPKEEP_TASKS);
      return;
    }
    if (!(await this.#deps.isOurs(machine)) || !(await isUnused(this.#deps.store, machine))) return;
    const head = await loadHead(this.#deps.store, machine);
    if (head === null) return;
    if (!(await this.#of(machine).hasWork(head))) return this.#of(machine).keepHead(head);
    await this.#runOwned(await this.#take(machine), UPKEEP_TASKS);
  }

  async #take(machine: MachineId): Promise<OwnedMachine> {
    const { machines, isOurs, log } = this.#deps;
    const mayTake = async (): Promise<void> => {
      const isFree = machines.get(machine) === null && (await isUnused(this.#deps.store, machine));
      if (!isFree || !(await isOurs(machine))) throw othersHave(machine);
    };
    await mayTake();
    const { owned, setAside } = await takeOverForUpkeep(this.#deps, machine, mayTake);
    for (const { object, why } of setAside)
      log.warn({ machine, object, reason: why }, 'upkeep: a staged layer is damaged; the agent sends it again');
    this.#of(machine).tookOver(setAside);
    log.info({ machine, epoch: owned.epoch }, 'upkeep: took a machine over that nobody writes');
    machines.add(owned);
    return owned;
  }

  async #runOwned(owned: OwnedMachine, tasks: readonly UpkeepTask[]): Promise<TaskResult[]> {
    const { id, name } = owned.manifest.machine;
    this.#names.set(id, name);
    this.#running = id;
    try {
      return await this.#of(id).run(owned, this.#stopped.signal, tasks);
    } finally {
      this.#running = null;
    }
  }

  #of(machine: MachineId): MachineUpkeep {
    let upkeep = this.#upkeep.get(machine);
    if (upkeep === undefined) {
      const { store, clock, log, policyOf } = this.#deps;
      const { intervalMs: _interval, bytesPerSecond: _rate, ...settings } = this.#settings;
      upkeep = new MachineUpkeep({ store, clock, log, policyOf, pace: this.#pace, ...settings });
      this.#upkeep.set(machine, upkeep);
    }
    return upkeep;
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    return this.#runs.run(() => {
      if (this.#stopped.signal.aborted) throw cancelled('upkeep');
      return work();
    });
  }
}

export const othersHave = (machine: MachineId): AfterimageError =>
  new AfterimageError(`machine ${machine} is another's to look after`, {
    code: 'machine-not-ours',
    kind: 'refused',
    hint: 'Ask the receiver that its agent is connected to.',
  });
