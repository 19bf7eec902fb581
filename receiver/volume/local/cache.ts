/**
 * Blocks of the recovery point that come into the local image: fetched, kept, given up again. State in memory only; the maps say what is kept.
 *
 * Fetching holds no lock: a write to the same blocks goes on and wins. Keeping locks the blocks and keeps only what is still not local, so nothing
 * newer is ever overwritten. When the image has no room, what was fetched is answered all the same and not kept.
 */
import { CACHE_EVICT_GROUPS, CACHE_GROUP_BYTES, CHUNK_PLAIN_BYTES_MAX } from '../../../shared/limits.js';
import type { Logger } from '../../../shared/log.js';
import { bytesOfBlocks } from '../../../shared/blocks/geometry.js';
import type { ContentRun, PointContent } from '../content.js';
import type { LocalImage } from './image.js';
import type { Run } from './maps.js';
import { contentMissing } from './problems.js';
import type { RangeHold } from './range-lock.js';

export interface CacheOptions {
  readonly disk: string;
  readonly content: PointContent | null;
  /** Null: no bound. */
  readonly bytesMax: number | null;
  readonly log: Logger;
}

export class Cache {
  /** What is read where nothing is local. Null: everything is, and nothing is given up. */
  content: PointContent | null;
  fetchedBlocks = 0;
  readonly #image: LocalImage;
  readonly #disk: string;
  readonly #log: Logger;
  readonly #groupBlocks: number;
  readonly #regionBlocks: number;
  /** Regions of which something is being fetched: what others want there is likely to come along. */
  readonly #fetching = new Map<number, Promise<void>>();
  /** Groups used since the hand of the clock last passed. */
  readonly #used: Uint8Array;
  #hand = 0;
  #blocksMax: number;
  #evicting: Promise<unknown> | undefined;
  /** Why the last block that was fetched could not be kept. */
  #keepFailure: unknown;

  constructor(image: LocalImage, options: CacheOptions) {
    const { blockBytes, blockCount } = image.geometry;
    this.#image = image;
    this.content = options.content;
    this.#disk = options.disk;
    this.#log = options.log;
    this.#groupBlocks = CACHE_GROUP_BYTES / blockBytes;
    this.#regionBlocks = CHUNK_PLAIN_BYTES_MAX / blockBytes;
    this.#blocksMax = options.bytesMax === null ? Infinity : Math.floor(options.bytesMax / blockBytes);
    this.#used = new Uint8Array(Math.ceil(blockCount / this.#groupBlocks));
  }

  /** Local blocks that no client has written: they can be fetched again. */
  get cachedBlocks(): number {
    return this.#image.maps.local.count - this.#image.maps.written.count;
  }

  get keepFailure(): unknown {
    return this.#keepFailure;
  }

  /** No bound any more: everything is to become local. */
  keepEverything(): void {
    this.#blocksMax = Infinity;
  }

  touch(first: number, count: number): void {
    if (this.#blocksMax === Infinity) return;
    const last = Math.floor((first + count - 1) / this.#groupBlocks);
    for (let group = Math.floor(first / this.#groupBlocks); group <= last; group++) this.#used[group] = 1;
  }

  /**
   * Fetches blocks that aren't local, within one region, into `into` (whole blocks). `retry`: another fetch was under way, look again.
   */
  async fetch(first: number, count: number, into: Buffer): Promise<'fetched' | 'retry'> {
    const region = Math.floor(first / this.#regionBlocks);
    const busy = this.#fetching.get(region);
    if (busy !== undefined) {
      await busy;
      // Not kept (no room, or an error that its own caller hears of): then each for itself.
      const { local } = this.#image.maps;
      if (local.has(first) || local.runEnd(first, first + count) !== first + count) return 'retry';
    }
    const work = this.#fetch(first, count, into);
    const settled = work.catch(() => undefined);
    if (busy === undefined || !this.#fetching.has(region)) this.#fetching.set(region, settled);
    try {
      await work;
    } finally {
      if (this.#fetching.get(region) === settled) this.#fetching.delete(region);
    }
    return 'fetched';
  }

  /** Runs of blocks, cut at the borders of regions. */
  *regions(first: number, count: number): Generator<Run> {
    const end = first + count;
    for (let at = first; at < end;) {
      const next = Math.min(end, (Math.floor(at / this.#regionBlocks) + 1) * this.#regionBlocks);
      yield { first: at, count: next - at };
      at = next;
    }
  }

  contentOrThrow(): PointContent {
    if (this.content === null) throw contentMissing(this.#disk);
    return this.content;
  }

  async #fetch(first: number, count: number, into: Buffer): Promise<void> {
    const { blockBytes } = this.#image.geometry;
    const content = this.contentOrThrow();
    const extras: { run: Run; plain: Buffer }[] = [];
    const keepExtra = (extraFirst: number, extraCount: number, plain: Buffer): void => {
      const { local } = this.#image.maps;
      if (local.hasAll(extraFirst, extraCount)) return;
      extras.push({ run: { first: extraFirst, count: extraCount }, plain: Buffer.from(plain) });
    };
    const runs: readonly ContentRun[] = await content.runs(first, count);
    for (const run of runs) {
      const part = into.subarray((run.first - first) * blockBytes, (run.first - first + run.count) * blockBytes);
      if (run.zero) part.fill(0);
      else await content.read(run.first, run.count, part, keepExtra);
      this.fetchedBlocks += run.count;
    }
    for (const run of runs) {
      const at = (run.first - first) * blockBytes;
      await this.#keep(run, run.zero ? undefined : into.subarray(at, at + run.count * blockBytes));
    }
    for (const { run, plain } of extras) await this.#keep(run, plain);
    this.#evictIfNeeded();
  }

  /** Keeps what of a run is not local yet; undefined stands for zeroes. */
  async #keep(run: Run, plain: Buffer | undefined): Promise<void> {
    const { local } = this.#image.maps;
    if (local.hasAll(run.first, run.count)) return;
    const hold = await this.#image.lock.acquire(run.first, run.count, true);
    try {
      const missing = [...local.runs(run.first, run.count)].filter((part) => !part.set);
      for (const part of missing) {
        await this.#store(part, plain, run.first);
        local.set(part.first, part.count);
      }
      this.touch(run.first, run.count);
      this.#keepFailure = undefined;
    } catch (error) {
      // The reader has its bytes; only the next one has to fetch them again.
      if (this.#keepFailure === undefined)
        this.#log.warn({ disk: this.#disk, err: error }, 'a fetched block could not be kept');
      this.#keepFailure = error;
    } finally {
      this.#image.lock.release(hold);
    }
  }

  async #store(part: Run, plain: Buffer | undefined, plainFirst: number): Promise<void> {
    const { blockBytes } = this.#image.geometry;
    const offset = part.first * blockBytes;
    const lengthBytes = bytesOfBlocks(this.#image.geometry, part.first, part.count);
    if (plain !== undefined) {
      const at = (part.first - plainFirst) * blockBytes;
      await this.#image.write(offset, plain.subarray(at, at + lengthBytes));
      return;
    }
    // Usually a hole already; but a write that failed or was cut off by a crash may have left something there.
    const data = this.#image.nextData(offset);
    if (data === null || (data !== undefined && data[0] >= offset + lengthBytes)) return;
    await this.#image.zero(offset, lengthBytes, false);
  }

  #evictIfNeeded(): void {
    if (this.content === null || this.cachedBlocks <= this.#blocksMax) return;
    this.#evicting ??= this.#evict(() => this.cachedBlocks - this.#blocksMax)
      .catch((error: unknown) => {
        // What couldn't be given up stays: the bound is missed, nothing else.
        this.#log.warn({ disk: this.#disk, err: error }, 'cached blocks could not be given up');
      })
      .finally(() => (this.#evicting = undefined));
  }

  /** Makes room for writes at the cost of the cache. False: there was nothing to give up. */
  async makeRoom(): Promise<boolean> {
    if (this.content === null) return false;
    const before = this.cachedBlocks;
    const target = before - CACHE_EVICT_GROUPS * this.#groupBlocks;
    await this.#evict(() => this.cachedBlocks - Math.max(0, target));
    return this.cachedBlocks < before;
  }

  /** Resolves when no eviction is under way. */
  async settled(): Promise<void> {
    await this.#evicting;
  }

  /** Second chance: passes over groups used since the last pass, gives up the others while `excess()` says that so many blocks are too many. */
  async #evict(excess: () => number): Promise<void> {
    const groups = this.#used.length;
    // Twice around without a find: the first pass may find all used.
    for (let looked = 0; looked < 2 * groups && this.content !== null && excess() > 0;) {
      const wanted = excess();
      const holds: RangeHold[] = [];
      const runs: Run[] = [];
      let [taken, blocks] = [0, 0];
      try {
        for (; looked < 2 * groups && taken < CACHE_EVICT_GROUPS && blocks < wanted; looked++) {
          const group = this.#hand;
          this.#hand = (group + 1) % groups;
          if (this.#used[group] === 1) {
            this.#used[group] = 0;
            continue;
          }
          const found = this.#takeGroup(group, holds);
          if (found.length > 0) taken++;
          runs.push(...found);
          for (const run of found) blocks += run.count;
        }
        if (runs.length === 0) continue;
        await this.#image.giveUp(runs, () => this.content !== null);
        looked = 0;
      } finally {
        for (const hold of holds) this.#image.lock.release(hold);
      }
    }
  }

  /** Cached blocks of a group, locked; none when somebody is using it. */
  #takeGroup(group: number, holds: RangeHold[]): Run[] {
    const { local, written } = this.#image.maps;
    const first = group * this.#groupBlocks;
    const count = Math.min(this.#groupBlocks, this.#image.geometry.blockCount - first);
    if (!local.has(first) && local.runEnd(first, first + count) === first + count) return [];
    const hold = this.#image.lock.tryAcquire(first, count, true);
    if (hold === undefined) return [];
    const runs: Run[] = [];
    for (const part of local.runs(first, count)) {
      if (!part.set) continue;
      for (const piece of written.runs(part.first, part.count)) if (!piece.set) runs.push(piece);
    }
    if (runs.length === 0) this.#image.lock.release(hold);
    else holds.push(hold);
    return runs;
  }
}
