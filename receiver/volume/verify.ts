/**
 * Proves that a point can be restored without writing anything: the same plan, every chunk that it needs read and every block's hash computed,
 * the sum compared with the point's digest. Points share most of their chunks; a ledger remembers which are proven, so that a whole history
 * costs one reading of the store.
 */
import { digestFromText, digestToText } from '../../shared/blocks/hash.js';
import { systemClock, type Clock } from '../../shared/clock.js';
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { RESTORE_WORKERS } from '../../shared/limits.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import type { LayerRef } from '../catalog/manifest.js';
import type { PointDisk } from '../catalog/reader.js';
import { digestOfUnit } from './block-hashes.js';
import { giveBackAligned, takeAligned } from './aligned-pool.js';
import { provePieces } from './chunk-check.js';
import { spansOf, type LayerReader } from './layer-reader.js';
import { cancelled } from './plan-point.js';
import { Progress, type OnProgress } from './progress.js';
import type { PlanUnit, ReadPlan } from './read-plan.js';
import { errorOf } from './threads/error-parts.js';
import { spanJob, type ChunkWish } from './threads/span-job.js';
import { byChunk, workOf, type Piece } from './unit-work.js';

/** Which chunks of which layers are proven: one bit each. */
export class ChunkLedger {
  readonly #layers = new Map<string, Uint8Array>();

  has(layer: string, chunk: number): boolean {
    return ((this.#layers.get(layer)?.[chunk >>> 3] ?? 0) & (1 << (chunk & 7))) !== 0;
  }

  add(layer: string, chunk: number, chunksInLayer: number): void {
    const bits = this.#layers.get(layer) ?? new Uint8Array((chunksInLayer + 7) >>> 3);
    bits[chunk >>> 3] = (bits[chunk >>> 3] ?? 0) | (1 << (chunk & 7));
    this.#layers.set(layer, bits);
  }
}

export interface VerifyJob {
  readonly reader: LayerReader;
  readonly plan: ReadPlan;
  readonly point: number;
  readonly disk: PointDisk;
  readonly ledger?: ChunkLedger;
  readonly signal?: AbortSignal;
  readonly onProgress?: OnProgress;
  readonly clock?: Clock;
}

export interface VerifyResult {
  readonly digest: string;
  /** Stored bytes that were read for this; less when the ledger knew some chunks. */
  readonly readBytes: number;
}

/** Throws kind `corrupt` when the disk can't be restored at the point. */
export async function verifyDisk(job: VerifyJob): Promise<VerifyResult> {
  const { reader, plan } = job;
  const ledger = job.ledger ?? new ChunkLedger();
  const progress = new Progress('verify', plan.geometry.sizeBytes, 0, job.clock ?? systemClock, job.onProgress);
  let digest = 0n;
  let readBytes = 0;
  let failure: Error | undefined;
  const queue = plan.units.values();
  const worker = async (): Promise<void> => {
    for (const unit of queue) {
      if (failure !== undefined || job.signal?.aborted) return;
      // Two steps each: `sum += await …` would read the sum before the other workers have added to it.
      const unitBytes = await proveUnit(reader, plan, unit, ledger, job.signal);
      const unitDigest = await digestOfUnit(reader, plan, unit);
      readBytes += unitBytes;
      digest ^= unitDigest;
      progress.add(unit.blocks * plan.geometry.blockBytes);
    }
  };
  const run = (): Promise<void> =>
    worker().catch((error: unknown) => {
      failure ??= error instanceof Error ? error : new Error(messageOf(error));
    });
  await Promise.all(Array.from({ length: RESTORE_WORKERS }, run));
  if (job.signal?.aborted) throw cancelled('verification');
  if (failure !== undefined) throw failure;
  progress.finish();
  if (digest !== digestFromText(job.disk.digest)) throw mismatch(job, digest);
  return { digest: job.disk.digest, readBytes };
}

const mismatch = (job: VerifyJob, digest: bigint): AfterimageError =>
  new AfterimageError(
    `the layers of disk ${job.disk.disk} do not add up to point ${job.point}: digest ${digestToText(digest)}, expected ${job.disk.digest}`,
    { code: 'digest-mismatch', kind: 'corrupt', hint: 'This point can not be restored; try an earlier or later one.' },
  );

/** Reads and proves the chunks that a unit needs and that aren't proven yet; returns the stored bytes read. */
async function proveUnit(
  reader: LayerReader,
  plan: ReadPlan,
  unit: PlanUnit,
  ledger: ChunkLedger,
  signal: AbortSignal | undefined,
): Promise<number> {
  if (unit.kind === 'zero') return 0;
  const index = await reader.index(unit.layer);
  const name = reader.nameOf(unit.layer);
  const needed = [...byChunk(workOf(plan, unit, index).pieces).keys()].filter((chunk) => !ledger.has(name, chunk));
  if (needed.length === 0) return 0;
  // All that the index has of the chunk, not only what wins here: so the ledger's word holds for every point.
  const all = allPieces(index);
  let bytes = 0;
  const onProven = (chunk: number): void => {
    if (signal?.aborted) throw cancelled('verification');
    ledger.add(name, chunk, index.chunks.length);
    bytes += index.chunks[chunk]?.lengthBytes ?? 0;
  };
  const left = reader.takesThreads ? await proveOnThreads(reader, unit.layer, index, needed, all, onProven) : needed;
  if (left.length > 0) await proveHere(reader, unit.layer, index, left, all, onProven);
  return bytes;
}

type OnProven = (chunk: number) => void;
type PiecesOf = ReadonlyMap<number, readonly Piece[]>;

/** Returns the chunks that have to be done here. */
async function proveOnThreads(
  reader: LayerReader,
  layer: LayerRef,
  index: LayerIndex,
  chunks: readonly number[],
  all: PiecesOf,
  onProven: OnProven,
): Promise<readonly number[]> {
  const wishOf = (chunk: number): ChunkWish => ({ pieces: all.get(chunk) ?? [], puts: [] });
  const left: number[] = [];
  for (const span of spansOf(index.chunks, chunks)) {
    const job = spanJob(reader.nameOf(layer), reader.owner.blockBytes, index, span, wishOf);
    const { isSealed, failures } = await reader.onThread(layer, job);
    const [failure] = failures;
    if (failure !== undefined) throw errorOf(failure.error);
    if (isSealed) left.push(...span.chunks);
    else span.chunks.forEach(onProven);
  }
  return left;
}

async function proveHere(
  reader: LayerReader,
  layer: LayerRef,
  index: LayerIndex,
  chunks: readonly number[],
  all: PiecesOf,
  onProven: OnProven,
): Promise<void> {
  const plain = takeAligned();
  const rooms = [takeAligned(), takeAligned()] as const;
  try {
    for await (const chunk of reader.chunks(layer, index, chunks, rooms)) {
      provePieces(reader.nameOf(layer), index, chunk, all.get(chunk.number) ?? [], plain);
      onProven(chunk.number);
    }
  } finally {
    [plain, ...rooms].forEach(giveBackAligned);
  }
}

/** All that an index has of its chunks' data. */
export function allPieces(index: LayerIndex): Map<number, Piece[]> {
  const pieces: Piece[] = [];
  for (let i = 0; i < index.first.length; i++) {
    if (index.zero[i] === 1) continue;
    pieces.push({
      chunk: index.chunk[i] ?? 0,
      first: index.first[i] ?? 0,
      count: index.count[i] ?? 0,
      position: index.position[i] ?? 0,
      hashAt: index.hashAt[i] ?? 0,
    });
  }
  return byChunk(pieces);
}
