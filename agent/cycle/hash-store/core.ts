/**
 * The store's files and state, without the guard of who may call when (that is `store.ts`). Owns the two files of the current generation.
 *
 * Every change goes the same way, now and when it is replayed: a record, then `apply`. A kill between any two steps leaves a journal from
 * which `apply` gets to the same state again. A checkpoint makes new files and switches to them by one rename, so either the old files
 * count or the new ones.
 */
import type { Clock } from '../../../shared/clock.js';
import type { Geometry } from '../../../shared/blocks/geometry.js';
import { digestToText } from '../../../shared/blocks/hash.js';
import { HASH_BATCH_BLOCKS } from '../../../shared/limits.js';
import { asPoint, type DiskId, type SegmentNumber } from '../../../shared/units.js';
import { CHECKPOINT_NAME, writeCheckpoint, type ReceiverState } from './checkpoint.js';
import { invalid } from './errors.js';
import { closingOnFailure, type StateFolder } from './files.js';
import { HASH_FILE_PREFIX, HashFile, hashFileName } from './hash-file.js';
import { Journal, journalName } from './journal.js';
import { lanesOf } from './lanes.js';
import { Pacer } from './pacer.js';
import type { JournalRecord, Patch } from './records.js';
import { MISMATCH, SegmentTable, TRUSTED, UNKNOWN, UNVERIFIED } from './segment-table.js';

export interface CoreOptions {
  readonly folder: StateFolder;
  readonly disk: DiskId;
  readonly geometry: Geometry;
  readonly bootId: string;
  readonly clock: Clock;
}

interface Parts {
  readonly hashes: HashFile;
  readonly hashGeneration: number;
  readonly journal: Journal;
  readonly table: SegmentTable;
  readonly state: ReceiverState;
}

export class HashStoreCore {
  readonly #options: CoreOptions;
  readonly #hashGeneration: number;
  readonly hashes: HashFile;
  readonly table: SegmentTable;
  #journal: Journal;
  #state: ReceiverState;
  /** A cycle whose hashes are in the journal and not applied. They are read from there when they are needed. */
  #prepared: { readonly cycle: string; readonly offset: number } | null = null;

  constructor(options: CoreOptions, parts: Parts) {
    this.#options = options;
    this.hashes = parts.hashes;
    this.#hashGeneration = parts.hashGeneration;
    this.#journal = parts.journal;
    this.table = parts.table;
    this.#state = parts.state;
  }

  /** Takes the place of whatever is in the folder. Until the checkpoint is renamed, that still counts. */
  static async fresh(
    options: CoreOptions,
    generation: number,
    trust: typeof TRUSTED | typeof UNKNOWN,
    state: ReceiverState,
  ): Promise<HashStoreCore> {
    const { folder, geometry } = options;
    const hashes = await HashFile.create(folder, generation, geometry);
    return closingOnFailure(hashes, async () => {
      await hashes.sync();
      const journal = await Journal.create(folder, generation);
      return closingOnFailure(journal, async () => {
        await journal.sync();
        const table = SegmentTable.filled(geometry.segmentCount, trust);
        const core = new HashStoreCore(options, { hashes, hashGeneration: generation, journal, table, state });
        await core.#writeCheckpoint(journal, false);
        return core;
      });
    });
  }

  get geometry(): Geometry {
    return this.#options.geometry;
  }

  get clock(): Clock {
    return this.#options.clock;
  }

  get state(): ReceiverState {
    return this.#state;
  }

  get preparedCycle(): string | null {
    return this.#prepared?.cycle ?? null;
  }

  get journalBytes(): number {
    return this.#journal.bytes;
  }

  /** A generation that no file has. */
  get nextGeneration(): number {
    return this.#journal.generation + 1;
  }

  /** Brings the journal's records back. True when a torn record was cut off. */
  replay(): Promise<boolean> {
    return this.#journal.replay((record, offset) => this.#apply(record, offset));
  }

  /** Journals a record and applies it. */
  async add(record: JournalRecord): Promise<void> {
    await this.#apply(record, await this.#journal.append(record));
  }

  /** Makes all records so far survive a power cut. */
  syncJournal(): Promise<void> {
    return this.#journal.sync();
  }

  /** Segments of these that can't be believed. Reads those that were not verified since a power cut. */
  async untrusted(segments: Iterable<SegmentNumber>): Promise<SegmentNumber[]> {
    const pacer = new Pacer(this.#options.clock);
    const { table } = this;
    const found: SegmentNumber[] = [];
    for (const segment of segments) {
      if (table.trust[segment] === UNVERIFIED) {
        const digest = table.digests[segment] ?? 0n;
        const good = this.hashes.segmentDigest(segment) === digest;
        table.set(segment, digest, good ? TRUSTED : MISMATCH);
        await pacer.breathe();
      }
      if (table.trust[segment] !== TRUSTED) found.push(segment);
    }
    return found;
  }

  /** Writes everything to its place and begins an empty journal. */
  async checkpoint(clean: boolean): Promise<void> {
    const { folder } = this.#options;
    await this.hashes.sync();
    const old = this.#journal;
    const next = await Journal.create(folder, this.nextGeneration);
    const prepared = await closingOnFailure(next, async () => {
      const carried = this.#prepared && {
        ...this.#prepared,
        offset: await next.append(old.read(this.#prepared.offset)),
      };
      await next.sync();
      await this.#writeCheckpoint(next, clean);
      return carried;
    });
    this.#journal = next;
    this.#prepared = prepared;
    await old.close();
    await folder.remove(journalName(old.generation));
  }

  /**
   * Removes what earlier generations and interrupted checkpoints left. A large file of hashes goes in the background: freeing its many
   * extents can take seconds. Nothing needs it gone, its name isn't used again, and what fails is done by the next opening.
   */
  async removeOthers(): Promise<void> {
    const { folder } = this.#options;
    const hashes = hashFileName(this.#hashGeneration);
    const keep = new Set([CHECKPOINT_NAME, hashes, journalName(this.#journal.generation)]);
    for (const name of await folder.list()) {
      if (!isStoreFile(name) || keep.has(name)) continue;
      if (name.startsWith(HASH_FILE_PREFIX)) void folder.remove(name).catch(() => undefined);
      else await folder.remove(name);
    }
  }

  async close(): Promise<void> {
    await this.hashes.close();
    await this.#journal.close();
  }

  #writeCheckpoint(journal: Journal, clean: boolean): Promise<void> {
    const { folder, disk, geometry, bootId } = this.#options;
    const header = {
      disk,
      sizeBytes: geometry.sizeBytes,
      blockBytes: geometry.blockBytes,
      bootId,
      clean,
      hashGeneration: this.#hashGeneration,
      journalGeneration: journal.generation,
      state: this.#state,
    };
    return writeCheckpoint(folder, { header, table: this.table });
  }

  async #apply({ meta, patch }: JournalRecord, offset: number): Promise<void> {
    const { sweep } = this.#state;
    switch (meta.type) {
      case 'sweep-begin':
        // What an earlier sweep staged is still staged: the receiver keeps it until a commit.
        this.#setSweep({
          kind: meta.kind,
          series: meta.series,
          nextSegment: 0,
          stagedLayers: sweep?.stagedLayers ?? 0,
        });
        return;
      case 'sweep-end':
        this.#setSweep(null);
        return;
      case 'staged':
        if (sweep === null) throw invalid('the journal has a staged segment without a sweep');
        if (patch !== null) await this.#write(patch);
        this.#setSweep({
          ...sweep,
          nextSegment: meta.segment + 1,
          stagedLayers: sweep.stagedLayers + (meta.madeLayer ? 1 : 0),
        });
        return;
      case 'replaced':
        if (patch !== null) await this.#write(patch);
        return;
      case 'prepared':
        this.#prepared = { cycle: meta.cycle, offset };
        return;
      case 'committed':
        await this.#write(this.#takePrepared(meta.cycle));
        this.#state = {
          ...this.#state,
          point: meta.point,
          committedSeries: meta.series,
          pointDigest: this.table.digest === null ? null : digestToText(this.table.digest),
          sweep: null,
        };
        return;
      case 'dropped':
        this.#takePrepared(meta.cycle);
        return;
      case 'restore-begin':
        // From here on no point is believed: whoever looks for one has to compare.
        this.#state = {
          ...this.#state,
          point: asPoint(0),
          committedSeries: null,
          pointDigest: null,
          sweep: null,
          restore: meta.restore,
        };
        return;
      case 'learned':
        if (patch !== null) await this.#write(patch);
        if (this.#state.restore === null) throw invalid('the journal has learned hashes without a restore');
        this.#state = { ...this.#state, restore: { ...this.#state.restore, exactSegments: meta.exactSegments } };
        return;
      case 'restored':
        this.#state = {
          ...this.#state,
          point: meta.point,
          committedSeries: meta.series,
          pointDigest: this.table.digest === null ? null : digestToText(this.table.digest),
          restore: null,
        };
        return;
    }
  }

  #setSweep(sweep: ReceiverState['sweep']): void {
    this.#state = { ...this.#state, sweep };
  }

  #takePrepared(cycle: string): Patch {
    const prepared = this.#prepared;
    if (prepared?.cycle !== cycle) throw invalid('the journal ends a cycle that was not prepared');
    const { patch } = this.#journal.read(prepared.offset);
    if (patch === null) throw invalid('the journal has a prepared cycle without hashes');
    this.#prepared = null;
    return patch;
  }

  async #write({ segments, digests, blocks, hashes }: Patch): Promise<void> {
    const whole = blocks.length === 0 && hashes.length > 0;
    if (whole) this.hashes.writeSegment(segments[0] ?? 0, hashes);
    else await this.#scatter(blocks, lanesOf(hashes));
    for (let i = 0; i < segments.length; i++) {
      const segment = segments[i] ?? 0;
      const before = this.table.trust[segment];
      // A patch on top of a segment that was found torn: it may have been torn by this very patch, so look again.
      const after = whole || before === TRUSTED ? TRUSTED : UNVERIFIED;
      this.table.set(segment, digests[i] ?? 0n, after);
    }
  }

  async #scatter(blocks: Uint32Array, hashes: Uint32Array): Promise<void> {
    const pacer = new Pacer(this.#options.clock);
    for (let i = 0; i < blocks.length; i += HASH_BATCH_BLOCKS) {
      this.hashes.scatter(blocks, hashes, i, Math.min(i + HASH_BATCH_BLOCKS, blocks.length));
      await pacer.breathe();
    }
  }
}

/** Names that this store makes; anything else in the folder isn't ours to remove. */
export const isStoreFile = (name: string): boolean => /^(hashes-\d+|journal-\d+|checkpoint(\.tmp)?)$/.test(name);
