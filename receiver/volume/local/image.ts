/**
 * The local image of a disk: its bytes, which of them count, and what makes them survive. Knows nothing of the recovery point that lies under it.
 *
 * Promises: a block counts as local only when its content is in the file, in the live map after the write, in the durable map after a sync.
 * On a crash of the process nothing is lost that had been marked; on a crash of the host, nothing that a completed flush covered.
 */
import { readSync } from 'node:fs';
import type { Geometry } from '../../../shared/blocks/geometry.js';
import type { AfterimageError } from '../../../shared/errors.js';
import { failpoint } from '../../../shared/failpoints.js';
import { nextData } from '../../../shared/native/libc.js';
import { readFully, writeFully } from '../fd-io.js';
import { openFolder, type LocalFiles, type OpenFolder } from './folder.js';
import { syncData, type BlockMaps, type Run } from './maps.js';
import { allowKernelReadAhead, isInMemory, punch, readCached, zeroRange } from './native.js';
import { localError, syncFailed } from './problems.js';
import { RangeLock } from './range-lock.js';
import { Zeroes } from './zeroes.js';

export class LocalImage {
  readonly geometry: Geometry;
  readonly maps: BlockMaps;
  readonly lock = new RangeLock();
  readonly doubted: boolean;
  readonly #files: LocalFiles;
  readonly #fd: number;
  /** Flushes and the giving up of cached blocks both change the durable map: one at a time. */
  #mapWork: Promise<unknown> = Promise.resolve();
  #nextFlush: Promise<void> | undefined;
  #readsCached = true;
  /** On tmpfs, which can't tell what is in memory because all is. */
  readonly #inMemory: boolean;
  #failure: AfterimageError | undefined;
  #baseKey: string;

  private constructor(files: LocalFiles) {
    this.geometry = files.geometry;
    this.maps = files.maps;
    this.doubted = files.doubted;
    this.#files = files;
    this.#fd = files.imageFd;
    this.#inMemory = isInMemory(this.#fd);
    if (!this.isFull) allowKernelReadAhead(this.#fd, false);
    this.#baseKey = files.header.baseKey;
  }

  static async open(options: OpenFolder): Promise<LocalImage> {
    return new LocalImage(await openFolder(options));
  }

  /** Why no more writes are taken. */
  get failure(): AfterimageError | undefined {
    return this.#failure;
  }

  get isFull(): boolean {
    return this.maps.local.count === this.geometry.blockCount;
  }

  /** Everything is local: from now on there are no holes that will be filled. */
  becameFull(): void {
    allowKernelReadAhead(this.#fd, true);
  }

  /** Fills `into` at once if the page cache has it all. All its blocks are local. */
  tryRead(offset: number, into: Buffer): boolean {
    if (this.#inMemory) return readSync(this.#fd, into, 0, into.length, offset) === into.length;
    if (!this.#readsCached) return false;
    const answer = readCached(this.#fd, offset, into);
    if (answer === 'unsupported') this.#readsCached = false;
    return answer === 'read';
  }

  /** Bytes of the file, whatever they are worth. */
  async read(offset: number, into: Buffer): Promise<void> {
    let got: number;
    try {
      got = await readFully(this.#fd, into, offset);
    } catch (error) {
      throw localError(`reading the local image at byte ${offset}`, error);
    }
    if (got !== into.length)
      throw localError(`reading the local image at byte ${offset}`, new Error('it ends too early'));
  }

  async write(offset: number, bytes: Buffer): Promise<void> {
    try {
      await writeFully(this.#fd, bytes, offset);
    } catch (error) {
      throw localError(`writing to the local image at byte ${offset}`, error);
    }
  }

  /** Zeroes bytes of the file, with or without giving up their space. */
  async zero(offset: number, lengthBytes: number, keepSpace: boolean): Promise<void> {
    try {
      if (await (keepSpace ? zeroRange : punch)(this.#fd, offset, lengthBytes)) return;
      for (let done = 0; done < lengthBytes; done += Zeroes.length) {
        await writeFully(this.#fd, Zeroes.subarray(0, Math.min(Zeroes.length, lengthBytes - done)), offset + done);
      }
    } catch (error) {
      throw localError(`zeroing the local image at byte ${offset}`, error);
    }
  }

  /** Next [start, end) of data at or after `offset`, null when there is none, undefined when the filesystem can't tell. */
  nextData(offset: number): readonly [number, number] | null | undefined {
    return nextData(this.#fd, offset, this.geometry.sizeBytes);
  }

  /** Everything that was marked before the call survives a crash of the host. Calls that come while one is running share the next. */
  flush(): Promise<void> {
    if (this.#nextFlush !== undefined) return this.#nextFlush;
    const flush = this.#withMaps(() => {
      this.#nextFlush = undefined;
      return this.#flush();
    });
    this.#nextFlush = flush;
    return flush;
  }

  /**
   * Gives up the content of local blocks, which the caller has locked. The durable map forgets them before their data goes, else a crash in between
   * would leave a hole that counts as content. `isAllowed` is asked at the last moment.
   */
  async giveUp(runs: readonly Run[], isAllowed: () => boolean): Promise<void> {
    const { blockBytes, sizeBytes } = this.geometry;
    await this.#withMaps(async () => {
      if (!isAllowed()) return;
      for (const { first, count } of runs) this.maps.local.clear(first, count);
      await this.maps.clearDurable(runs);
      failpoint('volume.evict.map-cleared');
      for (const { first, count } of runs) {
        const offset = first * blockBytes;
        // Where holes can't be punched the space stays taken; the content is fetched again all the same.
        await punch(this.#fd, offset, Math.min(count * blockBytes, sizeBytes - offset));
      }
    });
  }

  /** The point that lies under the image is another one from now on. Everything local is made durable first. */
  async rebase(baseKey: string): Promise<void> {
    await this.flush();
    await this.#withMaps(() => this.#files.save({ ...this.#files.header, baseKey, clean: false }));
    this.#baseKey = baseKey;
  }

  /** Nothing may be under way. Flushes; the files are closed in any case. */
  async close(): Promise<void> {
    try {
      await this.flush();
      await this.#files.save({ ...this.#files.header, baseKey: this.#baseKey, clean: true, writes: false });
    } finally {
      await this.#mapWork;
      await this.#files.close();
    }
  }

  async #flush(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      await this.maps.flush(() => syncData(this.#fd));
    } catch (error) {
      this.#failure = syncFailed('flush', error);
      // The kernel may have dropped what it could not write, whatever the live map says: the next opening goes by the durable one.
      await this.#files
        .save({ ...this.#files.header, baseKey: this.#baseKey, bootId: '', clean: false, writes: true })
        .catch(
          () => undefined, // the same disk fails: what is thrown below says so
        );
      throw this.#failure;
    }
  }

  #withMaps<T>(work: () => Promise<T>): Promise<T> {
    const run = this.#mapWork.then(work);
    this.#mapWork = run.catch(() => undefined);
    return run;
  }
}
