/**
 * Hashes and digests of a disk at a point from indexes alone, without a byte of data: for agents that lost their hash store,
 * and to prove that the layers of a point add up to it.
 */
import { segmentBlocks } from '../../shared/blocks/geometry.js';
import type { SegmentNumber } from '../../shared/units.js';
import type { LayerReader } from './layer-reader.js';
import type { PlanUnit, ReadPlan } from './read-plan.js';
import { runsOf, workOf } from './unit-work.js';

/** Hash of each block of a segment at the plan's point; 0 for a block of zeroes. */
export async function hashesOfSegment(
  reader: LayerReader,
  plan: ReadPlan,
  segment: SegmentNumber,
): Promise<BigUint64Array> {
  const within = segmentBlocks(plan.geometry, segment);
  const hashes = new BigUint64Array(within.count);
  for (const unit of plan.units) {
    // Most units have nothing here: don't load their indexes.
    if (unit.kind === 'zero' || runsOf(plan, unit, within).next().done === true) continue;
    const index = await reader.index(unit.layer);
    for (const piece of workOf(plan, unit, index, within).pieces) {
      hashes.set(index.hashes.subarray(piece.hashAt, piece.hashAt + piece.count), piece.first - within.first);
    }
  }
  return hashes;
}

/** Digest of one unit by its index. */
export async function digestOfUnit(reader: LayerReader, plan: ReadPlan, unit: PlanUnit): Promise<bigint> {
  if (unit.kind === 'zero') return 0n;
  const index = await reader.index(unit.layer);
  let digest = 0n;
  for (const piece of workOf(plan, unit, index).pieces) {
    for (let i = 0; i < piece.count; i++) digest ^= index.hashes[piece.hashAt + i] ?? 0n;
  }
  return digest;
}
