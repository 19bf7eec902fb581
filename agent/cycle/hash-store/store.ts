/**
 * Hash store of a disk: one 64-bit hash per block of what the receiver has (the last committed point, plus what a sweep staged beyond it),
 * on disk; in memory 9 bytes per segment. See README.md beside this file for files, order of writes and what a crash leaves.
 *
 * Promises: a hash that is returned is the one that the state named by `point`, `sweep` and `inDoubtCycle` has; where that can't be told,
 * `UntrustedSegmentsError` names the segments. After a kill the state is that before or after a call, never between.
 * Calls take turns. After a failure of the local disk every call throws that failure, until the store is opened again.
 */
import { segmentBlocks } from '../../../shared/blocks/geometry.js';
import { digestFromText } from '../../../shared/blocks/hash.js';
import { messageOf } from '../../../shared/errors.js';
import { JOURNAL_BYTES_MAX } from '../../../shared/limits.js';
import type { PointNumber, SegmentNumber, SeriesId } from '../../../shared/units.js';
import { InTurn } from '../../../shared/in-turn.js';
import { cycleChange, segmentChange } from './changes.js';
import type { ReceiverState } from './checkpoint.js';
import { HashStoreCore, type CoreOptions } from './core.js';
import type { HashEntries } from './entries.js';
import { DisputedSegmentError, incomplete, isAnswer, misuse } from './errors.js';
import { stateFolder, type StateFolder } from './files.js';
import { requireLittleEndian, xorOf } from './lanes.js';
import { emptyState, openCore, type OpenState } from './open.js';
import { demandTrust, lookup, segmentsOf } from './reading.js';
import { segmentPatch, type Patch, type RecordMeta, type RestoreState, type SweepKind } from './records.js';
import { TRUSTED, UNKNOWN } from './segment-table.js';

export type { HashEntries } from './entries.js';
export { UntrustedSegmentsError } from './errors.js';
export type { OpenState } from './open.js';
export type { RestoreState, SweepKind } from './records.js';

export interface HashStoreOptions extends Omit<CoreOptions, 'folder'> {
  /** A folder of this store's own (tests pass one that loses power). */
  readonly dir: string | StateFolder;
  /** Makes a prepared cycle survive a power cut (one fdatasync per cycle); else a power cut may cost a comparison. */
  readonly syncJournal: boolean;
}

/** What the receiver has when a store begins anew. */
export interface ResetTo {
  /** `zero`: nothing but zeroes (before a first copy). `unknown`: something, to be asked for segment by segment. */
  readonly hashes: 'zero' | 'unknown';
  readonly point: PointNumber;
  readonly committedSeries: SeriesId | null;
  /** For people. */
  readonly reason: string;
}

export interface OpenedHashStore {
  readonly store: HashStore;
  readonly state: OpenState;
  readonly reason: string;
}

export class HashStore {
  readonly #options: HashStoreOptions;
  readonly #coreOptions: CoreOptions;
  #core: HashStoreCore;
  readonly #turns = new InTurn();
  #failure: Error | null = null;
  #closed = false;

  private constructor(options: HashStoreOptions, coreOptions: CoreOptions, core: HashStoreCore) {
    this.#options = options;
    this.#coreOptions = coreOptions;
    this.#core = core;
  }

  static async open(options: HashStoreOptions): Promise<OpenedHashStore> {
    requireLittleEndian();
    const folder = typeof options.dir === 'string' ? await stateFolder(options.dir) : options.dir;
    const coreOptions = { ...options, folder };
    const { core, state, reason } = await openCore(coreOptions);
    return { store: new HashStore(options, coreOptions, core), state, reason };
  }

  /** Last committed point that this store knows of; 0 for none. */
  get point(): PointNumber {
    return this.#core.state.point;
  }

  get committedSeries(): SeriesId | null {
    return this.#core.state.committedSeries;
  }

  /** Digest of `point` when it was committed; null when this store was reset since. */
  get pointDigest(): bigint | null {
    const text = this.#core.state.pointDigest;
    return text === null ? null : digestFromText(text);
  }

  /** Segments below `nextSegment` are staged; `stagedLayers` of them made an object. Stays until a commit takes it in. */
  get sweep(): ReceiverState['sweep'] {
    return this.#core.state.sweep;
  }

  /** Set while the disk is being restored: the hashes are the disk's own then, and no point of the receiver is believed. */
  get restore(): RestoreState | null {
    return this.#core.state.restore;
  }

  /** A cycle that was prepared, and neither committed nor dropped. */
  get inDoubtCycle(): string | null {
    return this.#core.preparedCycle;
  }

  /** XOR of all hashes, staged ones included, without the prepared cycle; null while segments are unknown. */
  get digest(): bigint | null {
    return this.#core.table.digest;
  }

  /** Segments whose hashes were never known, after `reset` to `unknown`; such a store isn't `valid` in a hello. */
  get unknownSegments(): number {
    return this.#core.table.unknown;
  }

  /** Why this store began anew, for people. */
  get origin(): string {
    return this.#core.state.origin;
  }

  /** Why every call throws; null while all is well. */
  get failure(): Error | null {
    return this.#failure;
  }

  /** Whether a segment's hashes can be believed; reads and compares them when that was not done since a power cut. */
  verifySegment(segment: SegmentNumber): Promise<boolean> {
    return this.#run(async () => (await this.#core.untrusted([this.#checked(segment)])).length === 0);
  }

  /** Segments of these blocks (any order) whose hashes can't be believed. */
  untrustedAmong(blocks: Uint32Array, count: number): Promise<SegmentNumber[]> {
    return this.#run(() => this.#core.untrusted(segmentsOf(this.#core, blocks, count)));
  }

  /** Hashes of a segment, into the start of `into` or a new array. */
  readSegment(segment: SegmentNumber, into?: BigUint64Array): Promise<BigUint64Array> {
    return this.#run(async () => {
      await demandTrust(this.#core, [this.#checked(segment)]);
      const { count } = segmentBlocks(this.#options.geometry, segment);
      const out = into?.subarray(0, count) ?? new BigUint64Array(count);
      this.#core.hashes.readSegment(segment, out);
      return out;
    });
  }

  /** Hashes of `count` blocks (any order) into the same places of `out`. */
  lookup(blocks: Uint32Array, count: number, out: BigUint64Array): Promise<void> {
    return this.#run(() => lookup(this.#core, blocks, count, out));
  }

  /**
   * Takes a segment's hashes from the receiver. `must-agree`: throws when they aren't what this store recorded, since then a delta would
   * leave the receiver with what the disk never held. `take`: for a segment that a comparison is about to read from end to end.
   */
  replaceSegment(segment: SegmentNumber, hashes: BigUint64Array, rule: 'must-agree' | 'take'): Promise<void> {
    return this.#run(async () => {
      this.#demandNoneInDoubt();
      this.#checkWhole(segment, hashes);
      const { table } = this.#core;
      const digest = xorOf(hashes);
      const known = table.trust[segment] !== UNKNOWN;
      if (rule === 'must-agree' && known && table.digests[segment] !== digest) throw new DisputedSegmentError(segment);
      await this.#add({ type: 'replaced' }, segmentPatch(segment, hashes, digest));
    });
  }

  /** Begins a sweep at segment 0. What an interrupted one staged stays staged. */
  beginSweep(kind: SweepKind, series: SeriesId | null): Promise<void> {
    return this.#run(async () => {
      this.#demandNoneInDoubt();
      this.#demandNoRestore();
      await this.#add({ type: 'sweep-begin', kind, series });
    });
  }

  /** A segment became durable at the receiver: these are all its hashes now. Segments come ascending; those left out didn't change. */
  stageSegment(segment: SegmentNumber, hashes: BigUint64Array, madeLayer: boolean): Promise<void> {
    return this.#run(async () => {
      this.#demandNoneInDoubt();
      this.#checkWhole(segment, hashes);
      const { sweep } = this.#core.state;
      if (sweep === null) throw misuse('a segment was staged without a sweep');
      if (segment < sweep.nextSegment) throw misuse(`segment ${segment} was staged after ${sweep.nextSegment - 1}`);
      await this.#core.untrusted([segment]);
      await this.#add({ type: 'staged', segment, madeLayer }, segmentChange(this.#core, segment, hashes));
    });
  }

  /** Ends a sweep that staged nothing. One that did ends with the commit that takes it in, or with `reset`. */
  endSweep(): Promise<void> {
    return this.#run(async () => {
      this.#demandNoneInDoubt();
      const layers = this.#core.state.sweep?.stagedLayers ?? 0;
      if (layers > 0) throw misuse(`a sweep with ${layers} staged layers was ended without a commit`);
      await this.#add({ type: 'sweep-end' });
    });
  }

  /** Journals a cycle's new hashes before its commit is sent. Returns the digest that the disk has with them. */
  prepare(cycle: string, entries: HashEntries): Promise<{ readonly digest: bigint }> {
    return this.#run(async () => {
      this.#demandNoneInDoubt();
      this.#demandNoRestore();
      const { table } = this.#core;
      if (table.unknown > 0) throw incomplete(table.unknown);
      const patch = await cycleChange(this.#core, entries);
      const digest = table.digestWith(patch.segments, patch.digests);
      if (digest === null) throw incomplete(table.unknown);
      await this.#core.add({ meta: { type: 'prepared', cycle }, patch });
      if (this.#options.syncJournal) await this.#core.syncJournal();
      return { digest };
    });
  }

  /** The receiver committed the prepared cycle (now, or, after a crash, as its welcome says). Ends a sweep. */
  commit(cycle: string, point: PointNumber, series: SeriesId | null): Promise<void> {
    return this.#run(async () => {
      this.#demandPrepared(cycle);
      await this.#add({ type: 'committed', cycle, point, series });
    });
  }

  /** The receiver didn't commit the prepared cycle, and never will. */
  drop(cycle: string): Promise<void> {
    return this.#run(async () => {
      this.#demandPrepared(cycle);
      await this.#add({ type: 'dropped', cycle });
    });
  }

  /**
   * From now on the hashes are to become the disk's own, and no point is believed, whatever happens: what is begun here ends with `endRestore` or
   * `reset`. Survives a power cut. Segments below `exactSegments` are the disk's already, but for blocks marked under `series`.
   */
  beginRestore(restore: RestoreState): Promise<void> {
    return this.#run(async () => {
      this.#demandNoneInDoubt();
      await this.#add({ type: 'restore-begin', restore });
      await this.#core.syncJournal();
    });
  }

  /** All hashes of a segment, as the disk holds them, durably. Segments that are learned in their order move `exactSegments` on. */
  learnSegment(segment: SegmentNumber, hashes: BigUint64Array): Promise<void> {
    return this.#run(async () => {
      const { exactSegments } = this.#demandRestore();
      this.#checkWhole(segment, hashes);
      await this.#core.untrusted([segment]);
      const exact = segment === exactSegments ? segment + 1 : exactSegments;
      await this.#add({ type: 'learned', exactSegments: exact }, segmentChange(this.#core, segment, hashes));
    });
  }

  /** Hashes of blocks as the disk holds them, durably. Throws `UntrustedSegmentsError` where a segment must be learned whole. */
  learnBlocks(entries: HashEntries): Promise<void> {
    return this.#run(async () => {
      const { exactSegments } = this.#demandRestore();
      await this.#add({ type: 'learned', exactSegments }, await cycleChange(this.#core, entries));
    });
  }

  /** The disk holds `point`, all of it, and is tracked under `series` from here on. Survives a power cut. */
  endRestore(point: PointNumber, series: SeriesId | null): Promise<void> {
    return this.#run(async () => {
      this.#demandRestore();
      if (this.#core.table.unknown > 0) throw incomplete(this.#core.table.unknown);
      await this.#add({ type: 'restored', point, series });
      await this.#core.syncJournal();
    });
  }

  /** Begins anew; a sweep, a prepared cycle and all hashes are forgotten at once. */
  reset(to: ResetTo): Promise<void> {
    return this.#run(async () => {
      const old = this.#core;
      const { point, committedSeries, reason } = to;
      const state = { ...emptyState(reason), point, committedSeries };
      const trust = to.hashes === 'zero' ? TRUSTED : UNKNOWN;
      this.#core = await HashStoreCore.fresh(this.#coreOptions, old.nextGeneration, trust, state);
      await old.close();
      await this.#core.removeOthers();
    });
  }

  /** Empties the journal. Happens by itself when it has grown beyond JOURNAL_BYTES_MAX. */
  checkpoint(): Promise<void> {
    return this.#run(() => this.#core.checkpoint(false));
  }

  /** Waits for calls under way, makes all durable and marks it clean. After a failure it only closes the files. */
  async close(): Promise<void> {
    await this.#turns.settled();
    if (this.#closed) return;
    this.#closed = true;
    try {
      if (this.#failure === null) await this.#core.checkpoint(true);
    } finally {
      await this.#core.close();
    }
  }

  #run<T>(work: () => Promise<T>): Promise<T> {
    return this.#turns.run(async () => {
      if (this.#closed) throw misuse('used after it was closed');
      if (this.#failure !== null) throw this.#failure;
      try {
        return await work();
      } catch (error) {
        if (!isAnswer(error)) this.#failure = error instanceof Error ? error : new Error(messageOf(error));
        throw error;
      }
    });
  }

  async #add(meta: RecordMeta, patch: Patch | null = null): Promise<void> {
    await this.#core.add({ meta, patch });
    if (this.#core.journalBytes > JOURNAL_BYTES_MAX) await this.#core.checkpoint(false);
  }

  #demandNoneInDoubt(): void {
    const cycle = this.#core.preparedCycle;
    if (cycle !== null) throw misuse(`cycle ${cycle} is still in doubt`);
  }

  #demandNoRestore(): void {
    if (this.#core.state.restore !== null) throw misuse('the disk is being restored: its hashes are no point’s');
  }

  #demandRestore(): RestoreState {
    const { restore } = this.#core.state;
    if (restore === null) throw misuse('no restore was begun');
    return restore;
  }

  #demandPrepared(cycle: string): void {
    if (this.#core.preparedCycle !== cycle) throw misuse(`cycle ${cycle} was not prepared`);
  }

  #checked(segment: SegmentNumber): SegmentNumber {
    if (segment >= 0 && segment < this.#options.geometry.segmentCount) return segment;
    throw misuse(`segment ${segment} of a disk of ${this.#options.geometry.segmentCount}`);
  }

  #checkWhole(segment: SegmentNumber, hashes: BigUint64Array): void {
    const { count } = segmentBlocks(this.#options.geometry, this.#checked(segment));
    if (hashes.length !== count) throw misuse(`${hashes.length} hashes for segment ${segment} of ${count} blocks`);
  }
}
