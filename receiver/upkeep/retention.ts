/**
 * Which recovery points a policy keeps and which it drops, each with the reason. Pure: the plan is data, upkeep carries it out by merging deltas
 * exactly between the kept points.
 *
 * Promises:
 * - The newest point is never dropped, nor the newest application-consistent one, nor what is held (pinned, held by name, in use). While the newest lacks a
 *   disk that is protected, the last point that has the disk stays, and the last that has them all.
 * - The answer depends on the points alone, not on when or how often it was asked for: thinning the rest of an earlier plan gives the same points as
 *   thinning all of them at once. So a point that was dropped is never wanted later.
 * - A slot that had a point keeps one, for as long as its tier reaches.
 * - On doubt about clocks more is kept, and the plan says so.
 *
 * How: slots lie fixed in time (multiples of `every`, counted from a Monday, UTC), and a slot grows old as a whole: its points move on to the next tier
 * when the end of the slot is older than `upTo`, so that a longer slot always chooses among whole shorter ones. Of a slot's points the strongest
 * consistency wins, then one of a group of machines (all members that have the same policy choose it, so that it stays whole), then the oldest. That is
 * one fixed order: the best of the bests is the best of all.
 * So a point is kept up to one slot longer than its tier says, never shorter.
 *
 * Age is counted from the newest point, not from now: a machine that stopped replicating keeps what it has.
 */
import { durationText } from '../../shared/config/parse-values.js';
import { RETENTION_SKEW_MS } from '../../shared/limits-retention.js';
import { formatDuration } from '../../shared/units.js';
import type { Consistency } from '../catalog/manifest.js';
import { tierText, type RetentionPolicy, type RetentionTier } from '../catalog/policy.js';

/** What retention looks at; a `RecoveryPoint` is one. */
export interface RetentionPoint {
  readonly number: number;
  readonly cutAtMs: number;
  readonly committedAtMs: number;
  readonly consistency: Consistency;
  /** Set: it was cut together with those of other machines. */
  readonly group?: object | undefined;
  /** Protected disks that it lacks. */
  readonly without?: readonly string[] | undefined;
  /** Those that it has; needed where points lack some. */
  readonly disks?: readonly { readonly disk: string }[] | undefined;
}

export type KeepCode = 'newest' | 'held' | 'tier' | 'application-tier' | 'newest-application' | 'newest-with-disk';
export type DropCode = 'slot-taken' | 'expired';

export interface KeptPoint<P> {
  readonly point: P;
  readonly code: KeepCode;
  /** For people. */
  readonly reason: string;
  /** Index of the tier, where a tier keeps it (also when `code` names something stronger). */
  readonly tier: number | null;
}

export interface DroppedPoint<P> {
  readonly point: P;
  readonly code: DropCode;
  readonly reason: string;
}

export interface RetentionPlan<P> {
  /** Ascending by number; together with `drop` all points. */
  readonly keep: readonly KeptPoint<P>[];
  readonly drop: readonly DroppedPoint<P>[];
  /** Ages are counted from here. */
  readonly referenceMs: number;
  /** What made the plan keep more than the policy says; for the log and people. */
  readonly doubts: readonly string[];
}

/** Point numbers that must stay whatever the policy says, with all reasons: pins, holds, running copies. See held.ts. */
export type HeldPoints = ReadonlyMap<number, readonly string[]>;

/** Slots are counted from a Monday (1970-01-05), so that slots of 7 days are weeks. */
const SLOT_ORIGIN_MS = 4 * 86_400_000;
const STRENGTH: Readonly<Record<Consistency, number>> = { crash: 0, filesystem: 1, application: 2 };

const rankOf = ({ consistency, group }: RetentionPoint): number =>
  2 * STRENGTH[consistency] + (group === undefined ? 0 : 1);

/** `points` ascending by number; one pass for each grid. */
export function planRetention<P extends RetentionPoint>(
  points: readonly P[],
  policy: RetentionPolicy,
  nowMs: number,
  held: HeldPoints,
): RetentionPlan<P> {
  const times = timesOf(points);
  const { referenceMs, doubts } = referenceOf(points, times, nowMs);
  const general = thin(points, times, policy.tiers, referenceMs, () => true);
  const own = thin(points, times, policy.applicationTiers, referenceMs, isApplication);
  const newest = points.length - 1;
  const newestApplication = points.findLastIndex(isApplication);
  const withDisks = newestWithDisks(points);
  const keep: KeptPoint<P>[] = [];
  const drop: DroppedPoint<P>[] = [];
  points.forEach((point, i) => {
    const [byTier, byOwn] = [general[i], own[i]];
    const tier = byTier?.kept === true ? byTier.tier : null;
    const kept = (code: KeepCode, reason: string): void => void keep.push({ point, code, reason, tier });
    const reasons = held.get(point.number);
    if (i === newest) kept('newest', 'the newest point');
    else if (reasons !== undefined) kept('held', reasons.join('; '));
    else if (byTier?.kept === true) kept('tier', byTier.reason());
    else if (byOwn?.kept === true) kept('application-tier', `application-consistent: ${byOwn.reason()}`);
    else if (i === newestApplication) kept('newest-application', 'the newest application-consistent point');
    else if (withDisks.has(i))
      kept('newest-with-disk', `the last point with ${withDisks.get(i) ?? ''}, which the newest lacks`);
    else drop.push({ point, code: byTier?.tier === null ? 'expired' : 'slot-taken', reason: byTier?.reason() ?? '' });
  });
  return { keep, drop, referenceMs, doubts };
}

/** Indexes of the points that alone have what the newest lacks, with the disks' names: a machine whose disk is away for long must not lose all that is whole. */
function newestWithDisks(points: readonly RetentionPoint[]): ReadonlyMap<number, string> {
  const lacking = points.at(-1)?.without ?? [];
  const found = new Map<number, string>();
  if (lacking.length === 0) return found;
  const has = ({ disks = [] }: RetentionPoint, id: string): boolean => disks.some(({ disk }) => disk === id);
  for (const id of lacking)
    found.set(
      points.findLastIndex((point) => has(point, id)),
      `disk ${id}`,
    );
  const whole = points.findLastIndex((point) => lacking.every((id) => has(point, id)));
  if (!found.has(whole)) found.set(whole, `disks ${lacking.join(', ')}`);
  return found;
}

const isApplication = (point: RetentionPoint): boolean => point.consistency === 'application';

/**
 * When each point was, for retention: its cut, unless its commit says that the source's clock was wrong. Never after a later point: a clock that was
 * set back makes the points before it older, not immortal.
 */
function timesOf(points: readonly RetentionPoint[]): Float64Array {
  const times = new Float64Array(points.length);
  let later = Infinity;
  for (let i = points.length - 1; i >= 0; i--) {
    const { cutAtMs, committedAtMs } = points[i] as RetentionPoint;
    const lag = committedAtMs - cutAtMs;
    later = Math.min(later, lag >= 0 && lag <= RETENTION_SKEW_MS ? cutAtMs : committedAtMs);
    times[i] = later;
  }
  return times;
}

/**
 * The time from which ages count: that of the newest point, but not more than the other clocks bear out. One clock that jumps ahead by a year must
 * not make every point a year old: the receiver's is held against the source's, by how far they were apart at the oldest point.
 */
function referenceOf(
  points: readonly RetentionPoint[],
  times: Float64Array,
  nowMs: number,
): { readonly referenceMs: number; readonly doubts: readonly string[] } {
  const [oldest, newest] = [points[0], points.at(-1)];
  if (oldest === undefined || newest === undefined) return { referenceMs: nowMs, doubts: [] };
  const newestMs = times[points.length - 1] as number;
  const apartMs = Math.max(0, oldest.committedAtMs - oldest.cutAtMs);
  const bySourceMs = newest.cutAtMs + apartMs + RETENTION_SKEW_MS;
  const referenceMs = Math.min(newestMs, nowMs, bySourceMs);
  const behindMs = newestMs - referenceMs;
  if (behindMs <= RETENTION_SKEW_MS) return { referenceMs, doubts: [] };
  const whose =
    bySourceMs < nowMs ? "the source's and the receiver's clocks moved apart" : "this clock is behind the receiver's";
  return {
    referenceMs,
    doubts: [
      `${whose} by ${formatDuration(behindMs)}: all points are taken for so much younger and kept so much longer`,
    ],
  };
}

interface Verdict {
  readonly kept: boolean;
  /** Null: older than the last tier. */
  readonly tier: number | null;
  /** Made when asked for: there are many points, and most reasons nobody reads. */
  readonly reason: () => string;
}

const EXPIRED = -1;
const slotOf = (ms: number, everyMs: number): number => Math.floor((ms - SLOT_ORIGIN_MS) / everyMs);

/** The tier that a point of this time is in; -1 when it is past the last one. A whole slot is in one tier: that of its end. */
function tierOf(tiers: readonly RetentionTier[], ms: number, referenceMs: number): number {
  for (let i = 0; i < tiers.length; i++) {
    const { everyMs, upToMs } = tiers[i] as RetentionTier;
    const endMs = everyMs === 0 ? ms : SLOT_ORIGIN_MS + (slotOf(ms, everyMs) + 1) * everyMs;
    if (referenceMs - endMs <= upToMs) return i;
  }
  return EXPIRED;
}

/** One grid over the points that it is for; undefined for the others. Times ascend, so the points of a slot are neighbours: one pass. */
function thin<P extends RetentionPoint>(
  points: readonly P[],
  times: Float64Array,
  tiers: readonly RetentionTier[],
  referenceMs: number,
  concerns: (point: P) => boolean,
): (Verdict | undefined)[] {
  const verdicts = new Array<Verdict | undefined>(points.length);
  if (tiers.length === 0) return verdicts;
  let open: { tier: number; slot: number; best: number; members: number[] } | null = null;
  const close = (): void => {
    if (open === null) return;
    const { best, members } = open;
    const tier = tiers[open.tier] as RetentionTier;
    const fromMs = SLOT_ORIGIN_MS + open.slot * tier.everyMs;
    for (const i of members) verdicts[i] = slotVerdict(points[i] as P, points[best] as P, open.tier, tier, fromMs);
    open = null;
  };
  points.forEach((point, i) => {
    if (!concerns(point)) return;
    const ms = times[i] as number;
    const index = tierOf(tiers, ms, referenceMs);
    const tier = tiers[index];
    if (tier === undefined) {
      close();
      verdicts[i] = { kept: false, tier: null, reason: () => `older than ${reach(tiers)}` };
      return;
    }
    if (tier.everyMs === 0) {
      close();
      verdicts[i] = { kept: true, tier: index, reason: () => tierText(tier) };
      return;
    }
    const slot = slotOf(ms, tier.everyMs);
    if (open === null || open.tier !== index || open.slot !== slot) {
      close();
      open = { tier: index, slot, best: i, members: [i] };
      return;
    }
    open.members.push(i);
    if (rankOf(point) > rankOf(points[open.best] as P)) open.best = i;
  });
  close();
  return verdicts;
}

const reach = (tiers: readonly RetentionTier[]): string => durationText(tiers.at(-1)?.upToMs ?? 0);

function slotVerdict(
  point: RetentionPoint,
  best: RetentionPoint,
  index: number,
  tier: RetentionTier,
  fromMs: number,
): Verdict {
  const slot = (): string =>
    `of the ${durationText(tier.everyMs)} from ${new Date(fromMs).toISOString().slice(0, 16)}Z`;
  if (point === best) return { kept: true, tier: index, reason: () => `${tierText(tier)}: the point ${slot()}` };
  const why = (): string =>
    point.consistency === best.consistency
      ? rankOf(point) === rankOf(best)
        ? 'the oldest'
        : 'one of a group'
      : `${best.consistency}-consistent and this one ${point.consistency}`;
  return {
    kept: false,
    tier: index,
    reason: () => `${tierText(tier)}: point ${best.number} ${slot()} stays, which is ${why()}`,
  };
}
