/**
 * Pulls what differs between a disk and a point: asks which blocks may, compares hashes, fetches only those that do, writes them, makes them durable,
 * and only then tells the hash store. A segment that is done is not pulled again, whatever happens next: its blocks have the point's hashes then.
 * Every block is proven against the hash that the receiver named before it is written.
 */
import { bitsOf, hasBit, newBitmap, setBit } from '../../shared/blocks/bitmap.js';
import { geometryOf, segmentBlocks, segmentOf, type Geometry } from '../../shared/blocks/geometry.js';
import { digestToText, ZERO_HASH } from '../../shared/blocks/hash.js';
import { corrupt } from '../../shared/errors.js';
import { failpoint } from '../../shared/failpoints.js';
import { decodeChunkData, decodeChunkHeader, openChunk } from '../../shared/layer/chunk.js';
import {
  CHUNK_PLAIN_BYTES_MAX,
  RESTORE_REQUEST_BYTES,
  RESTORE_SEGMENTS_IN_FLIGHT,
  RESTORE_WINDOW_BYTES,
} from '../../shared/limits.js';
import type { SegmentNumber } from '../../shared/units.js';
import type { RestoreGoal } from '../../shared/wire/messages.js';
import { ReadPool } from '../cycle/read-pool.js';
import type { Candidates } from '../session/pull-channel.js';
import type { ReceiverSession } from '../session/session.js';
import type { LocalHashes } from './local-hashes.js';
import type { RestoreTarget } from './target.js';

/** Aligned, so that a chunk is decompressed where it is written from. */
export const chunkPool = (): ReadPool =>
  new ReadPool(RESTORE_WINDOW_BYTES / RESTORE_REQUEST_BYTES, CHUNK_PLAIN_BYTES_MAX);

export interface PullContext {
  readonly session: ReceiverSession;
  readonly pool: ReadPool;
  readonly signal: AbortSignal;
  readonly point: number;
  readonly onSegment: (done: number, of: number) => void;
}

interface Piece {
  readonly blocks: Uint8Array<ArrayBuffer>;
  readonly count: number;
}

export class DiskPull {
  readonly #local: LocalHashes;
  readonly #target: RestoreTarget;
  readonly #context: PullContext;
  readonly #geometry: Geometry;
  writtenBytes = 0;

  constructor(local: LocalHashes, target: RestoreTarget, goal: RestoreGoal['disks'][number], context: PullContext) {
    this.#local = local;
    this.#target = target;
    this.#context = context;
    this.#geometry = geometryOf(goal.sizeBytes, goal.blockBytes);
  }

  /** Afterwards the store's hashes are those of the point, as far as what it was told is right; the digest proves it. */
  async run(): Promise<void> {
    const { signal, onSegment } = this.#context;
    const segments = await this.#segments();
    let next = 0;
    let done = 0;
    const worker = async (): Promise<void> => {
      for (let segment = segments[next++]; segment !== undefined; segment = segments[next++]) {
        signal.throwIfAborted();
        await this.#segment(segment);
        onSegment(++done, segments.length);
      }
    };
    const workers = Array.from({ length: RESTORE_SEGMENTS_IN_FLIGHT }, worker);
    // All come to their end before the error of one counts: nothing may be written after this has returned.
    const failed = (await Promise.allSettled(workers)).find((w) => w.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  async #segments(): Promise<SegmentNumber[]> {
    const local = this.#local;
    const { session, point } = this.#context;
    const all = Array.from({ length: this.#geometry.segmentCount }, (_, segment) => segment);
    if (local.base === null) return all;
    const { segments, reason } = await session.pull.changedSegments(local.disk.id, point, local.base);
    local.reason = `${local.reason}; ${reason}`;
    if (segments === null) {
      local.base = null;
      return all;
    }
    const wanted = new Set(bitsOf(segments));
    for (const { first, count } of local.also.extents()) {
      const last = segmentOf(this.#geometry, first + count - 1);
      for (let segment = segmentOf(this.#geometry, first); segment <= last; segment++) wanted.add(segment);
    }
    return all.filter((segment) => wanted.has(segment));
  }

  async #segment(segment: SegmentNumber): Promise<void> {
    const { first, count } = segmentBlocks(this.#geometry, segment);
    const { store } = this.#local.disk;
    const known = await store.readSegment(segment);
    const candidates = await this.#candidates(segment, first, count, known);
    const numbers: number[] = [];
    const hashes: bigint[] = [];
    const wanted: number[] = [];
    for (const i of bitsOf(candidates.blocks)) {
      const hash = candidates.hashOf(i);
      if (hash === undefined || hash === known[i]) continue;
      numbers.push(first + i);
      hashes.push(hash);
      if (hash !== ZERO_HASH) wanted.push(i);
    }
    if (numbers.length === 0) return;
    await this.#zero(numbers.filter((_, n) => hashes[n] === ZERO_HASH));
    const pulls = (
      await Promise.allSettled(this.#pieces(wanted, count).map((p) => this.#pull(segment, p, candidates)))
    ).find((p) => p.status === 'rejected');
    if (pulls !== undefined) throw pulls.reason;
    await this.#target.durable();
    failpoint('agent.restore.segment-durable');
    const entries = { blocks: Uint32Array.from(numbers), hashes: BigUint64Array.from(hashes), length: numbers.length };
    await store.learnBlocks(entries);
    failpoint('agent.restore.segment-done');
  }

  #candidates(segment: SegmentNumber, first: number, count: number, known: BigUint64Array): Promise<Candidates> {
    const { session, point } = this.#context;
    const { base, disk, also } = this.#local;
    let asked: Uint8Array<ArrayBuffer> | null = null;
    let digest: bigint | null = null;
    if (base === null) {
      digest = 0n;
      for (let i = 0; i < count; i++) digest ^= known[i] ?? 0n;
    } else {
      asked = newBitmap(count);
      for (const block of also.blocksIn(first, count)) setBit(asked, block - first);
    }
    const text = digest === null ? null : digestToText(digest);
    return session.pull.differences(disk.id, point, segment, count, { base, also: asked, digest: text });
  }

  async #zero(blocks: readonly number[]): Promise<void> {
    for (let i = 0; i < blocks.length;) {
      const start = i++;
      while (i < blocks.length && blocks[i] === (blocks[i - 1] ?? 0) + 1) i++;
      this.#context.signal.throwIfAborted();
      await this.#target.zero(blocks[start] ?? 0, i - start);
      this.writtenBytes += (i - start) * this.#geometry.blockBytes;
    }
  }

  /** Requests that share the window. */
  #pieces(wanted: readonly number[], count: number): Piece[] {
    const max = Math.max(1, Math.floor(RESTORE_REQUEST_BYTES / this.#geometry.blockBytes));
    const pieces: Piece[] = [];
    for (let at = 0; at < wanted.length; at += max) {
      const part = wanted.slice(at, at + max);
      const blocks = newBitmap(count);
      for (const i of part) setBit(blocks, i);
      pieces.push({ blocks, count: part.length });
    }
    return pieces;
  }

  async #pull(segment: SegmentNumber, { blocks, count }: Piece, candidates: Candidates): Promise<void> {
    const { session, point, signal } = this.#context;
    const { disk } = this.#local;
    const { first } = segmentBlocks(this.#geometry, segment);
    const bytes = count * this.#geometry.blockBytes;
    let left = count;
    const seen = newBitmap(blocks.length * 8);
    signal.throwIfAborted();
    await session.pull.blocks(disk.id, point, segment, blocks, bytes, async (chunk) => {
      const written = await this.#writeChunk(chunk, (block) => {
        const i = block - first;
        if (i < 0 || !hasBit(blocks, i) || hasBit(seen, i)) return undefined;
        setBit(seen, i);
        return candidates.hashOf(i);
      });
      // Not before: several chunks are being written at once.
      left -= written;
      // It holds its part of the window until then: what is asked for next keeps to the bandwidth limit.
      await session.pace(chunk.length, signal);
    });
    if (left !== 0) {
      throw corrupt('restore-short', `segment ${segment} of disk ${disk.id}: ${left} of ${count} blocks did not come`);
    }
  }

  /** Checks all of a chunk, then writes it. Returns its blocks. */
  async #writeChunk(received: Buffer, expectedOf: (block: number) => bigint | undefined): Promise<number> {
    const { blockBytes, blockCount } = this.#geometry;
    const { disk } = this.#local;
    const { cipher } = disk;
    const { chunk, mayHoldMore } = this.#opened(received);
    const header = decodeChunkHeader(chunk);
    if (header.blockBytes !== blockBytes) {
      throw corrupt('restore-chunk', `a chunk with blocks of ${header.blockBytes} bytes for disk ${disk.id}`);
    }
    const { pool, signal } = this.#context;
    const plain = await pool.take();
    try {
      signal.throwIfAborted();
      decodeChunkData(chunk, header, plain);
      let at = 0;
      let blocks = 0;
      const runs: { first: number; count: number; at: number }[] = [];
      for (const extent of header.extents) {
        if (extent.zero && mayHoldMore) continue;
        if (extent.zero) throw corrupt('restore-chunk', `a run of zeroes that nobody asked for (disk ${disk.id})`);
        for (let i = 0; i < extent.count; i++, at += blockBytes) {
          const block = extent.first + i;
          const expected = block < blockCount ? expectedOf(block) : undefined;
          if (expected === undefined && mayHoldMore) continue;
          if (expected === undefined || cipher.hash(plain, at, blockBytes, block) !== expected) {
            throw corrupt('restore-block', `block ${block} of disk ${disk.id} arrived damaged, or was not asked for`);
          }
          const last = runs[runs.length - 1];
          if (last !== undefined && last.first + last.count === block) last.count++;
          else runs.push({ first: block, count: 1, at });
          blocks++;
        }
      }
      for (const { first, count, at: from } of runs)
        await this.#target.write(first, count, plain.subarray(from, from + count * blockBytes));
      this.writtenBytes += blocks * blockBytes;
      failpoint('agent.restore.chunk-written');
      return blocks;
    } finally {
      pool.give(plain);
    }
  }

  /** Decrypts what came, where this source encrypts: a chunk then may hold blocks beside those that were asked for (the receiver can't take it apart). */
  #opened(received: Buffer): { chunk: Buffer; mayHoldMore: boolean } {
    const { disk } = this.#local;
    const { opener } = disk.cipher;
    const header = decodeChunkHeader(received);
    if ((header.seal === null) !== (opener === null)) {
      throw corrupt(
        'restore-chunk',
        `a chunk ${header.seal === null ? 'in the clear' : 'that is encrypted'} for disk ${disk.id}`,
      );
    }
    return opener === null
      ? { chunk: received, mayHoldMore: false }
      : { chunk: openChunk(received, header, opener), mayHoldMore: true };
  }
}
