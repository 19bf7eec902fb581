/**
 * The agent of a machine's home, as failover sees it: asked for a last cut, told to take the machine home, cut off.
 * Implemented by the session registry; calls fail with code `home-absent` when no session of the machine stands.
 */
import type { MachineId } from '../../shared/units.js';
import type { CloseReason } from '../../shared/wire/close-codes.js';

export interface HomeStep {
  /** `pre-shutdown hook`, `last cut`, `proof that nothing is written`; for a restore: `comparing`, `pulling`, `checking`. */
  readonly step: string;
  readonly detail: string;
  readonly percent: number | null;
}

export interface HomeCall {
  readonly signal: AbortSignal;
  readonly onStep: (step: HomeStep) => void;
}

export interface RestoreReport {
  readonly point: number;
  /** Bytes of block data sent to the agent for this goal, as compressed on the wire, and all bytes with hashes and headers. */
  readonly dataBytes: number;
  readonly sentBytes: number;
  readonly blocks: number;
  /** How the difference was found, per disk, for people. */
  readonly reasons: readonly string[];
}

export interface HomeAgents {
  /** `replicating`, `restoring`, or null when no session stands. */
  stateOf(machine: MachineId): 'replicating' | 'restoring' | null;
  /**
   * Shuts the workload down by the agent's own hook, takes cuts until one finds nothing changed, commits. Resolves to the last point, which holds
   * everything that was ever written. Rejects, with the workload resumed by the hook's counterpart, when it can't be had.
   */
  finalCut(
    machine: MachineId,
    call: HomeCall & { readonly hookTimeoutMs: number },
  ): Promise<{ readonly point: number }>;
  /** Lets the workload at home run again after a final cut that nothing came of. Resolved: the agent has done so, or is gone. */
  resumeHome(machine: MachineId): Promise<void>;
  /**
   * Brings the home disks to a point, moving only what differs. `final`: no newer point will come; all of it is made durable and proven by digest.
   * Waits for a restoring session to appear, until the signal is aborted. Interrupted sessions are continued with the next.
   */
  restore(
    machine: MachineId,
    goal: { readonly point: number; readonly final: boolean },
    call: HomeCall,
  ): Promise<RestoreReport>;
  /** After a final restore: the series under which the home agent tracks each disk from now on. */
  seriesAfterRestore(machine: MachineId): ReadonlyMap<string, string>;
  /** Ends the machine's session, if one stands, telling it why. Resolved: nothing of it can be committed any more. */
  disconnect(machine: MachineId, reason: CloseReason, text: string): Promise<void>;
}
