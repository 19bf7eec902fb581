/**
 * Proves that a point can be restored without writing anything: the same plan, every chunk that it needs read and every block's hash computed,
 * the sum compared with the point's digest. Points share most of their chunks; a ledger remembers which are proven, so that a whole history
 * costs one reading of the store.
 */
import { digestFromText, digestToText } from '../../shared/blocks/hash.js';
import { systemClock, type Clock } from '../../shared/clock.js';
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { CHUNK_PLAIN_BYTES_MAX, RESTORE_WORKERS } from '../../shared/limits.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import type { PointDisk } from '../catalog/reader.js';
import { digestOfUnit } from './block-hashes.js';
import { giveBackAligned, takeAligned } from './aligned-pool.js';
import { provePieces } from './chunk-check.js';
import type { LayerReader } from './layer-reader.js';
import { cancelled } from './plan-point.js';
import { Progress, type OnProgress } from './progress.js';
import type { PlanUnit, ReadPlan } from './read-plan.js';
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
  const all = allPieces(index);
  const plain = Buffer.allocUnsafe(CHUNK_PLAIN_BYTES_MAX);
  const rooms = [takeAligned(), takeAligned()] as const;
  let bytes = 0;
  try {
    for await (const chunk of reader.chunks(unit.layer, index, needed, rooms)) {
      if (signal?.aborted) throw cancelled('verification');
      // All that the index has of the chunk, not only what wins here: so the ledger's word holds for every point.
      provePieces(name, index, chunk, all.get(chunk.number) ?? [], plain);
      ledger.add(name, chunk.number, index.chunks.length);
      bytes += chunk.bytes.length;
    }
  } finally {
    rooms.forEach(giveBackAligned);
  }
  return bytes;
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
