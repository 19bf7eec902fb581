/**
 * One protected disk while the agent runs: its source, hash store, tracking series and what is still to be read.
 * State that must survive is in the hash store and in the tracker's pinned maps; this object is made anew at each start.
 */
import { BlockSet } from '../../shared/blocks/block-set.js';
import type { Geometry } from '../../shared/blocks/geometry.js';
import { CHUNK_PLAIN_BYTES_MAX } from '../../shared/limits.js';
import type { DiskId, SeriesId } from '../../shared/units.js';
import { PLAIN_DISK, type DiskCipher } from '../keys/source-keys.js';
import type { TrackableDisk } from '../tracker/tracker.js';
import type { SendCounters } from './chunk-sender.js';
import type { HashStore } from './hash-store/store.js';
import type { DiskReader } from './reader.js';

/** Names of states are Site Recovery's (protectionState). */
export type DiskState =
  | 'EnablingProtection'
  | 'InitialReplicationInProgress'
  | 'Protected'
  | 'ResynchronizationInProgress'
  | 'ResynchronizationRequired'
  /** The machine runs elsewhere; this disk is written, not read. */
  | 'RestoreInProgress'
  | 'Failed';

/** What must be read from end to end before cycles can go on; null when nothing. */
export interface SweepNeed {
  readonly kind: 'first-copy' | 'comparison';
  readonly reason: string;
}

export interface SweepProgress {
  processedBytes: number;
  readonly totalBytes: number;
  readonly startedAtMs: number;
  /** Of `counters`, when it began. */
  readonly readBytesBefore: number;
  readonly sentBytesBefore: number;
}

export interface DiskCounters extends SendCounters {
  readBytes: number;
  /** Bytes of layers that the receiver reported as stored. */
  storedBytes: number;
  cleanSamples: number;
  cleanMismatches: number;
}

export class ProtectedDisk {
  readonly id: DiskId;
  readonly device: string;
  readonly geometry: Geometry;
  readonly reader: DiskReader;
  readonly store: HashStore;
  readonly cipher: DiskCipher;
  /** Null: the scan tracker. */
  readonly trackable: TrackableDisk | null;
  /** Why the scan tracker, when it is. */
  readonly scanReason: string;
  series: SeriesId | null = null;
  /** Why that series began; '' when it goes on from an earlier process. */
  seriesReason = '';
  /** Its tracking ends when it is closed: it was seen gone, or smaller. */
  mustBeCompared = false;
  /** Names of the paths that multipath joins to it, as seen last; none for a disk with one path. */
  paths: readonly string[] = [];
  /** Index in this session's hello. */
  index = 0;
  /** Taken from the tracker, not yet sent under a commit: where the next cycle begins. */
  carry = new BlockSet();
  /** Taken by the cycle that runs, and not committed yet: still at risk. */
  cycling: BlockSet | null = null;
  /** Asked for by the receiver, which can't read its own copy: sent with the next point although their hashes have not changed. */
  readonly resend = new BlockSet();
  need: SweepNeed | null = null;
  state: DiskState = 'EnablingProtection';
  stateReason = '';
  /** Last point that holds this disk, as the receiver says; 0 for none. */
  lastPoint = 0;
  /** Whether the disk was ever part of a point: then no point is made without it. */
  get inPoints(): boolean {
    return this.lastPoint > 0;
  }
  progress: SweepProgress | null = null;
  readonly counters: DiskCounters = {
    readBytes: 0,
    sentBytes: 0,
    changedBytes: 0,
    storedBytes: 0,
    cleanSamples: 0,
    cleanMismatches: 0,
  };
  /** Plain bytes of the chunk being gathered; one chunk at a time per disk. Replaced by a spare buffer while they are compressed. */
  scratch = Buffer.allocUnsafeSlow(CHUNK_PLAIN_BYTES_MAX);

  constructor(options: {
    readonly id: DiskId;
    readonly device: string;
    readonly geometry: Geometry;
    readonly reader: DiskReader;
    readonly store: HashStore;
    readonly trackable: TrackableDisk | null;
    readonly scanReason: string;
    /** Absent: plain hashes, chunks in the clear. */
    readonly cipher?: DiskCipher;
  }) {
    this.cipher = options.cipher ?? PLAIN_DISK;
    this.id = options.id;
    this.device = options.device;
    this.geometry = options.geometry;
    this.reader = options.reader;
    this.store = options.store;
    this.trackable = options.trackable;
    this.scanReason = options.scanReason;
  }

  /** Ready for cycles: nothing has to be swept first. */
  get isReady(): boolean {
    return this.need === null && this.state !== 'Failed';
  }

  setState(state: DiskState, reason: string): void {
    this.state = state;
    this.stateReason = reason;
  }
}
