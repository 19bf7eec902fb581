/**
 * Makes a disk's hash store say what the disk itself holds, block for block, before anything is pulled onto it.
 *
 * The hashes of the last committed point are the disk's, but for what was written since: every block that a mark names (D) is read again. Where marks
 * or hashes are in doubt (reboot, another series, no tracking, a sweep under way), all of the disk is read instead, a segment at a time, and goes on
 * where it stopped. The tracker is not told to forget anything: after a kill D comes back with all that was written meanwhile, our own writes too.
 *
 * On a crash: the store is marked as one of a disk that is being restored before its first hash changes; no session believes its point from then on.
 */
import { BlockSet } from '../../shared/blocks/block-set.js';
import { segmentBlocks } from '../../shared/blocks/geometry.js';
import { digestToText } from '../../shared/blocks/hash.js';
import { failpoint } from '../../shared/failpoints.js';
import { RESTORE_AUDITS_MAX, RESTORE_SAMPLE_BLOCKS } from '../../shared/limits.js';
import type { BlockNumber, DiskId, SegmentNumber } from '../../shared/units.js';
import type { BasePoint } from '../../shared/wire/messages.js';
import type { ProtectedDisk } from '../cycle/protected-disk.js';
import type { MarkTracker } from '../tracker/tracker.js';

/** Blocks whose new hashes are written to the store together. */
const LEARN_BLOCKS = 1 << 16;

/**
 * Takes the marks of all disks, until marks and the kernel's counters agree for those that are asked about. What was taken is added to each disk's
 * carry and to `fresh`. Returns why the marks of a disk can't be believed.
 */
export function takeMarks(
  tracker: MarkTracker | null,
  all: readonly ProtectedDisk[],
  fresh: ReadonlyMap<DiskId, BlockSet>,
): Map<DiskId, string> {
  const doubts = new Map<DiskId, string>();
  if (tracker === null) return doubts;
  const asked = all.filter((d) => d.trackable !== null && fresh.has(d.id));
  const found = (disk: ProtectedDisk, blocks: BlockSet): void => {
    disk.carry.addAll(blocks);
    fresh.get(disk.id)?.addAll(blocks);
  };
  for (let tries = 1; ; tries++) {
    const take = tracker.take();
    for (const disk of all) {
      const marked = take.disks.get(disk.id)?.marked;
      if (marked !== undefined) found(disk, marked);
    }
    let balanced = true;
    for (const disk of asked) {
      const verdict = tracker.audit(disk.id);
      if (verdict.kind === 'series-ended') doubts.set(disk.id, verdict.reason);
      if (verdict.kind !== 'recopy') continue;
      found(disk, verdict.blocks);
      balanced = false;
      if (tries === RESTORE_AUDITS_MAX) doubts.set(disk.id, 'writes went unseen again and again');
    }
    if (balanced || tries === RESTORE_AUDITS_MAX) return doubts;
  }
}

/** Why the hashes and the marks don't tell what the disk holds; null when they do. */
export function whyNotTracked(disk: ProtectedDisk): string | null {
  const { store } = disk;
  if (disk.series === null) return 'this disk has no change tracking';
  if (store.restore !== null) {
    return store.restore.series === disk.series ? null : 'change tracking was interrupted during the restore';
  }
  if (store.point === 0) return 'there is no point that this disk is known to have been';
  if (store.committedSeries !== disk.series) return `change tracking was interrupted after point ${store.point}`;
  if (store.sweep !== null) return `a ${store.sweep.kind} was under way`;
  return store.unknownSegments > 0 ? 'the local hashes are not complete' : null;
}

export interface LocalEvents {
  readonly signal: AbortSignal;
  /** Bytes read so far of all that has to be. */
  readonly onRead: (readBytes: number, totalBytes: number) => void;
}

export class LocalHashes {
  readonly disk: ProtectedDisk;
  /** The disk is what it was at this point, but for blocks in `also`; null: nothing is known, all blocks have to be asked about. */
  base: BasePoint | null = null;
  also = new BlockSet();
  /** How the difference is found, for people. */
  reason = '';
  /** All of the disk was read for the present goal. */
  wasReadWhole = false;
  readBytes = 0;
  /** The store's hashes are those of `base`, but for what is re-read now. */
  #storeIsBase = false;
  #begun = false;

  constructor(disk: ProtectedDisk) {
    this.disk = disk;
  }

  /** Marks the store as that of a disk that is restored, and decides what has to be read. Nothing is read yet. */
  async begin(doubt: string | undefined): Promise<void> {
    const { store } = this.disk;
    this.wasReadWhole = false;
    const why = doubt ?? whyNotTracked(this.disk);
    if (why !== null) return this.#distrust(why);
    if (store.restore === null) {
      // Whether the receiver has that point makes no difference here: its blocks are in D still.
      if (store.inDoubtCycle !== null) await store.drop(store.inDoubtCycle);
      const base = { point: store.point, digest: digestToText(store.digest ?? 0n) };
      const exactSegments = this.disk.geometry.segmentCount;
      await store.beginRestore({ series: this.disk.series, base, exactSegments });
      this.base = base;
      this.#storeIsBase = true;
      this.reason = `tracked since point ${base.point}`;
    } else if (!this.#begun) {
      this.base = store.restore.base;
      this.#storeIsBase = false;
      this.reason =
        this.base === null ? 'the disk was read from end to end before' : `tracked since point ${this.base.point}`;
    }
    this.#begun = true;
    failpoint('agent.restore.begun');
  }

  /** Reads what has to be read. `fresh`: blocks that marks named since they were last read here. */
  async makeExact(fresh: BlockSet, random: () => number, events: LocalEvents): Promise<void> {
    await this.#readMissing(events);
    await this.#reread(fresh, events);
    failpoint('agent.restore.reread');
    const liar = this.wasReadWhole ? null : await this.#sample(random);
    if (liar !== null) {
      await this.#distrust(`block ${liar} changed although no write to it was seen (clean sample)`);
      await this.#readMissing(events);
    }
    // What is pulled from here on is another point's.
    this.#storeIsBase = false;
  }

  /** The disk holds a point, proven by digest: the next goal starts from there. After a crash the older base counts again. */
  reached(base: BasePoint): void {
    this.base = base;
    this.also = new BlockSet();
    this.#storeIsBase = true;
  }

  /** The store's hashes of the disk's first `blockCount` blocks, as a digest; all of them when that is the whole disk. */
  async digest(blockCount: number): Promise<bigint | null> {
    const { store, geometry } = this.disk;
    if (blockCount === geometry.blockCount) return store.digest;
    let digest = 0n;
    for (let segment = 0; segment < geometry.segmentCount; segment++) {
      const { first, count } = segmentBlocks(geometry, segment);
      const wanted = Math.min(count, blockCount - first);
      if (wanted <= 0) break;
      const hashes = await store.readSegment(segment);
      for (let i = 0; i < wanted; i++) digest ^= hashes[i] ?? 0n;
    }
    return digest;
  }

  async #distrust(why: string): Promise<void> {
    const { store } = this.disk;
    if (store.inDoubtCycle !== null) await store.drop(store.inDoubtCycle);
    await store.beginRestore({ series: this.disk.series, base: null, exactSegments: 0 });
    this.base = null;
    this.also = new BlockSet();
    this.#storeIsBase = false;
    this.#begun = true;
    this.reason = `the disk was read from end to end: ${why}`;
    failpoint('agent.restore.begun');
  }

  /** Segments that were never read, and those whose hashes were torn by a power cut. */
  async #readMissing({ signal, onRead }: LocalEvents): Promise<void> {
    const { store, geometry } = this.disk;
    const exact = store.restore?.exactSegments ?? 0;
    if (exact < geometry.segmentCount) this.wasReadWhole = true;
    for (let segment = 0; segment < geometry.segmentCount; segment++) {
      signal.throwIfAborted();
      if (segment < exact && (await store.verifySegment(segment))) continue;
      await this.#readSegment(segment, signal);
      failpoint('agent.restore.segment-learned');
      onRead(this.#bytesBelow(segment + 1), geometry.sizeBytes);
    }
  }

  #bytesBelow(segment: SegmentNumber): number {
    const { blocksPerSegment, blockBytes, sizeBytes } = this.disk.geometry;
    return Math.min(segment * blocksPerSegment * blockBytes, sizeBytes);
  }

  async #readSegment(segment: SegmentNumber, signal: AbortSignal): Promise<void> {
    const within = segmentBlocks(this.disk.geometry, segment);
    const hashes = new BigUint64Array(within.count);
    await this.#read([within], signal, (block, hash) => {
      hashes[block - within.first] = hash;
    });
    await this.disk.store.learnSegment(segment, hashes);
  }

  /** Reads blocks again that were written since their hashes were taken. */
  async #reread(fresh: BlockSet, { signal, onRead }: LocalEvents): Promise<void> {
    const { store, geometry } = this.disk;
    const extents = [...fresh.extents()];
    const totalBytes = fresh.size * geometry.blockBytes;
    let doneBytes = 0;
    for (let at = 0; at < extents.length;) {
      const batch: { first: number; count: number }[] = [];
      let blocks = 0;
      while (at < extents.length && blocks < LEARN_BLOCKS) {
        const extent = extents[at++] as { first: number; count: number };
        const count = Math.min(extent.count, LEARN_BLOCKS - blocks);
        batch.push({ first: extent.first, count });
        blocks += count;
        if (count < extent.count) extents[--at] = { first: extent.first + count, count: extent.count - count };
      }
      const numbers = new Uint32Array(blocks);
      const hashes = new BigUint64Array(blocks);
      let n = 0;
      await this.#read(batch, signal, (block, hash) => {
        numbers[n] = block;
        hashes[n++] = hash;
      });
      const before = new BigUint64Array(blocks);
      await store.lookup(numbers, blocks, before);
      for (let i = 0; i < blocks; i++) {
        if (!this.#storeIsBase || before[i] !== hashes[i]) this.also.add(numbers[i] ?? 0);
      }
      await store.learnBlocks({ blocks: numbers, hashes, length: blocks });
      doneBytes += blocks * geometry.blockBytes;
      onRead(doneBytes, totalBytes);
    }
  }

  /** The first of some random blocks that differs although nothing marked it; null when the tracker kept its word. */
  async #sample(random: () => number): Promise<BlockNumber | null> {
    const { store, geometry, carry } = this.disk;
    const chosen = new Set<BlockNumber>();
    for (let i = 0; i < RESTORE_SAMPLE_BLOCKS; i++) {
      const block = Math.floor(random() * geometry.blockCount);
      if (!carry.has(block)) chosen.add(block);
    }
    const blocks = Uint32Array.from([...chosen].sort((a, b) => a - b));
    const known = new BigUint64Array(blocks.length);
    await store.lookup(blocks, blocks.length, known);
    let liar: BlockNumber | null = null;
    let n = 0;
    await this.#read(
      [...blocks].map((first) => ({ first, count: 1 })),
      undefined,
      (block, hash) => {
        if (hash !== known[n++]) liar ??= block;
      },
    );
    return liar;
  }

  async #read(
    extents: readonly { readonly first: BlockNumber; readonly count: number }[],
    signal: AbortSignal | undefined,
    onHash: (block: BlockNumber, hash: bigint) => void,
  ): Promise<void> {
    const { cipher } = this.disk;
    const { blockBytes } = this.disk.geometry;
    const totals = await this.disk.reader.readRuns(
      extents,
      (buffer, first, count) => {
        for (let i = 0; i < count; i++) onHash(first + i, cipher.hash(buffer, i * blockBytes, blockBytes, first + i));
      },
      signal === undefined ? {} : { signal },
    );
    this.readBytes += totals.bytesRead;
    this.disk.counters.readBytes += totals.bytesRead;
  }
}
