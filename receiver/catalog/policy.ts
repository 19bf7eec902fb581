/**
 * The policy of a machine: how often its points are made and how long they are kept. Schema, defaults and text only; reading and writing are in
 * policy-io.ts, deciding by it in upkeep/retention.ts.
 *
 * A grid is a list of tiers: `{ every: 1h, upTo: 1d }` keeps one point per hour until it is a day old. Each `every` is a multiple of the one before,
 * so that the point that an hour keeps is one of those that two hours choose from: what was dropped is never wanted later.
 */
import { z } from 'zod';
import { durationValue } from '../../shared/config/values.js';
import { durationText } from '../../shared/config/parse-values.js';
import { RETENTION_DAYS_MAX, RETENTION_TIERS_MAX } from '../../shared/limits-retention.js';
import { DEFAULT_TIERS, type RetentionTier } from '../../shared/retention-cost.js';

export type { RetentionTier };

const SECOND_MS = 1_000;
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

export interface RetentionPolicy {
  /** For points of every consistency, finest first. */
  readonly tiers: readonly RetentionTier[];
  /** For application-consistent points, beside the other grid: a point stays while either keeps it. Empty: none of their own. */
  readonly applicationTiers: readonly RetentionTier[];
}

const everyValue = z
  .union([z.literal('all'), durationValue(SECOND_MS, RETENTION_DAYS_MAX * DAY_MS, `1s to ${RETENTION_DAYS_MAX}d`)], {
    error: `expected "all" or a duration of 1s to ${RETENTION_DAYS_MAX}d, such as 1h`,
  })
  .transform((every) => (every === 'all' ? 0 : every));

const tierSchema = z
  .strictObject({
    every: everyValue,
    upTo: durationValue(SECOND_MS, RETENTION_DAYS_MAX * DAY_MS, `1s to ${RETENTION_DAYS_MAX}d`),
  })
  .transform(({ every, upTo }): RetentionTier => ({ everyMs: every, upToMs: upTo }));

/** What is wrong with tier `i`; null when nothing is. */
function tierProblem(
  tiers: readonly RetentionTier[],
  i: number,
): { readonly key: string; readonly what: string } | null {
  const [tier, before] = [tiers[i], tiers[i - 1]];
  if (tier === undefined) return null;
  if (tier.everyMs > tier.upToMs) return { key: 'every', what: 'expected no more than upTo of the same line' };
  if (before === undefined) return null;
  if (tier.upToMs <= before.upToMs)
    return {
      key: 'upTo',
      what: `expected more than ${durationText(before.upToMs)}, up to which the line before keeps`,
    };
  if (tier.everyMs === 0 || tier.everyMs <= before.everyMs)
    return { key: 'every', what: 'expected a longer distance than in the line before' };
  if (before.everyMs > 0 && tier.everyMs % before.everyMs !== 0)
    return { key: 'every', what: `expected a multiple of ${durationText(before.everyMs)}, as the line before has` };
  return null;
}

const gridSchema = z
  .array(tierSchema)
  .max(RETENTION_TIERS_MAX, `expected ${RETENTION_TIERS_MAX} lines at most`)
  .superRefine((tiers, context) => {
    tiers.forEach((_, i) => {
      const problem = tierProblem(tiers, i);
      if (problem !== null) context.addIssue({ code: 'custom', path: [i, problem.key], message: problem.what });
    });
  });

export const DEFAULT_RETENTION: RetentionPolicy = { tiers: DEFAULT_TIERS, applicationTiers: [] };

/** As people write it (YAML) → what programs use. All keys are optional. */
export const policySchema = z
  .strictObject({
    /** Distance of points. Unset: what the agent's own configuration says. */
    interval: durationValue(SECOND_MS, DAY_MS, '1s to 24h').optional(),
    /** Distance of application-consistent points. Unset: what the agent's own configuration says. */
    applicationInterval: durationValue(SECOND_MS, 7 * DAY_MS, '1s to 7d').optional(),
    retention: gridSchema.refine((tiers) => tiers.length > 0, 'expected at least one line').optional(),
    applicationRetention: gridSchema.default([]),
  })
  .transform(({ interval, applicationInterval, retention, applicationRetention }): MachinePolicy => ({
    intervalMs: interval ?? null,
    applicationIntervalMs: applicationInterval ?? null,
    retention: { tiers: retention ?? DEFAULT_RETENTION.tiers, applicationTiers: applicationRetention },
  }));

export interface MachinePolicy {
  readonly intervalMs: number | null;
  readonly applicationIntervalMs: number | null;
  readonly retention: RetentionPolicy;
}

export const DEFAULT_POLICY: MachinePolicy = {
  intervalMs: null,
  applicationIntervalMs: null,
  retention: DEFAULT_RETENTION,
};

/** "all up to 2h, every 1h up to 1d" */
export const gridText = (tiers: readonly RetentionTier[]): string => tiers.map(tierText).join(', ');

export const tierText = ({ everyMs, upToMs }: RetentionTier): string =>
  `${everyMs === 0 ? 'all' : `every ${durationText(everyMs)}`} up to ${durationText(upToMs)}`;
