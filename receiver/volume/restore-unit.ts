/**
 * Writes one unit of a plan to a target: each chunk is read and decompressed once, each block is proven before it is written.
 */
import { bytesOfBlocks } from '../../shared/blocks/geometry.js';
import { ZERO_HASH } from '../../shared/blocks/hash.js';
import { CHUNK_PLAIN_BYTES_MAX } from '../../shared/limits.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import { giveBackAligned, takeAligned } from './aligned-pool.js';
import { checkPieces, decodeBeside } from './chunk-check.js';
import type { LayerReader } from './layer-reader.js';
import { cancelled } from './plan-point.js';
import type { Progress } from './progress.js';
import type { PlanUnit, ReadPlan } from './read-plan.js';
import { RunWriter } from './run-writer.js';
import type { RestoreTarget } from './target.js';
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
  const { reader, plan, progress } = context;
  const name = reader.nameOf(unit.layer);
  const plain = Buffer.allocUnsafe(CHUNK_PLAIN_BYTES_MAX);
  const groups = byChunk(work.pieces);
  const writer = new RunWriter(context.target, plan.geometry);
  const rooms = [takeAligned(), takeAligned()] as const;
  let digest = 0n;
  try {
    for await (const chunk of reader.chunks(unit.layer, index, [...groups.keys()], rooms)) {
      if (context.signal.aborted) throw cancelled('restore');
      const pieces = groups.get(chunk.number) ?? [];
      const run = asOneRun(index, chunk.header.dataBlocks, pieces, context.target.knownZero);
      const into = run === undefined ? plain : await writer.room(run.first, run.count);
      await decodeBeside(name, chunk, into);
      digest ^= checkPieces(name, index, chunk, pieces, into);
      if (run !== undefined) writer.took(run.count);
      for (const piece of pieces) {
        if (run === undefined)
          await writePiece(writer, context.target.knownZero, index, piece, plain, plan.geometry.blockBytes);
        progress.add(bytesOfBlocks(plan.geometry, piece.first, piece.count));
      }
    }
    await writer.flush();
  } finally {
    writer.release();
    rooms.forEach(giveBackAligned);
  }
  return digest;
}

async function writeZeroes(context: UnitContext, work: UnitWork): Promise<void> {
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

/** Blocks of zeroes that were sent as data are left out where the target has zeroes anyway. */
async function writePiece(
  writer: RunWriter,
  knownZero: boolean,
  index: LayerIndex,
  piece: Piece,
  plain: Buffer,
  blockBytes: number,
): Promise<void> {
  let from = 0;
  for (let i = 0; i <= piece.count; i++) {
    const ends = i === piece.count || (knownZero && index.hashes[piece.hashAt + i] === ZERO_HASH);
    if (!ends) continue;
    if (i > from) await writer.put(piece.first + from, i - from, plain, (piece.position + from) * blockBytes);
    from = i + 1;
  }
}
