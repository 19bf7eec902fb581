/**
 * What the cycle needs from a change tracker that has marks (the `scan` tracker has none, see scan.ts).
 * A tracker never claims more than it can prove: any doubt ends the disk's series, with the reason.
 */
import type { BlockSet } from '../../shared/blocks/block-set.js';
import type { Geometry } from '../../shared/blocks/geometry.js';
import type { DiskId, SeriesId } from '../../shared/units.js';

export interface TrackableDisk {
  readonly id: DiskId;
  /** Whole disk that carries the I/O (for a partition: its parent). */
  readonly major: number;
  readonly minor: number;
  /** Name in /sys/block of that whole disk, e.g. `loop0`. */
  readonly sysName: string;
  /** Window of the protected device within the whole disk, in sectors. */
  readonly startSector: number;
  readonly sectorCount: number;
  readonly geometry: Geometry;
}

/** Blocks submitted in the epoch that ended: a filter that may say yes too often, never no wrongly. */
export interface SubmittedFilter {
  mayHold(block: number): boolean;
}

export interface DiskTake {
  /** M: every block marked since the previous take, at submission or completion. */
  readonly marked: BlockSet;
  /** S: submissions of the epoch that this take ended. */
  readonly submitted: SubmittedFilter;
}

/** One atomic flip of the epoch, for all disks at once. */
export interface Take {
  /** Wall time of the flip (for the point's time) and monotonic time (for durations). */
  readonly flipWallMs: number;
  readonly flipMonotonicMs: number;
  readonly disks: ReadonlyMap<DiskId, DiskTake>;
}

export type AuditVerdict =
  /** Marks since the last audit are complete. */
  | { readonly kind: 'balanced' }
  /** Completions went unseen: these blocks (all that may be affected) must be read again before a commit. */
  | { readonly kind: 'recopy'; readonly missedSectors: number; readonly blocks: BlockSet }
  /** The marks can't be trusted any more; a comparison follows. */
  | { readonly kind: 'series-ended'; readonly reason: string };

export interface TrackerCounters {
  readonly submittedSectors: number;
  readonly completedSectors: number;
  readonly kernelSectors: number;
  readonly discardedSectors: number;
  readonly opaqueWrites: number;
  readonly recursionMisses: number;
  readonly auditsBalanced: number;
  readonly auditsRecopied: number;
  readonly takes: number;
  readonly stragglerWaitsMs: number;
}

export interface ArmResult {
  readonly series: SeriesId;
  /** True when a pinned series of an earlier process goes on. */
  readonly resumed: boolean;
  /** Why a new series began, when one did. */
  readonly reason: string;
  /** Blocks that an earlier process had taken and not committed (superset). Empty for a new series. */
  readonly uncommitted: BlockSet;
}

export interface MarkTracker {
  readonly mode: 'btf' | 'tracepoint';
  /** Starts or resumes tracking of a disk. Throws AfterimageError (kind unsupported) when this kernel can't. */
  arm(disk: TrackableDisk): ArmResult;
  /** Ends tracking and removes all pinned objects of the disk. */
  disarm(id: DiskId): void;
  /** Lets go of a disk without ending its tracking: its pinned objects go on, a later arm() resumes. */
  release(id: DiskId): void;
  /** Ends the series and begins a new one (after doubt); marks from now on belong to it. */
  restartSeries(id: DiskId, reason: string): ArmResult;
  /** Flips the epoch for all armed disks and collects their marks. Throws when a straggler exceeds TAKE_STRAGGLER_MS. */
  take(): Take;
  /** Compares marks with the kernel's counters and re-checks every object of the disk. */
  audit(id: DiskId): AuditVerdict;
  /** Forgets what was taken before the commit, but for `carried` (taken already, for the next cycle). */
  committed(id: DiskId, carried: BlockSet): void;
  /** Blocks marked and not yet taken: a look that changes nothing. */
  markedCount(id: DiskId): number;
  counters(id: DiskId): TrackerCounters;
  /** Unmaps everything; pinned objects go on tracking. */
  close(): void;
}
