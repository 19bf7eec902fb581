/**
 * The parts of agent.yaml that limit the agent's load, all of one shape: a limit, and a schedule of others. Every key with its default.
 */
import { z } from 'zod';
import { daysValue, perSecondValue, rateValue, shareValue, timeOfDayValue } from '../../shared/config/values.js';
import { CPU_SHARE_MAX, CPU_SHARE_MIN, IO_RATE_MIN, SCHEDULE_RULES_MAX } from '../../shared/limits-load.js';

/** `expected`: what a limit looks like, for messages. */
function timed(limit: z.ZodType<number>, expected: string) {
  /** In force on these days from `from` to `to`, local time; over midnight when `to` is not after `from`. The first that fits counts. */
  const rule = z.strictObject({
    days: daysValue.prefault('daily'),
    from: timeOfDayValue,
    to: timeOfDayValue,
    /** `none` for no limit. */
    limit: z.union([z.literal('none').transform(() => null), limit], { error: `expected ${expected}, or none` }),
  });
  return z.strictObject({
    /** Outside the schedule. Absent: no limit. */
    limit: limit.optional(),
    schedule: z.array(rule).max(SCHEDULE_RULES_MAX).default([]),
  });
}

const RATE = 'a rate with its unit, such as 20MB/s or 100Mbit/s';

/** Bytes per second that leave this machine. */
export const bandwidthSchema = timed(rateValue, RATE);
export type Bandwidth = z.infer<typeof bandwidthSchema>;

const share = shareValue.refine(
  (value) => value >= CPU_SHARE_MIN && value <= CPU_SHARE_MAX,
  `expected a share of one processor of ${CPU_SHARE_MIN * 100}% to ${CPU_SHARE_MAX * 100}%`,
);

/** Share of one processor that the whole agent uses, over time. */
export const cpuSchema = timed(share, 'a share of one processor, such as 30%');

export const ioSchema = z.strictObject({
  /** Bytes per second read from the protected disks. */
  rate: timed(
    rateValue.refine((value) => value >= IO_RATE_MIN, `expected a rate of at least ${IO_RATE_MIN / 1000}kB/s`),
    `${RATE}, of at least ${IO_RATE_MIN / 1000}kB/s`,
  ).prefault({}),
  /** Reads per second, of up to a megabyte each. */
  requests: timed(perSecondValue, 'a number per second, such as 500/s').prefault({}),
  /** First copies and comparisons are read at idle priority, where the disk's scheduler knows it (BFQ, mq-deadline). */
  idle: z.boolean('expected true or false').default(true),
});
