/**
 * What a policy would do with a machine: to the points that are there, and in the long run. Reads, changes nothing.
 */
import { POINT_INTERVAL_MS } from '../../shared/limits.js';
import type { DiskDelta, LayerRef, RecoveryPoint } from '../catalog/manifest.js';
import { tierText, type MachinePolicy } from '../catalog/policy.js';
import type { MachineReader } from '../catalog/reader.js';
import { planRetention, type HeldPoints, type KeepCode, type RetentionPlan } from './retention.js';
import { changeCurve, steadyCost, type SteadyCost } from './retention-cost.js';

export interface MachineContent {
  readonly points: readonly RecoveryPoint[];
  readonly deltas: readonly DiskDelta[];
  /** Of each segment of each disk the newest base. */
  readonly bases: readonly LayerRef[];
  readonly disks: number;
}

export interface PreviewNow {
  /** How many points each tier keeps, and each other reason. */
  readonly kept: readonly { readonly why: string; readonly points: number }[];
  readonly plan: RetentionPlan<RecoveryPoint>;
  readonly oldest: RecoveryPoint | null;
  /** Stored bytes of all layers as they are. */
  readonly storedBytes: number;
  /** ... and estimated once the deltas between the kept points are merged. */
  readonly afterBytes: number;
}

export interface Preview {
  readonly now: PreviewNow;
  readonly steady: SteadyCost;
}

export async function loadContent(view: MachineReader): Promise<MachineContent> {
  const points: RecoveryPoint[] = [];
  const deltas: DiskDelta[] = [];
  const newest = new Map<string, LayerRef>();
  const base = (disk: string, layer: LayerRef): void => {
    const key = `${disk} ${layer.segment ?? 0}`;
    const before = newest.get(key);
    if (before === undefined || before.lastPoint <= layer.lastPoint) newest.set(key, layer);
  };
  for await (const history of view.history()) {
    points.push(...history.points);
    for (const delta of history.deltas) {
      if (delta.layer.kind === 'base') base(delta.disk, delta.layer);
      else deltas.push(delta);
    }
  }
  for (const { id } of view.manifest.disks) for (const layer of await view.basesOf(id)) base(id, layer);
  return { points, deltas, bases: [...newest.values()], disks: view.manifest.disks.length };
}

/** Pure. */
export function previewRetention(
  content: MachineContent,
  policy: MachinePolicy,
  nowMs: number,
  held: HeldPoints,
): Preview {
  const { points, deltas, bases, disks } = content;
  const imageBytes = sum(bases.map((b) => b.sizeBytes));
  const curve = changeCurve(points, deltas, imageBytes);
  const plan = planRetention(points, policy.retention, nowMs, held);
  return {
    now: {
      kept: keptBy(plan, policy),
      plan,
      oldest: plan.keep[0]?.point ?? null,
      storedBytes: imageBytes + sum(deltas.map((d) => d.layer.sizeBytes)),
      afterBytes: imageBytes + mergedBytes(plan, deltas, curve.bytes),
    },
    steady: steadyCost({ policy, curve, imageBytes, disks, defaultIntervalMs: POINT_INTERVAL_MS }),
  };
}

const sum = (values: readonly number[]): number => values.reduce((total, v) => total + v, 0);

const WHY: Readonly<Record<Exclude<KeepCode, 'tier'>, string>> = {
  newest: 'the newest point',
  held: 'held or in use',
  'application-tier': 'application-consistent, by their own grid',
  'newest-application': 'the newest application-consistent point',
  'newest-with-disk': 'the last point with a disk that the newest lacks',
};

function keptBy(plan: RetentionPlan<RecoveryPoint>, policy: MachinePolicy): PreviewNow['kept'] {
  const counts = new Map<string, number>();
  for (const tier of policy.retention.tiers) counts.set(tierText(tier), 0);
  for (const { code, tier } of plan.keep) {
    const said = tier === null ? undefined : policy.retention.tiers[tier];
    const why = code === 'tier' && said !== undefined ? tierText(said) : WHY[code === 'tier' ? 'newest' : code];
    counts.set(why, (counts.get(why) ?? 0) + 1);
  }
  return [...counts].map(([why, points]) => ({ why, points }));
}

/** Between two kept points: what lies there now, or what the curve says of so long a time if that is less. */
function mergedBytes(
  plan: RetentionPlan<RecoveryPoint>,
  deltas: readonly DiskDelta[],
  bytesOf: (spanMs: number) => number,
): number {
  const sorted = [...deltas].sort((a, b) => a.layer.lastPoint - b.layer.lastPoint);
  let at = 0;
  let total = 0;
  plan.keep.forEach(({ point }, i) => {
    let there = 0;
    let layers = 0;
    for (; at < sorted.length && (sorted[at]?.layer.lastPoint ?? 0) <= point.number; at++, layers++) {
      there += sorted[at]?.layer.sizeBytes ?? 0;
    }
    const before = plan.keep[i - 1];
    const spanMs = before === undefined ? 0 : point.cutAtMs - before.point.cutAtMs;
    total += layers > 1 && spanMs > 0 ? Math.min(there, bytesOf(spanMs)) : there;
  });
  return total;
}
