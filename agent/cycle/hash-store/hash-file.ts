/**
 * The file of hashes: 8 bytes, little-endian, per block of the disk, sparse where blocks are zero. No state but the file.
 * A write here is never atomic: the journal holds every change before it is made, so that it can be made again.
 */
import { segmentBlocks, type Geometry } from '../../../shared/blocks/geometry.js';
import { HASH_READ_BYTES_MAX, HASH_GAP_BYTES } from '../../../shared/limits.js';
import type { SegmentNumber } from '../../../shared/units.js';
import { invalid } from './errors.js';
import { closingOnFailure, type StateFile, type StateFolder } from './files.js';
import { bytesOf, HASH_BYTES, lanesOf, xorOf } from './lanes.js';

/** Unit in which an unchanged part of a segment is left alone, so that the file stays sparse. */
const PAGE_HASHES = 512;

/** Used within one synchronous stretch only, so all stores share it. */
const scratch = new BigUint64Array(HASH_READ_BYTES_MAX / HASH_BYTES);
const scratchBytes = bytesOf(scratch);
const scratchLanes = lanesOf(scratch);

export const HASH_FILE_PREFIX = 'hashes-';
export const hashFileName = (generation: number): string => HASH_FILE_PREFIX + String(generation);

/** Index after the last block that is near enough to the one before it to be read or written together with block `i`. */
function endOfGroup(blocks: Uint32Array, i: number, to: number): number {
  const start = (blocks[i] ?? 0) * HASH_BYTES;
  let end = start + HASH_BYTES;
  let stop = i + 1;
  for (; stop < to; stop++) {
    const at = (blocks[stop] ?? 0) * HASH_BYTES;
    if (at - end > HASH_GAP_BYTES || at + HASH_BYTES - start > HASH_READ_BYTES_MAX) break;
    end = at + HASH_BYTES;
  }
  return stop;
}

function rangeOf(blocks: Uint32Array, from: number, to: number): { start: number; bytes: number } {
  const start = (blocks[from] ?? 0) * HASH_BYTES;
  return { start, bytes: ((blocks[to - 1] ?? 0) + 1) * HASH_BYTES - start };
}

export class HashFile {
  readonly #file: StateFile;
  readonly #geometry: Geometry;

  private constructor(file: StateFile, geometry: Geometry) {
    this.#file = file;
    this.#geometry = geometry;
  }

  /** A file of zeroes that takes no space. */
  static async create(folder: StateFolder, generation: number, geometry: Geometry): Promise<HashFile> {
    const file = await folder.create(hashFileName(generation));
    await closingOnFailure(file, () => file.truncate(geometry.blockCount * HASH_BYTES));
    return new HashFile(file, geometry);
  }

  static async open(folder: StateFolder, generation: number, geometry: Geometry): Promise<HashFile> {
    const file = await folder.open(hashFileName(generation));
    if (file === null) throw invalid('the file of hashes is missing');
    return closingOnFailure(file, async () => {
      const bytes = await file.sizeBytes();
      if (bytes !== geometry.blockCount * HASH_BYTES) throw invalid('the file of hashes has the wrong size');
      return new HashFile(file, geometry);
    });
  }

  /** Reads the hashes of blocks [from, to) of an ascending list into the start of `out`, as halves. */
  gather(blocks: Uint32Array, from: number, to: number, out: Uint32Array): void {
    for (let i = from; i < to;) {
      const stop = endOfGroup(blocks, i, to);
      const { start, bytes } = rangeOf(blocks, i, stop);
      this.#read(start, bytes);
      for (; i < stop; i++) {
        const lane = ((blocks[i] ?? 0) * HASH_BYTES - start) / 4;
        out[(i - from) * 2] = scratchLanes[lane] ?? 0;
        out[(i - from) * 2 + 1] = scratchLanes[lane + 1] ?? 0;
      }
    }
  }

  /** Writes the hashes (halves) of blocks [from, to) of an ascending list. What lies between near ones is read and written again. */
  scatter(blocks: Uint32Array, hashes: Uint32Array, from: number, to: number): void {
    for (let i = from; i < to;) {
      const stop = endOfGroup(blocks, i, to);
      const { start, bytes } = rangeOf(blocks, i, stop);
      if (bytes > (stop - i) * HASH_BYTES) this.#read(start, bytes);
      for (; i < stop; i++) {
        const lane = ((blocks[i] ?? 0) * HASH_BYTES - start) / 4;
        scratchLanes[lane] = hashes[i * 2] ?? 0;
        scratchLanes[lane + 1] = hashes[i * 2 + 1] ?? 0;
      }
      this.#file.writeAt(scratchBytes, 0, bytes, start);
    }
  }

  readSegment(segment: SegmentNumber, into: BigUint64Array): void {
    const { first, count } = segmentBlocks(this.#geometry, segment);
    this.#read(first * HASH_BYTES, count * HASH_BYTES);
    into.set(scratch.subarray(0, count));
  }

  segmentDigest(segment: SegmentNumber): bigint {
    const { first, count } = segmentBlocks(this.#geometry, segment);
    this.#read(first * HASH_BYTES, count * HASH_BYTES);
    return xorOf(scratch, 0, count);
  }

  /** Writes a whole segment, but only the pages that differ. */
  writeSegment(segment: SegmentNumber, hashes: BigUint64Array): void {
    const { first, count } = segmentBlocks(this.#geometry, segment);
    this.#read(first * HASH_BYTES, count * HASH_BYTES);
    const bytes = bytesOf(hashes);
    for (let i = 0; i < count; i += PAGE_HASHES) {
      const start = i * HASH_BYTES;
      const end = Math.min(i + PAGE_HASHES, count) * HASH_BYTES;
      if (Buffer.compare(bytes.subarray(start, end), scratchBytes.subarray(start, end)) === 0) continue;
      this.#file.writeAt(bytes, start, end - start, first * HASH_BYTES + start);
    }
  }

  sync(): Promise<void> {
    return this.#file.sync();
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  #read(position: number, bytes: number): void {
    if (this.#file.readAt(scratchBytes, bytes, position) !== bytes) throw invalid('the file of hashes was cut short');
  }
}
