/**
 * Blocks of the recovery point that come into the local image: fetched, kept, given up again. State in memory only; the maps say what is kept.
 *
 * Fetching holds no lock: a write to the same blocks goes on and wins. What was fetched is answered at once and kept in the background (landing.ts).
 * Keeping locks the blocks and keeps only what is still not local, so nothing newer is ever overwritten. When the image has no room, what was fetched
 * is answered all the same and not kept.
 */
import {
  CACHE_EVICT_GROUPS,
  CACHE_GROUP_BYTES,
  CHUNK_PLAIN_BYTES_MAX,
  FETCH_BYTES_MAX,
  LANDING_BYTES_MAX,
} from '../../../shared/limits.js';
import type { Logger } from '../../../shared/log.js';
import { bytesOfBlocks } from '../../../shared/blocks/geometry.js';
import type { ContentRun, PointContent } from '../content.js';
import type { LocalImage } from './image.js';
import { Landing, type Batch } from './landing.js';
import type { Run } from './maps.js';
import { contentMissing } from './problems.js';
import type { RangeHold } from './range-lock.js';

export interface CacheOptions {
  readonly disk: string;
  readonly content: PointContent | null;
  /** Null: no bound. */
  readonly bytesMax: number | null;
  /** So much is fetched with nobody waiting for it before threads do that. */
  readonly besideAfterBytes: number;
  readonly log: Logger;
}

export class Cache {
  /** What is read where nothing is local. Null: everything is, and nothing is given up. */
  content: PointContent | null;
  fetchedBlocks = 0;
  /** What was fetched and isn't in the image yet. Where the maps say local, they count. */
  readonly landing: Landing;
  readonly #image: LocalImage;
  readonly #disk: string;
  readonly #log: Logger;
  readonly #groupBlocks: number;
  readonly #regionBlocks: number;
  readonly #fetchBlocks: number;
  /** Regions of which something is being fetched: what others want there is likely to come along. */
  readonly #fetching = new Map<number, Promise<void>>();
  /** Groups used since the hand of the clock last passed. */
  readonly #used: Uint8Array;
  /** Groups that were read once and not kept: the next time they are. */
  readonly #passed: Uint8Array;
  #isAllWanted = false;
  /** Fetched, in large pieces, with nobody waiting for it. */
  #aheadBytes = 0;
  readonly #besideAfterBytes: number;
  /** Groups of blocks that somebody is making local to use them, and by how many. */
  readonly #wanted = new Map<number, number>();
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
    this.#besideAfterBytes = options.besideAfterBytes;
    this.#groupBlocks = CACHE_GROUP_BYTES / blockBytes;
    this.#regionBlocks = CHUNK_PLAIN_BYTES_MAX / blockBytes;
    this.#fetchBlocks = FETCH_BYTES_MAX / blockBytes;
    this.#blocksMax = options.bytesMax === null ? Infinity : Math.floor(options.bytesMax / blockBytes);
    this.#used = new Uint8Array(Math.ceil(blockCount / this.#groupBlocks));
    this.#passed = new Uint8Array(this.#used.length);
    this.landing = new Landing(
      blockBytes,
      (run, plain) => this.#keepAndBound(run, plain),
      LANDING_BYTES_MAX,
      ({ first, count }) => this.#mark(this.#passed, first, count),
    );
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
    this.#isAllWanted = true;
    this.landing.endPassing();
  }

  /** Nothing that is local is given up. */
  get keepsEverything(): boolean {
    return this.#blocksMax === Infinity;
  }

  touch(first: number, count: number): void {
    if (this.#blocksMax !== Infinity) this.#mark(this.#used, first, count);
  }

  #mark(groups: Uint8Array, first: number, count: number): void {
    const last = Math.floor((first + count - 1) / this.#groupBlocks);
    for (let group = Math.floor(first / this.#groupBlocks); group <= last; group++) groups[group] = 1;
  }

  /**
   * Blocks that are to be local together don't go again before they are used: a cache that is smaller than what is fetched for them would give up one for
   * the other without end. Until the answer is called; the bound may be missed by their groups meanwhile.
   */
  want(blocks: readonly number[]): () => void {
    const groups = blocks.map((block) => Math.floor(block / this.#groupBlocks));
    for (const group of groups) this.#wanted.set(group, (this.#wanted.get(group) ?? 0) + 1);
    return () => {
      for (const group of groups) {
        const others = (this.#wanted.get(group) ?? 1) - 1;
        if (others === 0) this.#wanted.delete(group);
        else this.#wanted.set(group, others);
      }
    };
  }

  /**
   * Fetches blocks that aren't local and haven't landed (at most FETCH_BYTES_MAX); they have landed then. Also into `into` (whole blocks), unless
   * nobody waits for them. `retry`: another fetch was under way, look again.
   */
  fetch(first: number, count: number, into: Buffer | null): Promise<'fetched' | 'retry'> {
    return this.#fetchJoined(first, count, into, null);
  }

  async #fetchJoined(
    first: number,
    count: number,
    into: Buffer | null,
    pass: ((batch: Batch) => void) | null,
  ): Promise<'fetched' | 'retry'> {
    const firstRegion = Math.floor(first / this.#regionBlocks);
    const lastRegion = Math.floor((first + count - 1) / this.#regionBlocks);
    let waited = false;
    for (let region = firstRegion; region <= lastRegion; region++) {
      const busy = this.#fetching.get(region);
      if (busy === undefined) continue;
      await busy;
      waited = true;
    }
    // Neither kept nor on its way (no room, or an error that its own caller hears of): then each for itself.
    if (waited && this.missing(first, count) !== count) return 'retry';
    const work = this.#fetch(first, count, into, pass);
    const settled = work.catch(() => undefined);
    for (let region = firstRegion; region <= lastRegion; region++) {
      if (!this.#fetching.has(region)) this.#fetching.set(region, settled);
    }
    try {
      await work;
    } finally {
      for (let region = firstRegion; region <= lastRegion; region++) {
        if (this.#fetching.get(region) === settled) this.#fetching.delete(region);
      }
    }
    return 'fetched';
  }

  /**
   * Fetches what of a piece is neither local nor landed, for a reader that is expected to come. Where the point is near it isn't kept the first time. Once: where
   * the cache is smaller than what is read ahead, it may be gone again at once.
   */
  async fetchAhead({ first, count }: Run, isStopped: () => boolean): Promise<void> {
    const end = first + count;
    for (let at = first; at < end && !isStopped();) {
      const passes = this.#mayPass(at);
      // It may take a while, and nobody must wait for a fetch that waits for its turn: nothing is announced before.
      if (passes) await this.landing.mayPass();
      const missing = this.missing(at, end - at);
      if (passes) await this.#fetchPassing(at, isStopped() ? 0 : missing);
      else if (missing > 0) await this.fetch(at, missing, null);
      at += Math.max(1, missing);
    }
  }

  /** After landing.mayPass(). */
  async #fetchPassing(first: number, count: number): Promise<void> {
    let isLanded = false;
    const pass = (batch: Batch): void => {
      isLanded = true;
      this.landing.landPassing(batch);
    };
    try {
      if (count > 0) await this.#fetchJoined(first, count, null, pass);
    } finally {
      if (!isLanded) this.landing.passNot();
    }
  }

  #mayPass(first: number): boolean {
    if (this.#isAllWanted || this.content?.isNear !== true) return false;
    return this.#passed[Math.floor(first / this.#groupBlocks)] === 0;
  }

  /** Number of blocks from `first` on, at most `count`, that are neither local nor landed. */
  missing(first: number, count: number): number {
    const { local } = this.#image.maps;
    if (local.has(first)) return 0;
    const { count: here, landed } = this.landing.stretch(first, local.runEnd(first, first + count) - first);
    return landed ? 0 : here;
  }

  /** Runs of blocks, cut into what is fetched at once. */
  *pieces(first: number, count: number): Generator<Run> {
    const end = first + count;
    for (let at = first; at < end;) {
      const next = Math.min(end, (Math.floor(at / this.#fetchBlocks) + 1) * this.#fetchBlocks);
      yield { first: at, count: next - at };
      at = next;
    }
  }

  contentOrThrow(): PointContent {
    if (this.content === null) throw contentMissing(this.#disk);
    return this.content;
  }

  /** `pass`: where it goes when it isn't to be kept; what comes along with it doesn't count then, as memory for it is bounded by what was asked for. */
  async #fetch(
    first: number,
    count: number,
    into: Buffer | null,
    pass: ((batch: Batch) => void) | null,
  ): Promise<void> {
    const { blockBytes } = this.#image.geometry;
    const content = this.contentOrThrow();
    const batch = await this.landing.begin(count * blockBytes, into !== null);
    try {
      const lent = into === null && this.#goesBeside(content, count * blockBytes) ? batch.sharedRoom() : null;
      const target = into ?? lent?.bytes.subarray(0, count * blockBytes) ?? batch.room(count * blockBytes);
      const partOf = (run: Run): Buffer => {
        const [from, to] = [Math.max(run.first, first), Math.min(run.first + run.count, first + count)];
        return target.subarray((from - first) * blockBytes, (to - first) * blockBytes);
      };
      const takeExtra = (extraFirst: number, extraCount: number, plain: Buffer): void => {
        this.#landNew(batch, { first: extraFirst, count: extraCount }, plain, false);
      };
      const runs = await this.#runsAround(content, first, count);
      const data = runs.filter((run) => !run.zero);
      const from = data[0]?.first ?? first;
      const to = data.at(-1);
      for (const run of runs) if (run.zero) partOf(run).fill(0);
      // All data at once: what lies between is zero, which costs nothing to read.
      const span = { first: from, count: to === undefined ? 0 : to.first + to.count - from };
      const at = (span.first - first) * blockBytes;
      const isThere =
        span.count === 0 ||
        (lent !== null && (await content.readBeside?.(span.first, span.count, lent.room, at)) === true);
      if (!isThere) await content.read(span.first, span.count, partOf(span), pass === null ? takeExtra : undefined);
      this.fetchedBlocks += count;
      for (const run of data) this.#landNew(batch, run, partOf(run), into === null);
      for (const run of runs) if (run.zero) await this.#keepAndBound(run, undefined);
    } finally {
      if (pass === null) this.landing.land(batch);
      else pass(batch);
    }
  }

  /**
   * Whether threads fetch so much for whom nobody waits. Not the first of it: to start them takes processors that a booting machine needs, and it has
   * its own way through the disk.
   */
  #goesBeside(content: PointContent, lengthBytes: number): boolean {
    if (content.canReadBeside !== true || lengthBytes <= CHUNK_PLAIN_BYTES_MAX) return false;
    this.#aheadBytes += lengthBytes;
    return this.#aheadBytes > this.#besideAfterBytes;
  }

  /** Proven blocks land where they aren't local and haven't landed. `isOurs`: they stand in memory of the batch already. */
  #landNew(batch: Batch, run: Run, plain: Buffer, isOurs: boolean): void {
    const { blockBytes } = this.#image.geometry;
    const end = run.first + run.count;
    for (let at = run.first; at < end;) {
      const count = this.missing(at, end - at);
      if (count === 0) {
        at++;
        continue;
      }
      const from = (at - run.first) * blockBytes;
      const part = plain.subarray(from, from + count * blockBytes);
      if (isOurs) batch.adopt({ first: at, count }, part);
      else batch.add({ first: at, count }, part);
      at += count;
    }
  }

  async #keepAndBound(run: Run, plain: Buffer | undefined): Promise<void> {
    await this.#keep(run, plain);
    this.#evictIfNeeded();
  }

  /** What a range holds. Zeroes reach as far beyond it as one fetch could: to keep them costs the same for all of them as for one block. */
  async #runsAround(content: PointContent, first: number, count: number): Promise<readonly ContentRun[]> {
    const runs = await content.runs(first, count);
    const from = Math.floor(first / this.#fetchBlocks) * this.#fetchBlocks;
    const end = Math.min(this.#image.geometry.blockCount, from + this.#fetchBlocks);
    if (runs.length !== 1 || runs[0]?.zero !== true || first + count > end) return runs;
    try {
      const around = await content.runs(from, end - from);
      const whole = around.find((run) => run.zero && run.first <= first && run.first + run.count >= first + count);
      return whole === undefined ? runs : [whole];
    } catch {
      // Another layer that nobody asked for can't be read: that is for those to hear who want it.
      return runs;
    }
  }

  /** Keeps what the point knows to be zero of a range; reads nothing. */
  async keepZeroes(first: number, count: number): Promise<void> {
    for (const run of await this.contentOrThrow().runs(first, count)) if (run.zero) await this.#keep(run, undefined);
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

  /** Resolves when nothing is being kept or given up; nothing is fetched any more. */
  async settled(): Promise<void> {
    await this.landing.drained();
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

  /** Cached blocks of a group, locked; none when somebody is using it, or about to. */
  #takeGroup(group: number, holds: RangeHold[]): Run[] {
    if (this.#wanted.has(group)) return [];
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
