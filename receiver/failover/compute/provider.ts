/**
 * A compute provider starts a machine from its volumes and ends it again. Every call is idempotent: the engine repeats it after a crash of the receiver.
 * A guest outlives the receiver's process; what a provider has to remember of it lies in the instance's folder.
 */
import type { DiskId, MachineId } from '../../../shared/units.js';
import type { LaunchSettings } from '../../catalog/launch.js';
import type { MachineDescription } from '../../catalog/manifest.js';

export interface LaunchDisk {
  readonly disk: DiskId;
  readonly sizeBytes: number;
  /** `nbd+unix:///EXPORT?socket=PATH`. */
  readonly uri: string;
  readonly socketPath: string;
  readonly exportName: string;
}

export interface LaunchSpec {
  /** UUID of this running copy of the machine; a test and a failover never share one. */
  readonly instance: string;
  readonly machine: { readonly id: MachineId; readonly name: string };
  readonly test: boolean;
  readonly point: number;
  readonly description: MachineDescription | null;
  readonly settings: LaunchSettings;
  readonly disks: readonly LaunchDisk[];
  /** The provider's own folder on this host: sockets, logs, what its supervisor wrote. Short enough for socket paths. */
  readonly folder: string;
}

/** How a guest is described whose disks failed under it: start() lets it go on. */
export const PAUSED_BY_ERROR = 'paused (I/O error)';

export interface GuestState {
  readonly running: boolean;
  /** For people: `running`, `paused (I/O error)`, `ended: powered off`, `ended by signal SIGKILL`, `never started`. */
  readonly detail: string;
  /** Wall time at which the guest began to run, if it did. */
  readonly startedAtMs: number | null;
}

export interface CheckContext {
  readonly signal: AbortSignal;
  /** Lines for the job: output of a script, the command line used. */
  readonly say: (line: string) => void;
}

export interface ComputeProvider {
  readonly kind: 'qemu' | 'command' | 'none';
  /**
   * What stands in the way of starting it here, each with what to do; empty when nothing does. Changes nothing.
   * `replaced`: a guest of this host that is ended before; what it holds counts as free.
   */
  problems(spec: LaunchSpec, replaced: LaunchSpec | null): Promise<readonly string[]>;
  /** Starts the guest unless it runs already. Its disks must be served. */
  start(spec: LaunchSpec, context: CheckContext): Promise<void>;
  state(spec: LaunchSpec): Promise<GuestState>;
  /** Asks the guest to power off and waits; `forced` when it had to be ended after `timeoutMs`, with `force`. Without `force` it throws then. */
  shutdown(
    spec: LaunchSpec,
    options: { readonly timeoutMs: number; readonly force: boolean } & CheckContext,
  ): Promise<'clean' | 'forced' | 'not-running'>;
  /** Ends the guest at once; resolved: it writes no more, for certain. */
  kill(spec: LaunchSpec, context: CheckContext): Promise<void>;
  /** Removes what the provider left on this host. The guest is not running. */
  cleanup(spec: LaunchSpec, context: CheckContext): Promise<void>;
}
