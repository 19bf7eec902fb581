/**
 * The mapped maps of one disk and the agent's side of the protocol on them: draining marks, the filter, pending blocks.
 * Owns the mappings; `unmap` ends them, and nothing may be called after it.
 *
 * Crash: a take sets `pending` and `suspects` before it clears a summary bit, and clears that before it empties the word of
 * marks. Whatever the instant, each mark is in `marks` or its group is in `pending`.
 */
import { BlockSet, popcount32 } from '../../../../shared/blocks/block-set.js';
import { mmapShared, type Mapping } from '../../../../shared/native/libc.js';
import type { SubmittedFilter } from '../../tracker.js';
import { ProgramCounters } from './counters.js';
import { addGroups, GroupBitmap } from './group-bitmap.js';
import { GROUP_BLOCKS, IDENTITY_BYTES, mapBytes, mapShape, MAP_NAMES, type MapName, type MapSizes } from './layout.js';
import { forEachBit, forEachDirtyPage } from './scan.js';

const PAGE_BYTES = 4096;
const roundUpToPage = (bytes: number): number => Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES;

const ALL_BITS = -1;

export interface Drained {
  /** Blocks. */
  readonly marked: BlockSet;
  /** Numbers of the groups that they lie in. */
  readonly groups: BlockSet;
}

const EVERYTHING: SubmittedFilter = { mayHold: () => true };

export class DiskMaps {
  readonly counters: ProgramCounters;
  readonly pending: GroupBitmap;
  readonly suspects: GroupBitmap;
  readonly identity: Buffer;
  readonly #mappings: Readonly<Record<MapName, Mapping>>;
  readonly #marks: Int32Array;
  readonly #marksBytes: Buffer;
  readonly #summary: Int32Array;
  readonly #summaryBytes: Buffer;
  readonly #coarse: Int32Array;
  readonly #coarseBytes: Buffer;
  readonly #filter: Int32Array;
  readonly #filterWords32: number;
  readonly #blockCount: number;
  #takes = 0;

  constructor(fds: Readonly<Record<MapName, number>>, sizes: MapSizes, blockCount: number) {
    this.#mappings = mapAll(fds, sizes);
    const memory = (name: MapName): ArrayBuffer => this.#mappings[name].bytes;
    const groupBytes = sizes.groupWords * 8;
    this.#blockCount = blockCount;
    this.#marks = new Int32Array(memory('marks'), 0, sizes.markWords * 2);
    this.#marksBytes = Buffer.from(memory('marks'), 0, sizes.markWords * 8);
    this.#summary = new Int32Array(memory('summary'), 0, groupBytes >>> 2);
    this.#summaryBytes = Buffer.from(memory('summary'), 0, groupBytes);
    this.#coarse = new Int32Array(memory('coarse'), 0, (groupBytes >>> 2) + 1);
    this.#coarseBytes = Buffer.from(memory('coarse'), 0, groupBytes);
    this.#filterWords32 = sizes.filterWords * 2;
    this.#filter = new Int32Array(memory('filter'), 0, this.#filterWords32 * 2 + 4);
    this.pending = new GroupBitmap(memory('pending'), groupBytes);
    this.suspects = new GroupBitmap(memory('suspects'), groupBytes);
    this.counters = new ProgramCounters(memory('slots'), sizes.cpuSlots);
    this.identity = Buffer.from(memory('identity'), 0, IDENTITY_BYTES);
  }

  unmap(): void {
    for (const name of MAP_NAMES) this.#mappings[name].unmap();
  }

  /**
   * Takes all marks out. Some may belong to the new epoch already: harmless, as such a block is marked for this take instead
   * of the next, where its completion will mark it again; at worst a cut needs another try.
   *
   * Words of 64 bits are emptied as two halves of 32: each half is exchanged atomically, and no mark spans both.
   */
  drain(): Drained {
    const drained = { marked: new BlockSet(), groups: new BlockSet() };
    forEachDirtyPage(this.#summaryBytes, (first, end) => {
      for (let i = first; i < end; i++) this.#drainSummaryWord(i, drained);
    });
    this.#drainCoarse(drained);
    return drained;
  }

  /** Blocks marked now. Counts huge ranges whole, and blocks in both levels twice. */
  markedCount(): number {
    let count = 0;
    forEachDirtyPage(this.#summaryBytes, (first, end) => {
      for (let i = first; i < end; i++) {
        forEachBit(this.#summary[i] ?? 0, (bit) => {
          const word = (i * 32 + bit) * 2;
          count += popcount32(this.#marks[word] ?? 0) + popcount32(this.#marks[word + 1] ?? 0);
        });
      }
    });
    if (this.#coarse[this.#coarse.length - 1] !== 0) {
      forEachDirtyPage(this.#coarseBytes, (first, end) => {
        for (let i = first; i < end; i++) count += popcount32(this.#coarse[i] ?? 0) * GROUP_BLOCKS;
      });
    }
    return Math.min(count, this.#blockCount);
  }

  /** After a crash: a summary bit may have been cleared before its word was emptied. */
  repairSummary(): void {
    forEachDirtyPage(this.#marksBytes, (first, end) => {
      for (let i = first; i < end; i++) {
        if ((this.#marks[i] ?? 0) === 0) continue;
        const group = i >>> 1;
        Atomics.or(this.#summary, group >>> 5, 1 << (group & 31));
      }
    });
    Atomics.store(this.#coarse, this.#coarse.length - 1, 1);
  }

  /** Empties the filter of an epoch that no program uses: neither now, nor ever again before the next flip. */
  clearFilter(epoch: number): void {
    const start = epoch * this.#filterWords32;
    this.#filter.fill(0, start, start + this.#filterWords32);
    Atomics.store(this.#filter, this.#everythingAt(epoch), 0);
  }

  /** S of an epoch that has ended: a view that says yes to everything once the next take has begun. */
  submittedFilter(epoch: number): SubmittedFilter {
    this.#takes++;
    if (Atomics.load(this.#filter, this.#everythingAt(epoch)) !== 0) return EVERYTHING;
    const take = this.#takes;
    const start = epoch * this.#filterWords32;
    const mask = this.#filterWords32 - 1;
    return {
      mayHold: (block) => {
        if (this.#takes !== take) return true;
        return ((this.#filter[start + ((block >>> 5) & mask)] ?? 0) & (1 << (block & 31))) !== 0;
      },
    };
  }

  /** S when it isn't known. */
  unknownFilter(): SubmittedFilter {
    this.#takes++;
    return EVERYTHING;
  }

  /** Ends the life of the filter that was handed out last. */
  expireFilter(): void {
    this.#takes++;
  }

  #everythingAt(epoch: number): number {
    return 2 * this.#filterWords32 + epoch * 2;
  }

  #drainSummaryWord(index: number, drained: Drained): void {
    const groups = Atomics.load(this.#summary, index);
    if (groups === 0) return;
    this.#remember(index, groups, drained);
    Atomics.and(this.#summary, index, ~groups);
    for (let bits = groups; bits !== 0; bits &= bits - 1) {
      const word = (index * 32 + 31 - Math.clz32(bits & -bits)) * 2;
      this.#drainMarks(word, drained.marked);
      this.#drainMarks(word + 1, drained.marked);
    }
  }

  #drainMarks(word: number, marked: BlockSet): void {
    if (Atomics.load(this.#marks, word) !== 0) marked.addWord(word, Atomics.exchange(this.#marks, word, 0));
  }

  /**
   * The flag "not empty" goes first: a range that comes meanwhile sets it again for the next take. (A crash in between
   * leaves bits without the flag; re-arming sets it.)
   */
  #drainCoarse(drained: Drained): void {
    if (Atomics.load(this.#coarse, this.#coarse.length - 1) === 0) return;
    Atomics.store(this.#coarse, this.#coarse.length - 1, 0);
    forEachDirtyPage(this.#coarseBytes, (first, end) => {
      for (let i = first; i < end; i++) this.#drainCoarseWord(i, drained);
    });
  }

  #drainCoarseWord(index: number, drained: Drained): void {
    const groups = Atomics.load(this.#coarse, index);
    if (groups === 0) return;
    this.#remember(index, groups, drained);
    Atomics.and(this.#coarse, index, ~groups);
    if (groups === ALL_BITS) addGroups(drained.marked, index * 32, 32, this.#blockCount);
    else forEachBit(groups, (bit) => addGroups(drained.marked, index * 32 + bit, 1, this.#blockCount));
  }

  #remember(index: number, groups: number, drained: Drained): void {
    this.pending.orWord(index, groups);
    this.suspects.orWord(index, groups);
    drained.groups.addWord(index, groups);
  }
}

function mapAll(fds: Readonly<Record<MapName, number>>, sizes: MapSizes): Record<MapName, Mapping> {
  const done: Mapping[] = [];
  const map = (name: MapName): Mapping => {
    const mapping = mmapShared(fds[name], roundUpToPage(mapBytes(mapShape(name, sizes))));
    done.push(mapping);
    return mapping;
  };
  try {
    return {
      marks: map('marks'),
      summary: map('summary'),
      coarse: map('coarse'),
      pending: map('pending'),
      suspects: map('suspects'),
      filter: map('filter'),
      slots: map('slots'),
      identity: map('identity'),
    };
  } catch (error) {
    for (const mapping of done) mapping.unmap();
    throw error;
  }
}
