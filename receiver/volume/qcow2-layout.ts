/**
 * Where everything stands in a qcow2 image, from the set of clusters that hold data alone. Pure.
 *
 *   header · refcount table · refcount blocks · L1 table · L2 tables · data clusters in the order of the disk
 *
 * Version 3, clusters of 64 KiB, no compression, nothing that only new programs know (qemu: docs/interop/qcow2.txt). Every cluster of the file
 * is used exactly once. A cluster without data has no place and reads as zero. Memory: one bit per data cluster in pages of 2 GiB of disk, so
 * 2 MiB per TiB of a full disk.
 */
import { BlockSet } from '../../shared/blocks/block-set.js';

export const CLUSTER_BYTES = 64 * 1024;
const CLUSTER_BITS = 16;
const ENTRIES = CLUSTER_BYTES / 8;
const REFCOUNTS = CLUSTER_BYTES / 2;
const HEADER_BYTES = 104;
const MAGIC = 0x514649fb;
/** Of an L1 or L2 entry: what it points to is used once, so it may be written in place. */
const COPIED = 0x80000000;
/** Clusters whose number before them is kept. */
const PAGE_CLUSTERS = 1 << 15;
/** Clusters looked at in one go for a run of data. */
const WINDOW_CLUSTERS = 1 << 8;

/** A piece of the image's own tables. */
export interface TablePart {
  readonly offset: number;
  readonly bytes: Buffer;
}

function writeEntry(table: Buffer, entry: number, host: number, flags: number): void {
  table.writeUInt32BE((Math.floor(host / 2 ** 32) | flags) >>> 0, entry * 8);
  table.writeUInt32BE(host % 2 ** 32, entry * 8 + 4);
}

export class Qcow2Layout {
  readonly sizeBytes: number;
  readonly #data: BlockSet;
  /** Data clusters before each page. */
  readonly #before: Uint32Array;
  readonly #l1Entries: number;
  /** L2 tables that exist, ascending. */
  readonly #l2Tables: readonly number[];
  readonly #tableClusters: number;
  readonly #blockClusters: number;
  readonly #l1Clusters: number;

  /** `data`: clusters of the disk that are not all zero. */
  constructor(sizeBytes: number, data: BlockSet) {
    this.sizeBytes = sizeBytes;
    this.#data = data;
    const clusters = Math.ceil(sizeBytes / CLUSTER_BYTES);
    this.#before = new Uint32Array(Math.ceil(clusters / PAGE_CLUSTERS) + 1);
    for (let p = 0; p + 1 < this.#before.length; p++) {
      this.#before[p + 1] = (this.#before[p] ?? 0) + data.countIn(p * PAGE_CLUSTERS, PAGE_CLUSTERS);
    }
    this.#l1Entries = Math.ceil(clusters / ENTRIES);
    this.#l1Clusters = Math.ceil(this.#l1Entries / ENTRIES);
    const tables: number[] = [];
    for (let t = 0; t < this.#l1Entries; t++) if (data.countIn(t * ENTRIES, ENTRIES) > 0) tables.push(t);
    this.#l2Tables = tables;
    // Refcounts count their own clusters, too: one more of them may make the next one necessary.
    const rest = 1 + this.#l1Clusters + tables.length + data.size;
    let blocks = 0;
    let table = 0;
    for (let before = -1; before !== blocks + table;) {
      before = blocks + table;
      blocks = Math.ceil((rest + before) / REFCOUNTS);
      table = Math.ceil(blocks / ENTRIES);
    }
    this.#blockClusters = blocks;
    this.#tableClusters = table;
  }

  get fileBytes(): number {
    return this.#dataAt + this.#data.size * CLUSTER_BYTES;
  }

  /** Where a byte of the disk stands in the file; undefined in a cluster without data. */
  hostOffset(offset: number): number | undefined {
    const cluster = Math.floor(offset / CLUSTER_BYTES);
    return this.#data.has(cluster) ? this.#host(cluster) + (offset % CLUSTER_BYTES) : undefined;
  }

  /** The next run [start, end) of data clusters at or after a byte of the disk; null when there is none. One run is one run in the file as well. */
  nextData(offset: number): readonly [number, number] | null {
    const end = Math.ceil(this.sizeBytes / CLUSTER_BYTES);
    for (let at = Math.floor(offset / CLUSTER_BYTES); at < end; at += WINDOW_CLUSTERS) {
      const found = this.#data.blocksIn(at, Math.min(WINDOW_CLUSTERS, end - at));
      const [first] = found;
      if (first === undefined) continue;
      let count = 1;
      while (found[count] === first + count) count++;
      return [Math.max(offset, first * CLUSTER_BYTES), Math.min((first + count) * CLUSTER_BYTES, this.sizeBytes)];
    }
    return null;
  }

  /** The header: with it, the file is an image. */
  header(): Buffer {
    const h = Buffer.alloc(CLUSTER_BYTES);
    h.writeUInt32BE(MAGIC, 0);
    h.writeUInt32BE(3, 4);
    h.writeUInt32BE(CLUSTER_BITS, 20);
    h.writeBigUInt64BE(BigInt(this.sizeBytes), 24);
    h.writeUInt32BE(this.#l1Entries, 36);
    h.writeBigUInt64BE(BigInt(this.#l1At), 40);
    h.writeBigUInt64BE(BigInt(CLUSTER_BYTES), 48);
    h.writeUInt32BE(this.#tableClusters, 56);
    // Refcounts of 2^4 bits.
    h.writeUInt32BE(4, 96);
    h.writeUInt32BE(HEADER_BYTES, 100);
    return h;
  }

  /** All tables, one cluster at a time, ascending. */
  *tables(): Generator<TablePart> {
    yield* this.#pointers(CLUSTER_BYTES, this.#blockClusters, (i) => this.#blocksAt + i * CLUSTER_BYTES, 0);
    const total = this.fileBytes / CLUSTER_BYTES;
    for (let b = 0; b < this.#blockClusters; b++) {
      const bytes = Buffer.alloc(CLUSTER_BYTES);
      const used = Math.min(REFCOUNTS, total - b * REFCOUNTS);
      for (let i = 0; i < used; i++) bytes.writeUInt16BE(1, i * 2);
      yield { offset: this.#blocksAt + b * CLUSTER_BYTES, bytes };
    }
    const l2Of = new Map(this.#l2Tables.map((table, i) => [table, this.#l2At + i * CLUSTER_BYTES]));
    yield* this.#pointers(this.#l1At, this.#l1Entries, (i) => l2Of.get(i), COPIED);
    for (const [table, offset] of l2Of) {
      const bytes = Buffer.alloc(CLUSTER_BYTES);
      const first = table * ENTRIES;
      let host = this.#host(first);
      for (const cluster of this.#data.blocksIn(first, ENTRIES)) {
        writeEntry(bytes, cluster - first, host, COPIED);
        host += CLUSTER_BYTES;
      }
      yield { offset, bytes };
    }
  }

  get #blocksAt(): number {
    return (1 + this.#tableClusters) * CLUSTER_BYTES;
  }

  get #l1At(): number {
    return this.#blocksAt + this.#blockClusters * CLUSTER_BYTES;
  }

  get #l2At(): number {
    return this.#l1At + this.#l1Clusters * CLUSTER_BYTES;
  }

  get #dataAt(): number {
    return this.#l2At + this.#l2Tables.length * CLUSTER_BYTES;
  }

  /** Where a data cluster stands: behind all that come before it on the disk. */
  #host(cluster: number): number {
    const page = Math.floor(cluster / PAGE_CLUSTERS);
    const inPage = this.#data.countIn(page * PAGE_CLUSTERS, cluster - page * PAGE_CLUSTERS);
    return this.#dataAt + ((this.#before[page] ?? 0) + inPage) * CLUSTER_BYTES;
  }

  /** A table of `count` pointers at `offset`; those that point nowhere are 0. */
  *#pointers(
    offset: number,
    count: number,
    to: (i: number) => number | undefined,
    flags: number,
  ): Generator<TablePart> {
    for (let done = 0; done < count; done += ENTRIES) {
      const bytes = Buffer.alloc(CLUSTER_BYTES);
      for (let i = 0; i < Math.min(ENTRIES, count - done); i++) {
        const host = to(done + i);
        if (host !== undefined) writeEntry(bytes, i, host, flags);
      }
      yield { offset: offset + done * 8, bytes };
    }
  }
}
