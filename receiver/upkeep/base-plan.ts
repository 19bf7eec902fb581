/**
 * Which bases of a disk are built anew, and which are needed no more. Pure.
 *
 * At the oldest listed point O a segment's base is built anew when too much of it is superseded by the layers up to O: storage stays near one image. At the
 * newest listed point it is when a restore would read too much in that segment: more than `readAmplification` times what a fresh base has. That base is
 * an extra one, so it has to fit into a share of what is stored; where not all fit, those come first that spare the most reading for their size.
 * A base is not built before layers of (readAmplification - 1) times its bytes lie over the one before: that bounds what is written.
 *
 * A base is needed while some listed point has it as the latest at or before it. One that a newer took the place of at the newest end goes at once, unless
 * many times its size lies between it and the base before: then points in between would be read from too far back.
 */
import {
  BASE_LIVE_BYTES_MIN,
  BASE_SPACING,
  BASE_SUPERSEDED_MAX,
  EXTRA_BASES_SHARE_MAX,
  READ_AMPLIFICATION_MAX,
} from '../../shared/limits-upkeep.js';
import type { DiskId } from '../../shared/units.js';
import type { LayerRef } from '../catalog/manifest.js';
import type { SegmentRead } from './read-load.js';

export interface BaseLimits {
  /** A restore of the newest point may read so many times what fresh bases have. */
  readonly readAmplification: number;
  /** A base counts as at least so large. */
  readonly liveBytesMin: number;
  /** Extra bases and what is superseded at the oldest point, of all else that is stored. */
  readonly extraShareMax: number;
  /** Deltas between two bases that stay, in sizes of the later one. */
  readonly spacing: number;
}

export const BASE_LIMITS: BaseLimits = {
  readAmplification: READ_AMPLIFICATION_MAX,
  liveBytesMin: BASE_LIVE_BYTES_MIN,
  extraShareMax: EXTRA_BASES_SHARE_MAX,
  spacing: BASE_SPACING,
};

/** What the layers over a segment's base amount to. */
export interface SegmentLoad {
  readonly segment: number;
  /** Stored bytes of the blocks of this segment in layers up to the oldest point, over the base that counts there. */
  readonly belowBytes: number;
  /** The same in the layers that are read at the newest point, over the latest base. */
  readonly overBytes: number;
  /** What the newest point needs of it; null where that was not looked at. */
  readonly read: Pick<SegmentRead, 'readBytes' | 'freshBytes'> | null;
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
  /** Stored bytes of the disk's deltas. */
  readonly deltaBytes: number;
  /** Stored bytes of a segment in the deltas over `after` (null: over nothing) and up to `upTo`. */
  readonly bytesBetween: (segment: number, after: LayerRef | null, upTo: LayerRef) => number;
  readonly limits: BaseLimits;
  /** Steps that are carried out before the list of bases is written. */
  readonly stepsMax: number;
}

export interface BasePlan {
  readonly steps: readonly BaseStep[];
  /** Bases that no listed point has as its latest, and those whose place the steps' bases take. */
  readonly retired: readonly LayerRef[];
}

/** So much must lie over a base before a newer is worth it. */
export const overBytesMin = (
  base: LayerRef | undefined,
  { readAmplification, liveBytesMin }: Pick<BaseLimits, 'readAmplification' | 'liveBytesMin'>,
): number => Math.max(base?.sizeBytes ?? 0, liveBytesMin) * (readAmplification - 1);

const sum = (bytes: readonly number[]): number => bytes.reduce((total, n) => total + n, 0);
const sizeOf = (layers: Iterable<LayerRef>): number => sum([...layers].map((layer) => layer.sizeBytes));
const percent = (part: number, of: number): number => Math.round((part / of) * 100);

export function basePlan(input: BaseInput): BasePlan {
  const { disk, points, bases, loads, stepsMax } = input;
  const [oldest] = points;
  if (oldest === undefined) return { steps: [], retired: [...bases] };
  const bySegment = basesBySegment(bases);
  const unused = [...bySegment.values()].flatMap((own) => unusedOf(own, points));
  const atOldest: BaseStep[] = [];
  for (const { segment, belowBytes } of loads) {
    const base = latestAt(bySegment.get(segment), oldest);
    if (base === undefined || belowBytes <= base.sizeBytes * BASE_SUPERSEDED_MAX) continue;
    const reason = `changes since its base amount to ${percent(belowBytes, base.sizeBytes)} % of it, below the oldest point ${oldest}`;
    atOldest.push({ disk, point: oldest, segment, reason });
  }
  const now = new Set(atOldest.map((step) => step.segment));
  const atNewest = newestSteps(input, bySegment, now, sizeOf(unused.filter((base) => base.lastPoint > oldest)));
  const steps = [...atOldest, ...atNewest.map(({ step }) => step)].slice(0, stepsMax);
  const superseded = atNewest.filter(({ step }) => steps.includes(step)).flatMap(({ instead }) => instead);
  return { steps, retired: [...new Set([...unused, ...superseded])] };
}

interface NewestStep {
  readonly step: BaseStep;
  /** The base whose place it takes. */
  readonly instead: readonly LayerRef[];
}

/** Bases at the newest point, as far as there is room for them. */
function newestSteps(
  { disk, points, bases, loads, deltaBytes, bytesBetween, limits }: BaseInput,
  bySegment: ReadonlyMap<number, readonly LayerRef[]>,
  taken: ReadonlySet<number>,
  unusedBytes: number,
): NewestStep[] {
  const [oldest = 0] = points;
  const newest = points.at(-1) ?? oldest;
  const extraBytes = sizeOf(bases.filter((base) => base.lastPoint > oldest)) - unusedBytes;
  const oldestBytes = sizeOf([...bySegment.values()].flatMap((own) => latestAt(own, oldest) ?? []));
  const supersededBytes = sum(loads.map((load) => load.belowBytes));
  let roomBytes = (oldestBytes + deltaBytes) * limits.extraShareMax - supersededBytes - extraBytes;
  const worth = loads.flatMap(({ segment, overBytes, read }) => {
    const latest = bySegment.get(segment)?.at(-1);
    if (read === null || taken.has(segment) || latest?.lastPoint === newest) return [];
    const isTooMuch = read.readBytes > read.freshBytes * limits.readAmplification;
    if (!isTooMuch || overBytes <= overBytesMin(latest, limits)) return [];
    return [{ segment, read, sparedPerByte: (read.readBytes - read.freshBytes) / Math.max(1, read.freshBytes) }];
  });
  const chosen: NewestStep[] = [];
  for (const { segment, read } of worth.sort(bySpared)) {
    const instead = supersededBy(bySegment.get(segment) ?? [], oldest, limits.spacing, (after, upTo) =>
      bytesBetween(segment, after, upTo),
    );
    const costBytes = read.freshBytes - sizeOf(instead);
    if (costBytes > roomBytes) continue;
    roomBytes -= costBytes;
    const reason = `a restore reads ${(read.readBytes / Math.max(1, read.freshBytes)).toFixed(1)} times what a fresh base has`;
    chosen.push({ step: { disk, point: newest, segment, reason }, instead });
  }
  return chosen;
}

/** About equal ones in the order of the disk: chunks of the layers above reach over several segments, and are read until none of these wants them. */
function bySpared(
  a: { segment: number; sparedPerByte: number },
  b: { segment: number; sparedPerByte: number },
): number {
  const rank = ({ sparedPerByte }: { sparedPerByte: number }): number => Math.round(Math.log2(sparedPerByte) * 2);
  return rank(b) - rank(a) || a.segment - b.segment;
}

/** The latest base of a segment, oldest first, when a newer takes its place and what lies between the two before is not worth it. */
function supersededBy(
  own: readonly LayerRef[],
  oldest: number,
  spacing: number,
  between: (after: LayerRef | null, upTo: LayerRef) => number,
): LayerRef[] {
  const latest = own.at(-1);
  // The base of the oldest point is needed as long as that is listed.
  if (latest === undefined || latest.lastPoint <= oldest) return [];
  return between(own.at(-2) ?? null, latest) > latest.sizeBytes * spacing ? [] : [latest];
}

function basesBySegment(bases: readonly LayerRef[]): Map<number, LayerRef[]> {
  const bySegment = new Map<number, LayerRef[]>();
  for (const base of bases) {
    if (base.segment === null) continue;
    const own = bySegment.get(base.segment);
    if (own === undefined) bySegment.set(base.segment, [base]);
    else own.push(base);
  }
  return bySegment;
}

const latestAt = (own: readonly LayerRef[] | undefined, point: number): LayerRef | undefined =>
  own?.filter((base) => base.lastPoint <= point).at(-1);

/** Bases of one segment, oldest first, that are the latest of no point. */
function unusedOf(own: readonly LayerRef[], points: readonly number[]): LayerRef[] {
  return own.filter((base, i) => {
    const next = own[i + 1];
    return next !== undefined && !points.some((point) => point >= base.lastPoint && point < next.lastPoint);
  });
}
