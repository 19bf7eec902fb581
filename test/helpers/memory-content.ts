/** The content of a point in memory, with chunks of the usual size, and a way to make it slow, or fail. */
import { geometryOf, type Geometry } from '../../shared/blocks/geometry.js';
import { hashBlockAt, isZero } from '../../shared/blocks/hash.js';
import { CHUNK_PLAIN_BYTES_MAX } from '../../shared/limits.js';
import type { ContentRun, PointContent, TakeExtra } from '../../receiver/volume/content.js';

export class MemoryContent implements PointContent {
  readonly geometry: Geometry;
  /** The disk, padded to whole blocks. */
  readonly bytes: Buffer;
  isNear = false;
  reads = 0;
  /** Awaited by each read before (`early`) and after it has its bytes. Throws to make it fail. */
  onRead: (first: number, count: number, when: 'early' | 'late') => Promise<void> | void = () => undefined;

  constructor(disk: Buffer, blockBytes = 4096) {
    this.geometry = geometryOf(disk.length, blockBytes);
    this.bytes = Buffer.alloc(this.geometry.blockCount * blockBytes);
    disk.copy(this.bytes);
  }

  runs(first: number, count: number): Promise<readonly ContentRun[]> {
    const runs: { first: number; count: number; zero: boolean }[] = [];
    for (let block = first; block < first + count; block++) {
      const at = block * this.geometry.blockBytes;
      const zero = isZero(this.bytes, at, at + this.geometry.blockBytes);
      const last = runs.at(-1);
      if (last?.zero === zero) last.count++;
      else runs.push({ first: block, count: 1, zero });
    }
    return Promise.resolve(runs);
  }

  async read(first: number, count: number, into: Buffer, extra?: TakeExtra): Promise<void> {
    this.reads++;
    await this.onRead(first, count, 'early');
    const { blockBytes, blockCount } = this.geometry;
    this.bytes.copy(into, 0, first * blockBytes, (first + count) * blockBytes);
    const chunkBlocks = CHUNK_PLAIN_BYTES_MAX / blockBytes;
    const from = Math.floor(first / chunkBlocks) * chunkBlocks;
    const to = Math.min(blockCount, Math.ceil((first + count) / chunkBlocks) * chunkBlocks);
    const give = (start: number, end: number): void => {
      if (start >= end) return;
      const plain = Buffer.from(this.bytes.subarray(start * blockBytes, end * blockBytes));
      extra?.(start, end - start, plain);
      // Valid during the call only.
      plain.fill(0xee);
    };
    give(from, first);
    give(first + count, to);
    await this.onRead(first, count, 'late');
  }

  hashes(first: number, count: number): Promise<BigUint64Array> {
    const { blockBytes } = this.geometry;
    const hashOf = (_: unknown, i: number): bigint =>
      hashBlockAt(this.bytes, (first + i) * blockBytes, blockBytes, first + i);
    return Promise.resolve(BigUint64Array.from(Array.from({ length: count }, hashOf)));
  }
}
