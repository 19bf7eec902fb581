/**
 * Whether a disk is better restored region by region, each composed in memory from all layers that have something of it, than layer by layer: after a long history
 * the newest copy of most neighbours stands in different layers, and written one by one they are a write to the target each. Pure.
 *
 * What it costs: a chunk of a delta is decompressed once for each region that it has blocks of. So it is done where layers have many runs per region.
 */
import {
  COMPOSED_MEMORY_PART,
  COMPOSED_REGIONS_AT_ONCE,
  COMPOSED_RUNS_MIN,
  COMPOSED_RUNS_PER_TOUCH,
  COMPOSED_SEGMENTS_MAX,
  SEGMENT_BYTES,
} from '../../shared/limits.js';
import type { ReadPlan } from './read-plan.js';

/** Some segments of the disk, and the units of the plan that have blocks of them. */
export interface Region {
  readonly first: number;
  readonly count: number;
  /** Numbers of units. */
  readonly units: readonly number[];
}

export interface ComposedLimits {
  readonly runsMin: number;
  readonly runsPerTouch: number;
  /** Of a region. */
  readonly segments: number;
}

/** By the memory of the host: the larger a region, the fewer chunks are decompressed several times. */
export function composedLimits(hostBytes: number): ComposedLimits {
  const segments = Math.floor(hostBytes / COMPOSED_MEMORY_PART / COMPOSED_REGIONS_AT_ONCE / SEGMENT_BYTES);
  return {
    runsMin: COMPOSED_RUNS_MIN,
    runsPerTouch: COMPOSED_RUNS_PER_TOUCH,
    segments: Math.max(1, Math.min(COMPOSED_SEGMENTS_MAX, segments)),
  };
}

/** The regions in the order of the disk, which are all of it; null where layer by layer is better. */
export function composedRegions(plan: ReadPlan, limits: ComposedLimits): readonly Region[] | null {
  const { geometry } = plan;
  let [runs, touches] = [0, 0];
  for (const unit of plan.units) {
    if (unit.kind !== 'delta') continue;
    runs += unit.runs.length / 2;
    for (const _ of regionsOf(plan, unit.runs, limits.segments)) touches++;
  }
  if (runs < limits.runsMin || runs < touches * limits.runsPerTouch) return null;
  const units = Array.from({ length: Math.ceil(geometry.segmentCount / limits.segments) }, (): number[] => []);
  for (const [number, unit] of plan.units.entries()) {
    const { segments } = limits;
    const touched =
      unit.kind === 'delta' ? regionsOf(plan, unit.runs, segments) : [Math.floor(unit.segment / segments)];
    for (const region of touched) units[region]?.push(number);
  }
  const blocksPerRegion = geometry.blocksPerSegment * limits.segments;
  return units.map((own, region) => {
    const first = region * blocksPerRegion;
    return { first, count: Math.min(blocksPerRegion, geometry.blockCount - first), units: own };
  });
}

/** Each region of so many segments that runs (first, count; ascending) touch, once. */
function* regionsOf({ geometry }: ReadPlan, runs: Uint32Array, segments: number): Generator<number> {
  const blocksPerRegion = geometry.blocksPerSegment * segments;
  let last = -1;
  for (let i = 0; i + 1 < runs.length; i += 2) {
    const first = runs[i] ?? 0;
    const end = Math.floor((first + (runs[i + 1] ?? 0) - 1) / blocksPerRegion);
    for (let region = Math.max(last + 1, Math.floor(first / blocksPerRegion)); region <= end; region++) yield region;
    last = Math.max(last, end);
  }
}
