/**
 * What `doctor` has seen, as plain data: collected by collect/*, judged by checks/*. A fact that can't be had is null, or says why.
 */

/** An error as people read it. */
export interface Problem {
  readonly message: string;
  readonly hint: string | null;
}

export interface KernelFacts {
  /** As uname -r tells it. */
  readonly release: string;
  readonly arch: string;
  readonly hasBtf: boolean;
  /** `none`, `integrity`, `confidentiality`; null where the kernel has no lockdown. */
  readonly lockdown: string | null;
  readonly bpffs: 'mounted' | 'missing';
  readonly pinDirectory: string;
  /** What `tracker.prefer` of the configuration says. */
  readonly prefer: 'auto' | 'ebpf' | 'scan';
  /** Loading and attaching the real programs for a disk that doesn't exist. */
  readonly tracking: { readonly mode: 'btf' | 'tracepoint' | null; readonly problem: Problem | null };
}

export interface PrivilegeFacts {
  readonly uid: number;
  /** Effective capabilities, a bit each. */
  readonly capabilities: bigint;
  /** The highest that this kernel knows. */
  readonly lastCapability: number;
}

export interface CertificateFacts {
  readonly validFromMs: number;
  readonly validToMs: number;
}

export interface EnrolmentFacts {
  readonly machine: string;
  readonly name: string;
  readonly generation: number;
  readonly receiver: string;
  readonly caFingerprint: string;
  readonly certificate: CertificateFacts & { readonly isOfCa: boolean; readonly hasKey: boolean };
}

export interface ReceiverFacts {
  readonly address: string;
  /** The agent dials this one first; others only when it doesn't answer. */
  readonly isPrimary: boolean;
  readonly problem: Problem | null;
  readonly certificate: CertificateFacts | null;
  /** Receiver's time less ours, and how far that may be off. Null when it didn't tell. */
  readonly clock: { readonly offsetMs: number; readonly uncertaintyMs: number } | null;
}

export interface SpaceFacts {
  readonly path: string;
  readonly freeBytes: number;
  /** What the hash stores of all protected disks may still grow by. */
  readonly neededBytes: number;
}

export interface DiskFacts {
  readonly id: string;
  /** Where it is now; as it was listed, when it isn't connected. */
  readonly path: string;
  readonly sizeBytes: number | null;
  /** Not connected, another disk in its place, two with one number. */
  readonly problem: Problem | null;
  readonly untrackedReason: string | null;
  /** Devices that multipath joins to it; none for a disk with one path. */
  readonly paths: readonly string[];
  /** It has no number of its own and is known by the slot it is in. */
  readonly isKnownBySlot: boolean;
  readonly warnings: readonly string[];
}

export interface UnitFacts {
  readonly name: string;
  /** As systemd tells: `enabled`, `disabled`, `static`; '' when there is no such unit. */
  readonly fileState: string;
  /** `active`, `inactive`, `failed`, `activating`. */
  readonly activeState: string;
}

export interface RebootFacts {
  /** `reboot.continue` of the configuration. */
  readonly wanted: boolean;
  /** Those that close and arm; null where systemd doesn't run. */
  readonly units: readonly UnitFacts[] | null;
  /** Only the root filesystem is there before others are mounted, and after they are unmounted. */
  readonly isStateOnRoot: boolean;
  readonly stateDir: string;
}

export interface RunningFacts {
  readonly state: string;
  readonly connected: boolean;
  readonly reason: string;
  readonly refused: { readonly name: string; readonly reason: string; readonly hint: string } | null;
  readonly problem: string | null;
}

export interface ServiceFacts {
  /** Null where systemd doesn't run. */
  readonly unit: UnitFacts | null;
  /** Null when no agent answers at the control socket. */
  readonly running: RunningFacts | null;
}

export interface Facts {
  readonly nowMs: number;
  readonly kernel: KernelFacts;
  readonly privileges: PrivilegeFacts;
  /** Null: not enrolled. */
  readonly enrolment: EnrolmentFacts | Problem | null;
  readonly receivers: readonly ReceiverFacts[];
  readonly space: SpaceFacts | Problem;
  readonly disks: readonly DiskFacts[] | Problem;
  readonly service: ServiceFacts;
  readonly reboot: RebootFacts;
}

export const isProblem = (value: object): value is Problem => 'message' in value && 'hint' in value;
