/**
 * What the failover engine is made of, as it sees it. The daemon passes in the real parts (real-parts.ts), tests fakes.
 */
import type { Logger } from 'pino';
import type { Clock } from '../../shared/clock.js';
import type { DiskId, MachineId } from '../../shared/units.js';
import type { BootCheck } from '../catalog/launch.js';
import type { ManifestOwner, RecoveryPoint } from '../catalog/manifest.js';
import type { OwnedMachine } from '../catalog/owned-machine.js';
import type { MachineReader, PointDisk } from '../catalog/reader.js';
import type { BootResult } from '../catalog/recovery.js';
import type { HomeAgents } from '../session/home-agent.js';
import type { ObjectStore } from '../store/store.js';
import type { BlockDevice } from '../volume/block-device.js';
import type { PointContent } from '../volume/content.js';
import type { CutSource } from '../volume/cut.js';
import type { CopyRecords } from './copy-file.js';
import type { CheckContext, ComputeProvider, LaunchSpec } from './compute/provider.js';

export interface VolumeStats {
  /** Bytes that are on this host: written by the guest or cached. */
  readonly localBytes: number;
  readonly hydratedPercent: number | null;
}

/** A writable volume of a copy. */
export interface CopyVolume extends BlockDevice, CutSource {
  hydrate(options: { readonly bytesPerSecond: number | null; readonly signal: AbortSignal }): Promise<unknown>;
  stats(): VolumeStats;
  close(): Promise<void>;
}

export interface VolumeOptions {
  readonly folder: string;
  readonly disk: DiskId;
  /** Null: it can't be had; whoever lacks nothing of it does without. */
  readonly content: PointContent | null;
  /** What the content is, for the volume's own records: a folder is never continued over another content. Null: it isn't known any more. */
  readonly baseKey: string | null;
}

export interface CopyReplicatorOptions {
  readonly owned: OwnedMachine;
  readonly volumes: readonly {
    readonly source: CutSource;
    /** The disk where its chain ends, and at a point that was committed since; null: it can't be read. */
    readonly reference: PointContent | null;
    readonly end: PointDisk;
    reopenReference(point: number): Promise<PointContent>;
    readonly device: string;
  }[];
}

export interface ReplicationStatus {
  /** Last point committed by it; null before the first. */
  readonly lastPoint: number | null;
  readonly dataAtRisk: { readonly seconds: number; readonly bytes: number };
  readonly pointsCommitted: number;
  readonly problem: string | null;
}

export interface CopyReplicator {
  /** Makes points until the signal is aborted. Rejects with kind `fenced` when somebody else took the machine over. */
  run(signal: AbortSignal): Promise<void>;
  /** A point that holds everything written before the call; resolves to its number (the chain's newest, when nothing had changed). */
  pointNow(reason: string): Promise<number>;
  /** A point with these blocks in its own layers, whatever the chain has of them; its number. Refused when not all of them are on this host. */
  resend(disk: DiskId, extents: readonly (readonly [number, number])[], signal: AbortSignal): Promise<number>;
  readonly status: ReplicationStatus;
}

export interface NbdExport {
  readonly name: string;
  readonly description: string;
  readonly device: BlockDevice;
}

/** The other receivers on the store, as far as failover has to do with them. */
export interface OtherReceivers {
  /** Those that may live. */
  readonly others: readonly ManifestOwner[];
  /** Has the machine's agent sent here by the receiver that has it, until the returned function is called. The machine's job must be ours by then. */
  call(machine: MachineId): () => void;
}

export interface FailoverParts {
  readonly store: ObjectStore;
  readonly clock: Clock;
  readonly randomId: () => string;
  readonly log: Logger;
  readonly home: HomeAgents;
  /** This receiver, as the manifests of what it takes over name it. */
  readonly owner?: ManifestOwner | null;
  /** Absent: this receiver is alone on its store. */
  readonly fleet?: OtherReceivers;
  /** What this host remembers of its copies; absent: files in the settings' folder. */
  readonly copies?: CopyRecords;
  openContent(view: MachineReader, point: RecoveryPoint, disk: PointDisk, signal?: AbortSignal): Promise<PointContent>;
  openVolume(options: VolumeOptions): Promise<CopyVolume>;
  startNbd(socketPath: string, exports: readonly NbdExport[]): Promise<{ stop(): Promise<void> }>;
  nbdUri(socketPath: string, exportName: string): string;
  provider(kind: ComputeProvider['kind']): ComputeProvider;
  bootCheck(
    check: BootCheck,
    provider: ComputeProvider,
    spec: LaunchSpec,
    startedAtMs: number,
    context: CheckContext,
  ): Promise<BootResult>;
  replicator(options: CopyReplicatorOptions): CopyReplicator;
}

export interface FailoverSettings {
  /** UUID of this receiver, and what people call it. */
  readonly receiver: string;
  readonly receiverName: string;
  /** Where copies have their volumes. */
  readonly folder: string;
  readonly provider: ComputeProvider['kind'];
  /** Copies are made local behind their guests; null: they are not. `bytesPerSecond` null: as fast as it goes. */
  readonly hydrate: { readonly bytesPerSecond: number | null } | null;
}
