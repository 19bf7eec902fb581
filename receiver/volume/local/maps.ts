/**
 * What is local and what was written by clients, one bit per block each, kept twice: `live` is a shared mapping of a file and survives the death of
 * the process (the page cache is the kernel's); `durable` is a file that is brought up to date by flushes and survives a crash of the host.
 * Layout of both files: all pages of L (local), then all pages of W (written).
 *
 * In the durable map bits only go from 0 to 1, after the data that they speak of is on the disk, so that any part of a page write that a crash leaves
 * is a true statement. The exception is giving up cached blocks: there bits are cleared, durably, before the data goes.
 */
import { fdatasync } from 'node:fs';
import { promisify } from 'node:util';
import { corrupt } from '../../../shared/errors.js';
import { failpoint } from '../../../shared/failpoints.js';
import { VOLUME_FLUSH_PAGES_MAX } from '../../../shared/limits.js';
import { mmapShared, type Mapping } from '../../../shared/native/libc.js';
import { readFully, writeFully } from '../fd-io.js';
import { BlockBits, MAP_PAGE_BLOCKS, MAP_PAGE_BYTES, mapPages } from './bits.js';

export const syncData = promisify(fdatasync);

/** Length of each of the two files. */
export const mapsBytes = (blockCount: number): number => 2 * mapPages(blockCount) * MAP_PAGE_BYTES;

export interface Run {
  readonly first: number;
  readonly count: number;
}

export class BlockMaps {
  /** L: the image holds the block's content. */
  readonly local: BlockBits;
  /** W: a client has written the block, it may differ from the point. Never without L but in the midst of a write. */
  readonly written: BlockBits;
  readonly #pages: number;
  readonly #mapping: Mapping;
  readonly #durableFd: number;

  /** `isNew`: both files were made just now and hold nothing. */
  constructor(liveFd: number, durableFd: number, blockCount: number, isNew: boolean) {
    this.#pages = mapPages(blockCount);
    this.#durableFd = durableFd;
    const half = this.#pages * MAP_PAGE_BYTES;
    this.#mapping = mmapShared(liveFd, 2 * half);
    this.local = new BlockBits(new Uint32Array(this.#mapping.bytes, 0, half / 4), isNew);
    this.written = new BlockBits(new Uint32Array(this.#mapping.bytes, half, half / 4), isNew);
  }

  /** Pages in which the live map differs from the durable one count as changed. To be called once, when a live map is taken over. */
  async findChanges(): Promise<void> {
    const live = Buffer.from(this.#mapping.bytes);
    await this.#eachDurablePage((page, bytes) => {
      const at = page * MAP_PAGE_BYTES;
      if (bytes.compare(live, at, at + MAP_PAGE_BYTES) !== 0) this.#markChanged(page);
    });
  }

  /** The live map is replaced by the durable one. */
  static async restoreLive(liveFd: number, durableFd: number, blockCount: number): Promise<void> {
    const buffer = Buffer.alloc(256 * MAP_PAGE_BYTES);
    for (let at = 0; at < mapsBytes(blockCount); at += buffer.length) {
      const part = buffer.subarray(0, Math.min(buffer.length, mapsBytes(blockCount) - at));
      if ((await readFully(durableFd, part, at)) !== part.length) throw durableShort();
      await writeFully(liveFd, part, at);
    }
  }

  /**
   * Makes durable what is true by now. `syncImage` makes the image durable. Bits that are set while this runs may be left for the next call.
   */
  async flush(syncImage: () => Promise<void>): Promise<void> {
    for (;;) {
      // The copy comes first: bits that are set during the sync may speak of data that the sync didn't cover.
      const local = this.local.takeChangedPages(VOLUME_FLUSH_PAGES_MAX);
      const written = this.written.takeChangedPages(VOLUME_FLUSH_PAGES_MAX);
      try {
        await syncImage();
        failpoint('volume.flush.image-synced');
        for (const { page, bytes } of local) await this.#writePage(page, bytes);
        for (const { page, bytes } of written) await this.#writePage(this.#pages + page, bytes);
        if (local.length + written.length > 0) await syncData(this.#durableFd);
      } catch (error) {
        for (const { page } of local) this.local.markPageChanged(page);
        for (const { page } of written) this.written.markPageChanged(page);
        throw error;
      }
      if (local.length < VOLUME_FLUSH_PAGES_MAX && written.length < VOLUME_FLUSH_PAGES_MAX) return;
    }
  }

  /** Clears L of blocks in the durable map, durably. Not while flush() runs. */
  async clearDurable(runs: readonly Run[]): Promise<void> {
    const byPage = new Map<number, Run[]>();
    for (const { first, count } of runs) {
      for (let at = first; at < first + count;) {
        const page = Math.floor(at / MAP_PAGE_BLOCKS);
        const end = Math.min(first + count, (page + 1) * MAP_PAGE_BLOCKS);
        const parts = byPage.get(page) ?? [];
        parts.push({ first: at - page * MAP_PAGE_BLOCKS, count: end - at });
        byPage.set(page, parts);
        at = end;
      }
    }
    const bytes = Buffer.from(new ArrayBuffer(MAP_PAGE_BYTES));
    let changed = false;
    for (const [page, parts] of byPage) {
      if ((await readFully(this.#durableFd, bytes, page * MAP_PAGE_BYTES)) !== bytes.length) throw durableShort();
      const bits = new BlockBits(new Uint32Array(bytes.buffer));
      const before = bits.count;
      for (const { first, count } of parts) bits.clear(first, count);
      if (bits.count === before) continue;
      await this.#writePage(page, bytes);
      changed = true;
    }
    if (changed) await syncData(this.#durableFd);
  }

  /** Nothing may be asked of the maps afterwards; what is asked all the same finds nothing. */
  close(): void {
    this.local.release();
    this.written.release();
    this.#mapping.unmap();
  }

  #markChanged(page: number): void {
    if (page < this.#pages) this.local.markPageChanged(page);
    else this.written.markPageChanged(page - this.#pages);
  }

  #writePage(page: number, bytes: Uint8Array): Promise<void> {
    const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return writeFully(this.#durableFd, buffer, page * MAP_PAGE_BYTES);
  }

  async #eachDurablePage(visit: (page: number, bytes: Buffer) => void): Promise<void> {
    const batch = Buffer.alloc(256 * MAP_PAGE_BYTES);
    for (let first = 0; first < 2 * this.#pages; first += 256) {
      const pages = Math.min(256, 2 * this.#pages - first);
      const part = batch.subarray(0, pages * MAP_PAGE_BYTES);
      if ((await readFully(this.#durableFd, part, first * MAP_PAGE_BYTES)) !== part.length) throw durableShort();
      for (let i = 0; i < pages; i++) visit(first + i, part.subarray(i * MAP_PAGE_BYTES, (i + 1) * MAP_PAGE_BYTES));
    }
  }
}

const durableShort = (): Error =>
  corrupt(
    'volume-maps',
    'the durable map of a local image is shorter than its disk',
    'The local image can not be used. Remove its folder: it is made again, but writes that only it holds are lost.',
  );
