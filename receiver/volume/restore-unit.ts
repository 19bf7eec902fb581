/**
 * Writes one unit of a plan to a target: each chunk is read and decompressed once, each block is proven before it is written.
 * Threads do it where layers are files; else the event loop.
 */
import { bytesOfBlocks, type Geometry } from '../../shared/blocks/geometry.js';
import { ZERO_HASH } from '../../shared/blocks/hash.js';
import { CHUNK_PLAIN_BYTES_MAX } from '../../shared/limits.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import { giveBackAligned, takeAligned } from './aligned-pool.js';
import { checkPieces, decodeBeside } from './chunk-check.js';
import type { LayerRef } from '../catalog/manifest.js';
import { spansOf, type LayerReader } from './layer-reader.js';
import { cancelled } from './plan-point.js';
import type { Progress } from './progress.js';
import type { PlanUnit, ReadPlan } from './read-plan.js';
import { RunWriter } from './run-writer.js';
import type { RestoreTarget, TargetOutlet } from './target.js';
import { errorOf } from './threads/error-parts.js';
import { spanJob, type ChunkWish, type Put } from './threads/span-job.js';
import { byChunk, workOf, type Piece, type UnitWork } from './unit-work.js';

export interface UnitContext {
  readonly reader: LayerReader;
  readonly plan: ReadPlan;
  readonly target: RestoreTarget;
  readonly progress: Progress;
  readonly signal: AbortSignal;
}

/** Returns the XOR of the unit's block hashes. The bytes are written, not yet durable. */
export async function restoreUnit(context: UnitContext, unit: PlanUnit): Promise<bigint> {
  const index = unit.kind === 'zero' ? undefined : await context.reader.index(unit.layer);
  const work = workOf(context.plan, unit, index);
  await writeZeroes(context, work);
  if (unit.kind === 'zero' || index === undefined) return 0n;
  const data: UnitData = { layer: unit.layer, index, groups: byChunk(work.pieces) };
  return (await restoreOnThreads(context, data)) ?? restoreHere(context, data, [...data.groups.keys()]);
}

/** The data of a unit, or of a part of it: which pieces of which chunks. */
export interface UnitData {
  readonly layer: LayerRef;
  readonly index: LayerIndex;
  readonly groups: ReadonlyMap<number, readonly Piece[]>;
}

/** Undefined where threads can't be used, or where the first look at the layer shows that they can't. */
async function restoreOnThreads(context: UnitContext, data: UnitData): Promise<bigint | undefined> {
  const { reader, target, plan, progress } = context;
  const outlet = target.outlet();
  if (outlet === null || !reader.takesThreads) return undefined;
  const { layer, index, groups } = data;
  let digest = 0n;
  for (const span of spansOf(index.chunks, [...groups.keys()])) {
    if (context.signal.aborted) throw cancelled('restore');
    const wishOf = (chunk: number): ChunkWish => {
      const pieces = groups.get(chunk) ?? [];
      return { pieces, puts: putsOf(plan.geometry, target.knownZero, index, pieces, outlet) };
    };
    const job = spanJob(reader.nameOf(layer), plan.geometry.blockBytes, index, span, wishOf, outlet.outlet);
    const result = await reader.onThread(layer, job);
    if (result.isSealed) {
      digest ^= await restoreHere(context, data, span.chunks);
      continue;
    }
    const [failure] = result.failures;
    if (failure !== undefined) throw errorOf(failure.error);
    digest ^= result.digest;
    for (const chunk of span.chunks) addProgress(progress, plan.geometry, groups.get(chunk) ?? []);
  }
  return digest;
}

/** On the event loop: what is encrypted, and what isn't in files. */
async function restoreHere(context: UnitContext, data: UnitData, chunks: readonly number[]): Promise<bigint> {
  const { reader, plan, progress } = context;
  const { layer, index, groups } = data;
  const name = reader.nameOf(layer);
  const plain = Buffer.allocUnsafe(CHUNK_PLAIN_BYTES_MAX);
  const writer = new RunWriter(context.target, plan.geometry);
  const rooms = [takeAligned(), takeAligned()] as const;
  let digest = 0n;
  try {
    for await (const chunk of reader.chunks(layer, index, chunks, rooms)) {
      if (context.signal.aborted) throw cancelled('restore');
      const pieces = groups.get(chunk.number) ?? [];
      const run = asOneRun(index, chunk.header.dataBlocks, pieces, context.target.knownZero);
      const into = run === undefined ? plain : await writer.room(run.first, run.count);
      await decodeBeside(name, chunk, into);
      digest ^= checkPieces(name, index, chunk, pieces, into);
      if (run !== undefined) writer.took(run.count);
      else {
        for (const { first, count, position } of dataRuns(index, pieces, context.target.knownZero)) {
          await writer.put(first, count, plain, position * plan.geometry.blockBytes);
        }
      }
      addProgress(progress, plan.geometry, pieces);
    }
    await writer.flush();
  } finally {
    writer.release();
    rooms.forEach(giveBackAligned);
  }
  return digest;
}

export function addProgress(progress: Progress, geometry: Geometry, pieces: readonly Piece[]): void {
  for (const piece of pieces) progress.add(bytesOfBlocks(geometry, piece.first, piece.count));
}

export async function writeZeroes(context: UnitContext, work: UnitWork): Promise<void> {
  const { geometry } = context.plan;
  for (const [first, count] of work.zeroes) {
    if (context.signal.aborted) throw cancelled('restore');
    const bytes = bytesOfBlocks(geometry, first, count);
    if (!context.target.knownZero) await context.target.zero(first * geometry.blockBytes, bytes);
    context.progress.add(bytes);
  }
}

/** The one run that a whole chunk is, all of it to be written: most chunks of a base are. It is decompressed where it is written from. */
function asOneRun(
  index: LayerIndex,
  dataBlocks: number,
  pieces: readonly Piece[],
  knownZero: boolean,
): Piece | undefined {
  const [piece] = pieces;
  if (piece === undefined || pieces.length > 1 || piece.position !== 0 || piece.count !== dataBlocks) return undefined;
  const hashes = index.hashes.subarray(piece.hashAt, piece.hashAt + piece.count);
  return knownZero && hashes.includes(ZERO_HASH) ? undefined : piece;
}

/** Runs of a chunk's blocks to be written. Blocks of zeroes that were sent as data are left out where the target has zeroes anyway. */
export function* dataRuns(
  index: LayerIndex,
  pieces: readonly Piece[],
  knownZero: boolean,
): Generator<{ readonly first: number; readonly count: number; readonly position: number }> {
  for (const piece of pieces) {
    let from = 0;
    for (let i = 0; i <= piece.count; i++) {
      const ends = i === piece.count || (knownZero && index.hashes[piece.hashAt + i] === ZERO_HASH);
      if (!ends) continue;
      if (i > from) yield { first: piece.first + from, count: i - from, position: piece.position + from };
      from = i + 1;
    }
  }
}

/** The writes that a chunk's pieces are. */
function putsOf(
  geometry: Geometry,
  knownZero: boolean,
  index: LayerIndex,
  pieces: readonly Piece[],
  outlet: TargetOutlet,
): Put[] {
  const puts: Put[] = [];
  for (const { first, count, position } of dataRuns(index, pieces, knownZero)) {
    let from = position * geometry.blockBytes;
    // The last block of an odd-sized disk is stored in full length and written as far as the disk goes.
    for (const place of outlet.places(first * geometry.blockBytes, bytesOfBlocks(geometry, first, count))) {
      puts.push({ from, ...place });
      from += place.lengthBytes;
    }
  }
  return puts;
}
