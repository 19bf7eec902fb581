/**
 * A recovery point of one disk as a disk that can be read and, if it is writable, written: local image over the point's content. It is the only way to
 * its local image, so it knows every block that a client writes: the tracker of a running machine is this.
 *
 * Promises: what was acknowledged survives the death of the process; what a flush covered survives a crash of the host; a block reads as the point's
 * content or as what was written, never as something else. After a reopening the changes since the last commit aren't known, so every block that was
 * ever written counts as changed; after a crash of the host, every local block (the replicator drops those whose content the chain has).
 * Files and orders: local/README.md.
 */
import { BlockSet } from '../../shared/blocks/block-set.js';
import type { Geometry } from '../../shared/blocks/geometry.js';
import type { Clock } from '../../shared/clock.js';
import { AfterimageError } from '../../shared/errors.js';
import { FETCH_BESIDE_AFTER_BYTES } from '../../shared/limits.js';
import type { Logger } from '../../shared/log.js';
import type { DiskId } from '../../shared/units.js';
import type { AllocationRun, BlockDevice } from './block-device.js';
import type { PointContent } from './content.js';
import type { CutSource, VolumeCut } from './cut.js';
import { allocationOf } from './local/allocation.js';
import { Cache } from './local/cache.js';
import { destroyFolder } from './local/folder.js';
import { hydrateAll, type HydrateOptions } from './local/hydration.js';
import { LocalImage } from './local/image.js';
import { InFlight } from './local/in-flight.js';
import { bootIdOfHost } from './local/native.js';
import { OpenCut } from './local/open-cut.js';
import { closedError, contentMissing, readOnlyError } from './local/problems.js';
import { VolumeReader } from './local/reader.js';
import { WriteGate } from './local/write-gate.js';
import { VolumeWriter } from './local/writer.js';

export interface VolumeOptions {
  /** Of this volume alone; made when it is missing. */
  readonly folder: string;
  readonly disk: DiskId;
  /** Null: the local image is complete and needs none. */
  readonly content: PointContent | null;
  /** Names the point of `content`; a folder that was made over another one is refused. Null: the point is known no more, and needed no more. */
  readonly baseKey: string | null;
  readonly writable: boolean;
  /** Bound of what is kept of the point; written blocks don't count. Null: none. */
  readonly cacheBytesMax: number | null;
  readonly clock: Clock;
  readonly log: Logger;
  /** So much is fetched for nobody in particular before threads do it; else FETCH_BESIDE_AFTER_BYTES. */
  readonly fetchBesideAfterBytes?: number;
  /** For tests: the boot of the host. */
  readonly bootId?: string;
}

export interface VolumeStats {
  readonly localBytes: number;
  /** Ever written by clients. */
  readonly writtenBytes: number;
  readonly changedBlocks: number;
  readonly hydratedPercent: number;
  /** Reads that the local image answered, and those for which the point was read. */
  readonly cacheHits: number;
  readonly cacheMisses: number;
  /** Of the point, asked for by clients, reading ahead and hydration. */
  readonly fetchedBytes: number;
  readonly reads: number;
  /** With trims and zeroes. */
  readonly writes: number;
  readonly flushes: number;
  /** Why no more writes are taken; null: they are. */
  readonly failure: string | null;
}

export class Volume implements BlockDevice, CutSource {
  readonly disk: DiskId;
  readonly geometry: Geometry;
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly readOnly: boolean;
  readonly #image: LocalImage;
  readonly #cache: Cache;
  readonly #reader: VolumeReader;
  readonly #writer: VolumeWriter;
  readonly #clock: Clock;
  readonly #gate = new WriteGate();
  /** Requests other than writes. */
  readonly #requests = new InFlight();
  readonly #closing = new AbortController();
  #closed: Promise<void> | undefined;
  #complete = false;
  #reads = 0;
  #writes = 0;
  #flushes = 0;

  private constructor(options: VolumeOptions, image: LocalImage) {
    const { disk, content, cacheBytesMax: bytesMax, log } = options;
    this.disk = disk;
    this.geometry = image.geometry;
    this.sizeBytes = image.geometry.sizeBytes;
    this.blockBytes = image.geometry.blockBytes;
    this.readOnly = !options.writable;
    this.#image = image;
    this.#clock = options.clock;
    const besideAfterBytes = options.fetchBesideAfterBytes ?? FETCH_BESIDE_AFTER_BYTES;
    this.#cache = new Cache(image, { disk, content, bytesMax, besideAfterBytes, log });
    this.#reader = new VolumeReader(image, this.#cache, log);
    this.#writer = new VolumeWriter(image, this.#cache, this.#reader);
  }

  static async open(options: VolumeOptions): Promise<Volume> {
    const { folder, disk, content, baseKey, writable, log } = options;
    const bootId = options.bootId ?? bootIdOfHost();
    const geometry = content?.geometry ?? null;
    const image = await LocalImage.open({ folder, disk, geometry, baseKey, writable, bootId });
    const volume = new Volume(options, image);
    try {
      if (image.isFull) {
        await image.flush();
        volume.#becomeComplete();
      } else if (content === null) throw contentMissing(disk);
    } catch (error) {
      await volume.close();
      throw error;
    }
    if (image.doubted)
      log.warn({ disk }, 'the host crashed while the volume was open: every local block counts as changed');
    return volume;
  }

  /** Removes the folder of a volume that isn't open, and with it all writes that only it holds. */
  static destroy(folder: string): Promise<void> {
    return destroyFolder(folder);
  }

  tryRead(offset: number, into: Buffer): boolean {
    if (this.#closed !== undefined || !this.#reader.tryRead(offset, into)) return false;
    this.#reads++;
    return true;
  }

  read(offset: number, into: Buffer): Promise<void> {
    this.#reads++;
    return this.#request(() => this.#reader.read(offset, into));
  }

  write(offset: number, bytes: Buffer): Promise<void> {
    return this.#change(() => this.#writer.write(offset, bytes));
  }

  zero(offset: number, lengthBytes: number, keepSpace: boolean): Promise<void> {
    return this.#change(() => this.#writer.zero(offset, lengthBytes, keepSpace));
  }

  trim(offset: number, lengthBytes: number): Promise<void> {
    return this.#change(() => this.#writer.zero(offset, lengthBytes, false));
  }

  flush(): Promise<void> {
    this.#flushes++;
    return this.#request(() => this.#image.flush());
  }

  allocation(offset: number, lengthBytes: number, runsMax: number): Promise<readonly AllocationRun[]> {
    return this.#request(() => allocationOf(this.#image, this.#cache.content, offset, lengthBytes, runsMax));
  }

  get changedBlocks(): number {
    return this.#writer.changed.size;
  }

  held(blocks: BlockSet): BlockSet {
    const { local, written } = this.#image.maps;
    // What is only cached may be given up at any time.
    const kept = this.#complete || this.#cache.keepsEverything ? local : written;
    const found = new BlockSet();
    for (const block of blocks.blocks()) if (kept.has(block)) found.add(block);
    return found;
  }

  /**
   * These count as changed for the next cut, though no client wrote them: the point that the volume stands on is not the one that its changes are
   * told against. In memory only: marked again after a reopening, until a point was committed.
   */
  markChanged(blocks: BlockSet): void {
    this.#writer.changed.addAll(blocks);
  }

  hold(): Promise<void> {
    return this.#gate.hold();
  }

  cut(): VolumeCut {
    if (!this.#gate.isStill) throw cutError(this.disk, 'its writes are not held');
    if (this.#writer.cut !== null) throw cutError(this.disk, 'another cut is still open');
    const changed = this.#writer.changed;
    this.#writer.changed = new BlockSet();
    this.#writer.cut = new OpenCut(changed, {
      geometry: this.geometry,
      // Not of the image alone: blocks that were marked without being written may not be local.
      readImage: (offset, into) => this.#request(() => this.#reader.read(offset, into)),
      flush: () => this.flush(),
      ended: (cut, outcome) => this.#cutEnded(cut, outcome),
    });
    return this.#writer.cut;
  }

  resume(): void {
    this.#gate.resume();
  }

  /** Everything is local, durably: the recovery point is not needed any more. */
  get isComplete(): boolean {
    return this.#complete;
  }

  /**
   * Makes everything local, in the background of client requests. One at a time. `stopped`: the signal was aborted, or the volume closed; call again to
   * go on. From now on the cache has no bound.
   */
  async hydrate(options: HydrateOptions): Promise<'complete' | 'stopped'> {
    if (this.#complete) return 'complete';
    this.#cache.keepEverything();
    const signal = AbortSignal.any([options.signal, this.#closing.signal]);
    const clients = (): number => this.#requests.count - 1 + this.#gate.count;
    return this.#request(async () => {
      const answer = await hydrateAll(
        {
          geometry: this.geometry,
          local: this.#image.maps.local,
          clock: this.#clock,
          clients,
          makeLocal: (first, count) => this.#reader.makeLocal(first, count, false),
          keepZeroes: (first, count) => this.#cache.keepZeroes(first, count),
          flush: () => this.#image.flush(),
        },
        { ...options, signal },
      );
      if (answer === 'complete') this.#becomeComplete();
      return answer;
    });
  }

  /**
   * From now on what isn't local is read from another point, which the caller knows to be equal in all blocks that were not written, and `baseKey` is
   * what the volume is opened with.
   */
  async rebase(content: PointContent, baseKey: string): Promise<void> {
    await this.#request(() => this.#image.rebase(baseKey));
    if (!this.#complete) this.#cache.content = content;
  }

  stats(): VolumeStats {
    const { local, written } = this.#image.maps;
    const bytes = (blocks: number): number => Math.min(blocks * this.blockBytes, this.sizeBytes);
    return {
      localBytes: bytes(local.count),
      writtenBytes: bytes(written.count),
      changedBlocks: this.changedBlocks,
      hydratedPercent: Math.floor((local.count * 1000) / this.geometry.blockCount) / 10,
      cacheHits: this.#reader.hits,
      cacheMisses: this.#reader.misses,
      fetchedBytes: this.#cache.fetchedBlocks * this.blockBytes,
      reads: this.#reads,
      writes: this.#writes,
      flushes: this.#flushes,
      failure: this.#image.failure?.message ?? null,
    };
  }

  /** Takes no more requests, lets those under way end, flushes. Rejects when that fails; the files are closed in any case. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#closing.abort();
    this.#writer.cut?.end('given-up');
    this.#gate.resume();
    await this.#gate.drained();
    await this.#requests.drained();
    await this.#reader.stop();
    await this.#cache.settled();
    await this.#image.close();
  }

  #becomeComplete(): void {
    this.#complete = true;
    this.#cache.content = null;
    this.#image.becameFull();
  }

  async #request<T>(work: () => Promise<T>): Promise<T> {
    if (this.#closed !== undefined) throw closedError(this.disk);
    this.#requests.enter();
    try {
      return await work();
    } finally {
      this.#requests.leave();
    }
  }

  async #change(work: () => Promise<void>): Promise<void> {
    if (this.readOnly) throw readOnlyError(this.disk);
    const waiting = this.#gate.enter();
    if (waiting !== undefined) await waiting;
    try {
      if (this.#closed !== undefined) throw closedError(this.disk);
      if (this.#image.failure !== undefined) throw this.#image.failure;
      this.#writes++;
      await work();
    } finally {
      this.#gate.leave();
    }
  }

  #cutEnded(cut: OpenCut, outcome: 'committed' | 'given-up'): void {
    if (this.#writer.cut !== cut) return;
    this.#writer.cut = null;
    if (outcome === 'given-up') this.#writer.changed.addAll(cut.changed);
  }
}

const cutError = (disk: string, why: string): AfterimageError =>
  new AfterimageError(`no cut of disk ${disk}: ${why}`, { code: 'cut-not-held', kind: 'internal' });
