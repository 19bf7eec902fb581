/**
 * Interval, bandwidth and storage from a profile, each with its reason. Pure.
 *
 * A point of an interval sends the distinct blocks that changed within it, compressed. Its RPO holds as long as that is sent within the interval.
 */
import { PROFILE_HEADROOM } from '../../shared/limits-profile.js';
import { POINT_INTERVAL_MS } from '../../shared/limits.js';
import { bytesAfter, DEFAULT_TIERS, slotCosts, type Anchor, type RetentionTier } from '../../shared/retention-cost.js';
import { formatBytes, formatDuration } from '../../shared/units.js';
import type { Profile, WindowReport } from './report.js';

export interface IntervalNeed {
  readonly intervalMs: number;
  /** Bytes per second with which nearly all points (95 of 100) are sent within the interval, with headroom. */
  readonly bandwidth: number;
  /** ... and with which the largest point seen is. */
  readonly peakBandwidth: number;
  /** What is sent in a day, compressed. */
  readonly bytesPerDay: number;
}

export interface Recommendation {
  readonly interval: { readonly ms: number; readonly reason: string } | null;
  readonly bandwidth: { readonly bytesPerSecond: number; readonly atPeak: number; readonly reason: string } | null;
  readonly storage: {
    readonly bytes: number;
    readonly imageBytes: number;
    readonly historyBytes: number;
    readonly reason: string;
  } | null;
  /** For each interval that was measured. */
  readonly needs: readonly IntervalNeed[];
  readonly notes: readonly string[];
}

export interface Wish {
  /** What the link can give; null: not said. */
  readonly bandwidth: number | null;
  readonly tiers?: readonly RetentionTier[];
}

const DAY_MS = 86_400_000;
/** Nothing is known of how far changes can be compressed: then not at all. */
const UNKNOWN_SHARE = 1;

export function recommend(profile: Profile, { bandwidth, tiers = DEFAULT_TIERS }: Wish): Recommendation {
  const share = profile.compressedShare ?? UNKNOWN_SHARE;
  const needs = profile.windows.map((w) => needOf(w, share));
  const notes = notesOf(profile);
  const chosen = chooseInterval(needs, bandwidth);
  if (chosen === null) return { interval: null, bandwidth: null, storage: null, needs, notes };
  const { need, reason } = chosen;
  return {
    interval: { ms: need.intervalMs, reason },
    bandwidth: {
      bytesPerSecond: need.bandwidth,
      atPeak: need.peakBandwidth,
      reason:
        `95 of 100 points of ${formatDuration(need.intervalMs)} are sent within it, with ${Math.round((PROFILE_HEADROOM - 1) * 100)} % to spare` +
        (need.peakBandwidth > need.bandwidth
          ? `; the largest point seen needs ${formatBytes(need.peakBandwidth)}/s to keep the RPO`
          : '; the largest point seen is sent in time as well'),
    },
    storage: storageOf(profile, need.intervalMs, share, tiers),
    needs,
    notes,
  };
}

function needOf({ lengthMs, bytes }: WindowReport, share: number): IntervalNeed {
  const perSecond = (b: number): number => Math.ceil((b * share * 1000) / lengthMs);
  return {
    intervalMs: lengthMs,
    bandwidth: Math.ceil(perSecond(bytes.p95) * PROFILE_HEADROOM),
    peakBandwidth: perSecond(bytes.peak),
    bytesPerDay: Math.round((bytes.mean * share * DAY_MS) / lengthMs),
  };
}

/** The shortest that the link can carry; where the link isn't known, the default or the next that was measured. */
function chooseInterval(
  needs: readonly IntervalNeed[],
  bandwidth: number | null,
): { readonly need: IntervalNeed; readonly reason: string } | null {
  if (bandwidth !== null) {
    const shortest = needs.find((n) => n.bandwidth <= bandwidth);
    if (shortest === undefined) return null;
    const faster = needs[needs.indexOf(shortest) - 1];
    const given = `${formatBytes(bandwidth)}/s`;
    const reason =
      faster === undefined
        ? `the shortest that was measured, and ${given} carry it`
        : `the shortest that ${given} carry: ${formatDuration(faster.intervalMs)} would need ${formatBytes(faster.bandwidth)}/s`;
    return { need: shortest, reason };
  }
  const need = needs.find((n) => n.intervalMs >= POINT_INTERVAL_MS);
  if (need === undefined) return null;
  const reason = need.intervalMs === POINT_INTERVAL_MS ? 'the default' : 'the shortest that was measured';
  const longer = needs[needs.indexOf(need) + 1];
  if (longer === undefined || need.bytesPerDay === 0) return { need, reason };
  const less = Math.round((1 - longer.bytesPerDay / need.bytesPerDay) * 100);
  const instead =
    less > 0
      ? `; ${formatDuration(longer.intervalMs)} would send ${less} % less, as blocks are overwritten meanwhile`
      : '; a longer one would send no less';
  return { need, reason: reason + instead };
}

function storageOf(
  { windows, disks }: Profile,
  intervalMs: number,
  share: number,
  tiers: readonly RetentionTier[],
): NonNullable<Recommendation['storage']> {
  const imageBytes = disks.reduce((sum, d) => sum + d.sizeBytes, 0) * share;
  const anchors: Anchor[] = windows.map(({ lengthMs, bytes }) => ({ spanMs: lengthMs, bytes: bytes.mean * share }));
  const bytesOf = (spanMs: number): number => Math.min(imageBytes, bytesAfter(anchors, spanMs));
  const historyBytes = slotCosts(tiers, bytesOf, intervalMs).reduce((sum, slot) => sum + slot.bytes, 0);
  const longest = anchors.at(-1)?.spanMs ?? 0;
  const days = Math.round((tiers.at(-1)?.upToMs ?? 0) / DAY_MS);
  return {
    bytes: Math.ceil(imageBytes + historyBytes),
    imageBytes: Math.ceil(imageBytes),
    historyBytes: Math.ceil(historyBytes),
    reason:
      `the disks as if they were full of data like the changed blocks (free space costs nothing), and the points of ${days} days as they are kept by default; ` +
      `changes over more than ${formatDuration(longest)} are taken to grow with time, so less is likely`,
  };
}

function notesOf({ disks, compressedShare, measuredMs, notMeasuredMs }: Profile): string[] {
  const notes = [`measured for ${formatDuration(measuredMs)}: busier hours were not seen unless they fell into it`];
  if (compressedShare === null) notes.push('no changed block was sampled: nothing is taken to be compressible');
  for (const ms of notMeasuredMs)
    notes.push(`intervals of ${formatDuration(ms)}: measure for longer, or with samples closer together`);
  for (const { device, method, methodReason } of disks)
    if (method === 'writes-only')
      notes.push(`${device}: ${methodReason}; each byte that is written counts as a changed one, so less is likely`);
  return notes;
}
