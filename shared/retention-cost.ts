/**
 * What a grid of kept points costs, from how much changes in which time: the arithmetic that the receiver's preview and the agent's profile share. Pure.
 */
export interface RetentionTier {
  /** Length of the slots of which each keeps one point; 0: every point is kept. */
  readonly everyMs: number;
  /** Up to this age. */
  readonly upToMs: number;
}

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

/** Site Recovery's shape: all for 2 hours, hourly to 1 day, 2-hourly to 7 days, 4-hourly to 15 days. */
export const DEFAULT_TIERS: readonly RetentionTier[] = [
  { everyMs: 0, upToMs: 2 * HOUR_MS },
  { everyMs: HOUR_MS, upToMs: DAY_MS },
  { everyMs: 2 * HOUR_MS, upToMs: 7 * DAY_MS },
  { everyMs: 4 * HOUR_MS, upToMs: 15 * DAY_MS },
];

/** So many bytes differ between two moments so far apart. */
export interface Anchor {
  readonly spanMs: number;
  readonly bytes: number;
}

/** What differs after any time, by what was measured (ascending): between two measures a power of time, outside them in proportion to it. */
export function bytesAfter(anchors: readonly Anchor[], spanMs: number): number {
  const above = anchors.findIndex((a) => a.spanMs >= spanMs);
  const [low, high] = [anchors[above < 0 ? anchors.length - 1 : above - 1], anchors[above]];
  const proportional = (a: Anchor | undefined): number => (a === undefined ? 0 : (a.bytes * spanMs) / a.spanMs);
  if (high === undefined || low === undefined) return proportional(low ?? high);
  if (low.bytes <= 0) return high.bytes;
  // Straight on paper with two logarithmic axes: a share of the blocks is written over and over.
  const slope = Math.log(high.bytes / low.bytes) / Math.log(high.spanMs / low.spanMs);
  return low.bytes * (spanMs / low.spanMs) ** slope;
}

export interface SlotCost {
  readonly tier: RetentionTier;
  readonly points: number;
  readonly bytes: number;
}

/** Points of each tier and the bytes between them, when points come this far apart. */
export function slotCosts(
  tiers: readonly RetentionTier[],
  bytesOf: (spanMs: number) => number,
  intervalMs: number,
): SlotCost[] {
  return tiers.map((tier, i) => {
    const fromMs = tiers[i - 1]?.upToMs ?? 0;
    // Slots shorter than the distance of points are mostly empty.
    const everyMs = Math.max(tier.everyMs, intervalMs);
    const points = Math.ceil((tier.upToMs - fromMs) / everyMs);
    return { tier, points, bytes: points * bytesOf(everyMs) };
  });
}
