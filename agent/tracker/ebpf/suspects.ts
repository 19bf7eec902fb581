/**
 * Blocks whose last read may have been overtaken by a write that was in flight then: they were taken, and not every write
 * that was in flight at that time is known to have landed and been seen. They are read again when completions went unseen.
 *
 * A bucket goes once all writes of its time have landed (the disk was quiet once, or LANDED_AFTER_MS passed) and an audit
 * after that was balanced. Memory is bounded: at most BUCKETS_MAX buckets; small takes are kept exactly, large ones as
 * groups of 64 blocks.
 */
import { BlockSet } from '../../../shared/blocks/block-set.js';
import { addGroups, setBit } from './maps/group-bitmap.js';
import { GROUP_BLOCKS } from './maps/layout.js';

/** Twice the usual time-out of a block device: by then a write has completed, or failed and been reported. */
export const LANDED_AFTER_MS = 60_000;
const BUCKETS_MAX = 8;
const BUCKET_SPAN_MS = LANDED_AFTER_MS / BUCKETS_MAX;
/** 256 KiB of numbers per bucket; a take beyond its bound would take too long to list. */
const EXACT_BLOCKS_MAX = 65_536;
const EXACT_PER_TAKE_MAX = 8192;

interface Bucket {
  openedAtMs: number;
  takenAtMs: number;
  landed: boolean;
  exact: number[];
  readonly groups: BlockSet;
}

export class Suspects {
  #buckets: Bucket[] = [];

  get bucketCount(): number {
    return this.#buckets.length;
  }

  /** Whether a quiet instant would tell anything new. */
  get awaitsQuiet(): boolean {
    return this.#buckets.some((bucket) => !bucket.landed);
  }

  /** Adds blocks that were taken and are about to be read; `groups` are the groups that they lie in. */
  add(blocks: BlockSet, groups: BlockSet, nowMs: number): void {
    if (groups.isEmpty) return;
    const bucket = this.#openBucket(nowMs);
    bucket.takenAtMs = nowMs;
    if (blocks.size > EXACT_PER_TAKE_MAX || bucket.exact.length + blocks.size > EXACT_BLOCKS_MAX) {
      bucket.groups.addAll(groups);
    } else {
      for (const block of blocks.blocks()) bucket.exact.push(block);
    }
  }

  /** Adds groups of blocks that an earlier process had taken. */
  addGroups(groups: BlockSet, nowMs: number): void {
    if (!groups.isEmpty) this.#openBucket(nowMs).groups.addAll(groups);
  }

  /** The disk was quiet just now: no write that was in flight when something was taken is in flight any more. */
  quietSeen(): void {
    for (const bucket of this.#buckets) bucket.landed = true;
  }

  /** An audit was balanced just now. Returns whether buckets went. */
  balanced(nowMs: number): boolean {
    const before = this.#buckets.length;
    this.#buckets = this.#buckets.filter((bucket) => !bucket.landed && nowMs - bucket.takenAtMs < LANDED_AFTER_MS);
    return this.#buckets.length !== before;
  }

  /** All suspect blocks. */
  union(blockCount: number): BlockSet {
    const union = new BlockSet();
    for (const bucket of this.#buckets) {
      for (const block of bucket.exact) union.add(block);
      for (const group of bucket.groups.blocks()) addGroups(union, group, 1, blockCount);
    }
    return union;
  }

  /** All suspect blocks as a bitmap of groups. */
  image(bytes: number): Buffer {
    const image = Buffer.alloc(bytes);
    for (const bucket of this.#buckets) {
      for (const block of bucket.exact) setBit(image, Math.floor(block / GROUP_BLOCKS));
      for (const group of bucket.groups.blocks()) setBit(image, group);
    }
    return image;
  }

  /** The newest bucket while it is young and nothing is known to have landed since, else a new one. */
  #openBucket(nowMs: number): Bucket {
    const newest = this.#buckets.at(-1);
    if (newest !== undefined && !newest.landed && nowMs - newest.openedAtMs < BUCKET_SPAN_MS) return newest;
    if (this.#buckets.length >= BUCKETS_MAX) this.#mergeOldest();
    const bucket = { openedAtMs: nowMs, takenAtMs: nowMs, landed: false, exact: [], groups: new BlockSet() };
    this.#buckets.push(bucket);
    return bucket;
  }

  /** What is known of the merged bucket is what was known of the one that knew less. */
  #mergeOldest(): void {
    const [first, second] = this.#buckets;
    if (first === undefined || second === undefined) return;
    second.groups.addAll(first.groups);
    second.landed &&= first.landed;
    if (first.exact.length + second.exact.length <= EXACT_BLOCKS_MAX) {
      second.exact = first.exact.concat(second.exact);
    } else {
      for (const block of first.exact) second.groups.add(Math.floor(block / GROUP_BLOCKS));
    }
    this.#buckets.shift();
  }
}
