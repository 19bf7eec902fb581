/**
 * What a policy keeps in the long run and what that costs, estimated from how much the machine really changed. Pure.
 *
 * The estimate rests on one curve: how many stored bytes differ between two points that lie so far apart. Blocks that are written again and again count
 * once in it, so it rises slower than time. It is measured where it can be: neighbouring points of the history are samples, those that upkeep has merged
 * far apart among them. Beyond the longest distance that was measured it is taken to rise with time, which is too much rather than too little,
 * and never above the whole image.
 */
import { PREVIEW_SUPERSEDED_SHARE, PREVIEW_READS_PER_LAYER } from '../../shared/limits-retention.js';
import { bytesAfter, slotCosts, type Anchor, type RetentionTier } from '../../shared/retention-cost.js';
import type { DiskDelta, RecoveryPoint } from '../catalog/manifest.js';
import { tierText, type MachinePolicy } from '../catalog/policy.js';

const DAY_MS = 86_400_000;

/** Stored bytes between two points so far apart. */
export interface ChangeCurve {
  readonly bytes: (spanMs: number) => number;
  /** Longest distance that was measured; null: nothing was. */
  readonly measuredMs: number | null;
  /** Mean distance of points that were made one after the other; null: there are not two. */
  readonly pointEveryMs: number | null;
}

interface Sample extends Anchor {
  /** Made one after the other; else what lay between was merged. */
  readonly neighbours: boolean;
}

const mean = (values: readonly number[]): number => values.reduce((sum, v) => sum + v, 0) / values.length;

/** Pairs of listed points that follow each other, with the bytes of the deltas between them. `points` and `deltas` ascending. */
function samplesOf(points: readonly RecoveryPoint[], deltas: readonly DiskDelta[]): Sample[] {
  const samples: Sample[] = [];
  const sorted = [...deltas].sort((a, b) => a.layer.lastPoint - b.layer.lastPoint);
  let at = 0;
  points.forEach((point, i) => {
    let bytes = 0;
    for (; at < sorted.length && (sorted[at]?.layer.lastPoint ?? 0) <= point.number; at++) {
      const layer = sorted[at]?.layer;
      if (layer?.kind === 'delta') bytes += layer.sizeBytes;
    }
    const before = points[i - 1];
    const spanMs = before === undefined ? 0 : point.cutAtMs - before.cutAtMs;
    if (before !== undefined && spanMs > 0)
      samples.push({ spanMs, bytes, neighbours: point.number === before.number + 1 });
  });
  return samples;
}

const anchorOf = (samples: readonly Anchor[]): Anchor => ({
  spanMs: mean(samples.map((s) => s.spanMs)),
  bytes: mean(samples.map((s) => s.bytes)),
});

/**
 * Neighbouring points are one sample, however far apart each pair is: a long pause between two of them means that nothing was written, not that little
 * changes in so long a time.
 */
function anchorsOf(samples: readonly Sample[]): Anchor[] {
  const groups = new Map<number, Sample[]>();
  for (const sample of samples) {
    const group = sample.neighbours ? -1 : Math.floor(Math.log2(sample.spanMs));
    groups.set(group, [...(groups.get(group) ?? []), sample]);
  }
  const anchors = [...groups.values()].map(anchorOf).sort((a, b) => a.spanMs - b.spanMs);
  // More time never means less change: a shorter sample of a busier day counts for the longer ones as well.
  let most = 0;
  return anchors.map(({ spanMs, bytes }) => ({ spanMs, bytes: (most = Math.max(most, bytes)) }));
}

export function changeCurve(
  points: readonly RecoveryPoint[],
  deltas: readonly DiskDelta[],
  imageBytes: number,
): ChangeCurve {
  const samples = samplesOf(points, deltas);
  const anchors = anchorsOf(samples);
  const apart = samples.filter((s) => s.neighbours).map((s) => s.spanMs);
  const capped = (bytes: number): number => (imageBytes > 0 ? Math.min(bytes, imageBytes) : bytes);
  return {
    bytes: (spanMs) => capped(bytesAfter(anchors, spanMs)),
    measuredMs: anchors.at(-1)?.spanMs ?? null,
    pointEveryMs: apart.length === 0 ? null : mean(apart),
  };
}

export interface TierCost {
  readonly tier: string;
  readonly application: boolean;
  readonly points: number;
  readonly bytes: number;
}

export interface SteadyCost {
  readonly tiers: readonly TierCost[];
  /** Of all tiers, and the newest. */
  readonly points: number;
  readonly oldestMs: number;
  /** The image at the oldest point, compressed. */
  readonly imageBytes: number;
  /** Superseded bytes in base layers before these are rebuilt: at most. */
  readonly garbageBytes: number;
  readonly totalBytes: number;
  readonly perDay: {
    readonly points: number;
    /** What the machine sends. */
    readonly ingestedBytes: number;
    /** What upkeep writes: merged deltas and rebuilt bases. */
    readonly rewrittenBytes: number;
    readonly puts: number;
    readonly gets: number;
    readonly deletedObjects: number;
  };
  /** How it was estimated, for people. */
  readonly notes: readonly string[];
}

export interface CostInput {
  readonly policy: MachinePolicy;
  readonly curve: ChangeCurve;
  readonly imageBytes: number;
  readonly disks: number;
  /** Where neither the policy nor the history says: the agent's default. */
  readonly defaultIntervalMs: number;
}

export function steadyCost(input: CostInput): SteadyCost {
  const { policy, curve, imageBytes, disks } = input;
  const { tiers, applicationTiers } = policy.retention;
  const intervalMs = policy.intervalMs ?? curve.pointEveryMs ?? input.defaultIntervalMs;
  const general = tierCosts(tiers, curve, intervalMs, false);
  const applicationEveryMs = policy.applicationIntervalMs;
  const own = applicationEveryMs === null ? [] : tierCosts(applicationTiers, curve, applicationEveryMs, true);
  const all = [...general, ...own];
  const deltaBytes = all.reduce((sum, t) => sum + t.bytes, 0);
  const garbageBytes = imageBytes * PREVIEW_SUPERSEDED_SHARE;
  return {
    tiers: all,
    points: 1 + all.reduce((sum, t) => sum + t.points, 0),
    oldestMs: Math.max(...[...tiers, ...applicationTiers].map((t) => t.upToMs)),
    imageBytes,
    garbageBytes,
    totalBytes: imageBytes + deltaBytes + garbageBytes,
    perDay: perDay(tiers, curve, intervalMs, disks),
    notes: notesOf(input, intervalMs),
  };
}

function tierCosts(
  tiers: readonly RetentionTier[],
  curve: ChangeCurve,
  intervalMs: number,
  application: boolean,
): TierCost[] {
  return slotCosts(tiers, curve.bytes, intervalMs).map(({ tier, points, bytes }) => ({
    tier: tierText(tier),
    application,
    points,
    bytes,
  }));
}

function perDay(
  tiers: readonly RetentionTier[],
  curve: ChangeCurve,
  intervalMs: number,
  disks: number,
): SteadyCost['perDay'] {
  const points = DAY_MS / intervalMs;
  const steps = tiers.filter((t) => t.everyMs > intervalMs);
  const merged = steps.map(({ everyMs }) => (DAY_MS / everyMs) * curve.bytes(everyMs));
  const last = Math.max(intervalMs, tiers.at(-1)?.everyMs ?? 0);
  // What leaves the grid becomes part of the image: a segment is rewritten when a share of it is superseded.
  const rebuilt = ((DAY_MS / last) * curve.bytes(last)) / PREVIEW_SUPERSEDED_SHARE;
  const merges = steps.reduce((sum, t) => sum + (DAY_MS / t.everyMs) * disks, 0);
  return {
    points,
    ingestedBytes: points * curve.bytes(intervalMs),
    rewrittenBytes: merged.reduce((sum, b) => sum + b, 0) + rebuilt,
    // A layer for each disk and the manifest; a merged layer for each disk and slot.
    puts: points * (disks + 1) + merges,
    gets: points * disks * PREVIEW_READS_PER_LAYER,
    deletedObjects: points * (disks + 1),
  };
}

function notesOf({ curve, policy, imageBytes }: CostInput, intervalMs: number): string[] {
  const longest = Math.max(...policy.retention.tiers.map((t) => t.everyMs));
  const hours = (ms: number): string =>
    ms < 3_600_000 ? `${(ms / 60_000).toFixed(1)} min` : `${(ms / 3_600_000).toFixed(1)} h`;
  return [
    `points every ${(intervalMs / 1000).toFixed(1)} s: ${policy.intervalMs !== null ? 'as the policy says' : curve.pointEveryMs !== null ? 'as they were made so far' : "the agent's default"}`,
    curve.measuredMs === null
      ? 'no two points to measure the change by: bytes of changes are unknown and count as 0'
      : `changes measured between points up to ${hours(curve.measuredMs)} apart` +
        (longest > curve.measuredMs ? '; beyond that taken to grow with time, so less is likely' : ''),
    `the image: ${imageBytes > 0 ? 'the newest base layer of each segment, as stored' : 'no base layer yet'}`,
    'bytes of the layers alone; manifests, pages and lists add little (some ten KiB per manifest, a hundred of which are kept)',
  ];
}
