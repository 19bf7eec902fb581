/**
 * The machines that this receiver owns: whoever takes one over (a session, a running copy, upkeep) says so here, so that upkeep commits through the same
 * OwnedMachine as they do. The newest of a machine counts; one that was lost stays until the next comes, and its user learns it at the next commit.
 */
import type { MachineId } from '../../shared/units.js';
import type { OwnedMachine } from './owned-machine.js';

export class OwnedMachines {
  readonly #machines = new Map<MachineId, OwnedMachine>();

  add(owned: OwnedMachine): void {
    const { id } = owned.manifest.machine;
    const known = this.#machines.get(id);
    if (known === undefined || known.epoch < owned.epoch) this.#machines.set(id, owned);
  }

  /** Null for a machine that nobody here owns any more, as far as is known. */
  get(machine: MachineId): OwnedMachine | null {
    const owned = this.#machines.get(machine);
    return owned === undefined || owned.isLost ? null : owned;
  }
}
