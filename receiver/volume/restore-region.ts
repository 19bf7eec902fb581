/**
 * Composes a region of a disk in memory from all units of the plan that have blocks of it, proves each block, and writes the region in long runs.
 * Nothing of a region is written before all of it is proven. Threads do the work; what is encrypted is decrypted on the event loop.
 */
import { bytesOfBlocks } from '../../shared/blocks/geometry.js';
import { CHUNK_PLAIN_BYTES_MAX, COMPOSED_UNITS_AT_ONCE } from '../../shared/limits.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import { provePieces } from './chunk-check.js';
import type { Region } from './composed-regions.js';
import { spansOf } from './layer-reader.js';
import { inParallel } from './local/parallel.js';
import { cancelled } from './plan-point.js';
import type { PlanUnit } from './read-plan.js';
import { addProgress, dataRuns, writeZeroes, type UnitContext, type UnitData } from './restore-unit.js';
import { errorOf } from './threads/error-parts.js';
import { bytesOfRoom, type SharedRoom } from './threads/shared-room.js';
import { spanJob, type Put } from './threads/span-job.js';
import { byChunk, workOf } from './unit-work.js';

type Span = readonly [offset: number, lengthBytes: number];

/** Returns the XOR of the region's block hashes. The bytes are written, not yet durable. */
export async function restoreRegion(context: UnitContext, region: Region, room: SharedRoom): Promise<bigint> {
  const { plan } = context;
  const spans: Span[] = [];
  let digest = 0n;
  await inParallel(region.units, COMPOSED_UNITS_AT_ONCE, async (number) => {
    const unit = plan.units[number] as PlanUnit;
    const index = unit.kind === 'zero' ? undefined : await context.reader.index(unit.layer);
    const work = workOf(plan, unit, index, region);
    await writeZeroes(context, work);
    if (unit.kind === 'zero' || index === undefined || work.pieces.length === 0) return;
    const data = { layer: unit.layer, index, groups: byChunk(work.pieces) };
    const own = await compose(context, region, data, room);
    // In a step of its own: `digest ^= await …` would read the digest before others have added to it.
    digest ^= own;
    for (const { offset, lengthBytes } of putsIn(context, index, work.pieces, 0)) spans.push([offset, lengthBytes]);
  });
  if (context.signal.aborted) throw cancelled('restore');
  await writeOut(context, region, room, joined(spans));
  return digest;
}

/** What of a unit belongs to a region goes into the room, proven. */
async function compose(context: UnitContext, region: Region, data: UnitData, room: SharedRoom): Promise<bigint> {
  const { reader, plan, progress } = context;
  const { layer, index, groups } = data;
  const start = region.first * plan.geometry.blockBytes;
  let digest = 0n;
  for (const span of spansOf(index.chunks, [...groups.keys()])) {
    if (context.signal.aborted) throw cancelled('restore');
    const wishOf = (chunk: number) => {
      const pieces = groups.get(chunk) ?? [];
      return { pieces, puts: putsIn(context, index, pieces, start) };
    };
    const job = spanJob(reader.nameOf(layer), plan.geometry.blockBytes, index, span, wishOf, room);
    const result = await reader.onThread(layer, job);
    const [failure] = result.failures;
    if (failure !== undefined) throw errorOf(failure.error);
    const own = result.isSealed ? await composeHere(context, data, span.chunks, start, room) : result.digest;
    digest ^= own;
    for (const chunk of span.chunks) addProgress(progress, plan.geometry, groups.get(chunk) ?? []);
  }
  return digest;
}

async function composeHere(
  context: UnitContext,
  { layer, index, groups }: UnitData,
  chunks: readonly number[],
  start: number,
  room: SharedRoom,
): Promise<bigint> {
  const bytes = bytesOfRoom(room);
  const plain = Buffer.allocUnsafe(CHUNK_PLAIN_BYTES_MAX);
  let digest = 0n;
  for await (const chunk of context.reader.chunks(layer, index, chunks)) {
    const pieces = groups.get(chunk.number) ?? [];
    digest ^= provePieces(context.reader.nameOf(layer), index, chunk, pieces, plain);
    for (const { from, offset, lengthBytes } of putsIn(context, index, pieces, start))
      plain.copy(bytes, offset, from, from + lengthBytes);
  }
  return digest;
}

/** Where the data of pieces goes, in bytes from `start` of the disk on. */
function putsIn(
  { plan: { geometry }, target }: UnitContext,
  index: LayerIndex,
  pieces: Parameters<typeof dataRuns>[1],
  start: number,
): Put[] {
  return [...dataRuns(index, pieces, target.knownZero)].map(({ first, count, position }) => ({
    from: position * geometry.blockBytes,
    offset: first * geometry.blockBytes - start,
    lengthBytes: bytesOfBlocks(geometry, first, count),
  }));
}

/** In order, and those that touch in one. */
function joined(spans: Span[]): Span[] {
  const all: [number, number][] = [];
  for (const [offset, lengthBytes] of spans.sort((a, b) => a[0] - b[0])) {
    const last = all.at(-1);
    if (last !== undefined && last[0] + last[1] === offset) last[1] += lengthBytes;
    else all.push([offset, lengthBytes]);
  }
  return all;
}

/** `spans`: in bytes of the disk. */
async function writeOut(context: UnitContext, region: Region, room: SharedRoom, spans: readonly Span[]): Promise<void> {
  const { target, reader, plan } = context;
  const outlet = target.outlet();
  const start = region.first * plan.geometry.blockBytes;
  if (outlet === null) {
    const bytes = bytesOfRoom(room);
    for (const [offset, lengthBytes] of spans)
      await target.write(offset, bytes.subarray(offset - start, offset - start + lengthBytes));
    return;
  }
  const puts: Put[] = [];
  for (const [offset, lengthBytes] of spans) {
    let from = offset - start;
    for (const place of outlet.places(offset, lengthBytes)) {
      puts.push({ from, ...place });
      from += place.lengthBytes;
    }
  }
  if (puts.length > 0) await reader.writeOnThread({ outlet: outlet.outlet, room, puts });
}
