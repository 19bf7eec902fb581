/**
 * Which bases of a disk are built anew, and which are needed no more. Pure.
 *
 * At the oldest listed point O a segment's base is built anew when too much of it is superseded by the layers up to O: storage stays near one image. At the
 * newest listed point it is when the deltas over the last base amount to several times its size: a restore then reads less. A base is needed while
 * some listed point has it as the latest at or before it.
 */
import { BASE_DELTA_RATIO, BASE_LIVE_BYTES_MIN, BASE_SUPERSEDED_MAX } from '../../shared/limits-upkeep.js';
import type { DiskId } from '../../shared/units.js';
import type { LayerRef } from '../catalog/manifest.js';
import { compareLayers } from '../volume/read-plan.js';

/** What the layers over a segment's base amount to. */
export interface SegmentLoad {
  readonly segment: number;
  /** Stored bytes of the blocks of this segment in layers up to the oldest point, over the base that counts there. */
  readonly belowBytes: number;
  /** The same in all layers over the latest base. */
  readonly overBytes: number;
}

export interface BaseStep {
  readonly disk: DiskId;
  /** A listed point that holds the disk. */
  readonly point: number;
  readonly segment: number;
  readonly reason: string;
}

export interface BaseInput {
  readonly disk: DiskId;
  readonly points: readonly number[];
  /** Oldest first. */
  readonly bases: readonly LayerRef[];
  readonly loads: readonly SegmentLoad[];
}

export interface BasePlan {
  readonly steps: readonly BaseStep[];
  /** Bases that no listed point has as its latest. */
  readonly retired: readonly LayerRef[];
}

export function basePlan({ disk, points, bases, loads }: BaseInput): BasePlan {
  const [oldest] = points;
  const newest = points.at(-1);
  if (oldest === undefined || newest === undefined) return { steps: [], retired: [...bases] };
  const bySegment = new Map<number, LayerRef[]>();
  for (const base of bases) {
    if (base.segment !== null) bySegment.set(base.segment, [...(bySegment.get(base.segment) ?? []), base]);
  }
  const steps: BaseStep[] = [];
  for (const { segment, belowBytes, overBytes } of loads) {
    const own = bySegment.get(segment) ?? [];
    const atOldest = own.filter((base) => base.lastPoint <= oldest).at(-1);
    const latest = own.at(-1);
    const percent = (part: number, of: number): number => Math.round((part / of) * 100);
    if (atOldest !== undefined && belowBytes > atOldest.sizeBytes * BASE_SUPERSEDED_MAX) {
      const much = percent(belowBytes, atOldest.sizeBytes);
      steps.push({
        disk,
        point: oldest,
        segment,
        reason: `changes since its base amount to ${much} % of it, below the oldest point ${oldest}`,
      });
    } else if (overBytes > Math.max(latest?.sizeBytes ?? 0, BASE_LIVE_BYTES_MIN) * BASE_DELTA_RATIO) {
      const much = percent(overBytes, Math.max(latest?.sizeBytes ?? 0, BASE_LIVE_BYTES_MIN));
      steps.push({ disk, point: newest, segment, reason: `the layers over its base amount to ${much} % of it` });
    }
  }
  const retired = [...bySegment.values()].flatMap((own) => retiredOf(own, points));
  return { steps, retired };
}

/** Bases of one segment, oldest first, that are the latest of no point. */
function retiredOf(own: readonly LayerRef[], points: readonly number[]): LayerRef[] {
  return own.filter((base, i) => {
    const next = own[i + 1];
    return next !== undefined && !points.some((point) => point >= base.lastPoint && point < next.lastPoint);
  });
}

/** Whether a base hides a layer's blocks in its segment. */
export const hides = (base: LayerRef, layer: LayerRef): boolean => compareLayers(layer, base) < 0;
