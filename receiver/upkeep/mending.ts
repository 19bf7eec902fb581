/**
 * Has a machine's damage mended in a running receiver: through whoever owns the machine here, or by a takeover when nobody writes it and it is ours to
 * look after. Of one machine one mending runs at a time. Owns no state; on a crash the next look of the scrub finds what is still open.
 */
import type { Logger } from 'pino';
import type { Clock } from '../../shared/clock.js';
import { RESEND_ANSWER_MS } from '../../shared/limits-scrub.js';
import type { DiskId, MachineId } from '../../shared/units.js';
import type { DamageItem } from '../catalog/damage.js';
import { loadDamage } from '../catalog/damage-io.js';
import type { OwnedMachine } from '../catalog/owned-machine.js';
import type { ObjectStore } from '../store/store.js';
import { Pace } from './pace.js';
import { repairMachine } from './scrub-repair.js';

export interface MendingDeps {
  readonly store: ObjectStore;
  /** What the store really holds, where `store` keeps copies of its objects. */
  readonly beneath: ObjectStore;
  readonly clock: Clock;
  readonly log: Logger;
  readonly bytesPerSecond: number;
  /** Null: another receiver has the machine. */
  readonly ownerOf: (machine: MachineId) => Promise<OwnedMachine | null>;
  readonly resend: (
    machine: MachineId,
    disk: DiskId,
    extents: readonly (readonly [number, number])[],
    signal: AbortSignal,
  ) => Promise<{ readonly point: number }>;
  /** Id of the copy of a machine that runs here and has all of itself on this host. */
  readonly wholeCopy: (machine: MachineId) => string | null;
}

export class Mending {
  readonly #deps: MendingDeps;
  /** What runs for a machine, and what waits for it. Never rejects. */
  readonly #queues = new Map<MachineId, Promise<unknown>>();

  constructor(deps: MendingDeps) {
    this.#deps = deps;
  }

  /** The list of what is damaged, after all that can be mended was. Null: another receiver has the machine, and nothing was done. */
  mend(machine: MachineId, signal: AbortSignal): Promise<readonly DamageItem[] | null> {
    const run = (this.#queues.get(machine) ?? Promise.resolve()).then(() => this.#mend(machine, signal));
    const settled = run.catch(() => undefined);
    this.#queues.set(machine, settled);
    void settled.then(() => {
      if (this.#queues.get(machine) === settled) this.#queues.delete(machine);
    });
    return run;
  }

  async #mend(machine: MachineId, signal: AbortSignal): Promise<readonly DamageItem[] | null> {
    const { store, beneath, clock, log, bytesPerSecond, ownerOf } = this.#deps;
    const owned = await ownerOf(machine);
    if (owned === null) return null;
    await repairMachine({
      ...{ store, beneath, clock, log, owned, signal },
      pace: new Pace(clock, bytesPerSecond, signal),
      wholeCopy: () => this.#deps.wholeCopy(machine),
      ask: (disk, extents) => this.#ask(machine, disk, extents, signal),
    });
    return (await loadDamage(store, machine))?.items ?? [];
  }

  /** An agent that makes no point for so long is asked again by the next look. */
  async #ask(
    machine: MachineId,
    disk: DiskId,
    extents: readonly (readonly [number, number])[],
    signal: AbortSignal,
  ): Promise<{ readonly point: number }> {
    const done = new AbortController();
    const late = new AbortController();
    void this.#deps.clock.sleep(RESEND_ANSWER_MS, done.signal).then(() => late.abort());
    try {
      return await this.#deps.resend(machine, disk, extents, AbortSignal.any([signal, late.signal]));
    } finally {
      done.abort();
    }
  }
}
