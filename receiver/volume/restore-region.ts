/**
 * Composes a region of a disk in memory from all units of the plan that have blocks of it, proves each block, and writes the region in long runs.
 * Nothing of a region is written before all of it is proven. Threads do the work but the writes, which wait more than they work: those would keep threads
 * from the next region. What is encrypted is decrypted on the event loop.
 *
 * Bases come first, since a chunk of theirs is decompressed where it belongs, with blocks that deltas have newer; then what the deltas have is put there.
 */
import type { Extent } from '../../shared/blocks/block-set.js';
import { bytesOfBlocks, type Geometry } from '../../shared/blocks/geometry.js';
import {
  CHUNK_PLAIN_BYTES_MAX,
  COMPOSED_UNITS_AT_ONCE,
  COMPOSED_WRITES_AT_ONCE,
  RESTORE_WRITE_BYTES_MAX,
} from '../../shared/limits.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import { provePieces } from './chunk-check.js';
import type { Region } from './composed-regions.js';
import type { InTurn } from '../../shared/in-turn.js';
import { spansOf } from './layer-reader.js';
import { inParallel } from './local/parallel.js';
import { cancelled } from './plan-point.js';
import type { PlanUnit } from './read-plan.js';
import { addProgress, dataRuns, writeZeroes, type UnitContext, type UnitData } from './restore-unit.js';
import { errorOf } from './threads/error-parts.js';
import { bytesOfRoom, type SharedRoom } from './threads/shared-room.js';
import { spanJob, type Put } from './threads/span-job.js';
import { wholeRuns } from './whole-runs.js';
import { byChunk, workOf } from './unit-work.js';

type Span = readonly [offset: number, lengthBytes: number];

/**
 * Returns the XOR of the region's block hashes. The bytes are written, not yet durable. `composing`: regions are composed one after the other, each by all
 * threads, so that one is written while the next is composed; together they would all compose, and then all wait for the disk.
 */
export async function restoreRegion(
  context: UnitContext,
  region: Region,
  room: SharedRoom,
  composing: InTurn,
): Promise<bigint> {
  const { digest, marks } = await composing.run(() => composeRegion(context, region, room));
  if (context.signal.aborted) throw cancelled('restore');
  await writeOut(context, region, room, markedSpans(context.plan.geometry, region, marks));
  return digest;
}

interface Composed {
  /** XOR of the block hashes. */
  readonly digest: bigint;
  /** By block of the region; 1: its data is to be written. */
  readonly marks: Uint8Array;
}

async function composeRegion(context: UnitContext, region: Region, room: SharedRoom): Promise<Composed> {
  const { plan, target } = context;
  const marks = new Uint8Array(region.count);
  let digest = 0n;
  const take = async (number: number): Promise<void> => {
    const unit = plan.units[number] as PlanUnit;
    const index = unit.kind === 'zero' ? undefined : await context.reader.index(unit.layer);
    const work = workOf(plan, unit, index, region);
    await writeZeroes(context, work);
    if (unit.kind === 'zero' || index === undefined || work.pieces.length === 0) return;
    const groups = byChunk(work.pieces);
    const runs = unit.kind === 'base' ? wholeRuns(index) : NO_RUNS;
    const own = await compose(context, { region, room, runs, layer: unit.layer, index, groups });
    // In a step of its own: `digest ^= await …` would read the digest before others have added to it.
    digest ^= own;
    for (const { first, count } of dataRuns(index, work.pieces, target.knownZero))
      marks.fill(1, first - region.first, first - region.first + count);
  };
  const isDelta = (number: number): boolean => plan.units[number]?.kind === 'delta';
  const deltas = region.units.filter(isDelta);
  const others = region.units.filter((number) => !isDelta(number));
  for (const units of [others, deltas]) await inParallel(units, COMPOSED_UNITS_AT_ONCE, take);
  return { digest, marks };
}

/** What of a unit belongs to a region. */
interface Part extends UnitData {
  readonly region: Region;
  readonly room: SharedRoom;
  /** By chunk: the one run of blocks that it is, where it may be decompressed into the room as a whole. */
  readonly runs: ReadonlyMap<number, Extent>;
}

/** It goes into the room, proven. */
async function compose(context: UnitContext, part: Part): Promise<bigint> {
  const { reader, plan, progress } = context;
  const { region, room, runs, layer, index, groups } = part;
  const start = region.first * plan.geometry.blockBytes;
  let digest = 0n;
  for (const span of spansOf(index.chunks, [...groups.keys()])) {
    if (context.signal.aborted) throw cancelled('restore');
    const wishOf = (chunk: number) => {
      const pieces = groups.get(chunk) ?? [];
      const run = runs.get(chunk);
      if (run === undefined || !lies(run, region)) return { pieces, puts: putsIn(context, index, pieces, start) };
      const lengthBytes = run.count * plan.geometry.blockBytes;
      return { pieces, puts: [{ from: 0, offset: run.first * plan.geometry.blockBytes - start, lengthBytes }] };
    };
    const job = spanJob(reader.nameOf(layer), plan.geometry.blockBytes, index, span, wishOf, room);
    const result = await reader.onThread(layer, job);
    const [failure] = result.failures;
    if (failure !== undefined) throw errorOf(failure.error);
    const own = result.isSealed ? await composeHere(context, part, span.chunks, start) : result.digest;
    digest ^= own;
    for (const chunk of span.chunks) addProgress(progress, plan.geometry, groups.get(chunk) ?? []);
  }
  return digest;
}

async function composeHere(
  context: UnitContext,
  { room, layer, index, groups }: Part,
  chunks: readonly number[],
  start: number,
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

const NO_RUNS: ReadonlyMap<number, Extent> = new Map();

const lies = (run: Extent, { first, count }: Region): boolean =>
  run.first >= first && run.first + run.count <= first + count;

/** Runs of marks, in bytes of the disk. */
function markedSpans(geometry: Geometry, { first }: Region, marks: Uint8Array): Span[] {
  const spans: Span[] = [];
  for (let from = marks.indexOf(1); from >= 0;) {
    const end = marks.indexOf(0, from);
    const count = (end < 0 ? marks.length : end) - from;
    spans.push([(first + from) * geometry.blockBytes, bytesOfBlocks(geometry, first + from, count)]);
    from = end < 0 ? -1 : marks.indexOf(1, end);
  }
  return spans;
}

/** Spans (bytes of the disk) of a room to the target. */
async function writeOut(context: UnitContext, region: Region, room: SharedRoom, spans: readonly Span[]): Promise<void> {
  const isReserved = await reserveFor(context, spans);
  const start = region.first * context.plan.geometry.blockBytes;
  const bytes = bytesOfRoom(room);
  const writes: Span[] = [];
  for (const [offset, lengthBytes] of spans)
    for (let done = 0; done < lengthBytes; done += RESTORE_WRITE_BYTES_MAX)
      writes.push([offset + done, Math.min(RESTORE_WRITE_BYTES_MAX, lengthBytes - done)]);
  await inParallel(writes, COMPOSED_WRITES_AT_ONCE, ([offset, lengthBytes]) =>
    context.target.write(offset, bytes.subarray(offset - start, offset - start + lengthBytes), isReserved),
  );
}

/** False: the target can't be written by threads, and makes room itself. */
async function reserveFor({ reader, target }: UnitContext, spans: readonly Span[]): Promise<boolean> {
  const outlet = target.outlet();
  if (outlet === null) return false;
  const ranges = spans.flatMap(([offset, lengthBytes]) => [...outlet.places(offset, lengthBytes)]);
  await reader.reserveOnThread(outlet.outlet, ranges);
  return true;
}
