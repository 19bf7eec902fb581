/**
 * Machines whose agents are called over: an operator asked this receiver for something that the agent at home has a part in, or home follows the copy that
 * runs here, and the agent is not here. What is called for stands in our signs of life, so it costs no request and goes away with us. A hint, as all here: the receiver that has the
 * agent looks up whether the machine is bound to the caller before it sends it (handovers.ts).
 */
import { CALLS_MAX } from '../../shared/limits-fleet.js';
import type { MachineId } from '../../shared/units.js';
import type { RosterEntry } from './roster.js';

/** Ours. The same machine may be called for more than once. Of too many the newest count: for those an operator waits. */
export class Calls {
  readonly #counts = new Map<MachineId, number>();

  get machines(): MachineId[] {
    return [...this.#counts.keys()].slice(-CALLS_MAX);
  }

  /** Until the returned function is called. */
  add(machine: MachineId): () => void {
    this.#counts.set(machine, (this.#counts.get(machine) ?? 0) + 1);
    let isReleased = false;
    return () => {
      if (isReleased) return;
      isReleased = true;
      const left = (this.#counts.get(machine) ?? 1) - 1;
      if (left === 0) this.#counts.delete(machine);
      else this.#counts.set(machine, left);
    };
  }
}

/** Which receiver calls for which machine. One that is gone calls for nobody. Pure. */
export function callersOf(others: readonly RosterEntry[]): Map<MachineId, string> {
  const callers = new Map<MachineId, string>();
  for (const { record, liveness } of others) {
    if (liveness !== 'live') continue;
    for (const machine of record.calls) callers.set(machine as MachineId, record.id);
  }
  return callers;
}
