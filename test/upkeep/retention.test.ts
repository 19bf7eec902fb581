/**
 * Retention: what is kept follows from the points alone, never from when or how often it was asked; and what must stay stays.
 */
import { describe, expect, test } from 'vitest';
import type { Consistency } from '../../receiver/catalog/manifest.js';
import { DEFAULT_RETENTION, type RetentionPolicy, type RetentionTier } from '../../receiver/catalog/policy.js';
import { planRetention, type RetentionPoint } from '../../receiver/upkeep/retention.js';
import { between, randomOf, type Random } from '../helpers/random.js';

const MIN = 60_000;
const HOUR = 60 * MIN;
const DAY = 24 * HOUR;
const START = Date.parse('2026-03-02T00:00:00Z');
const NONE = new Map<number, readonly string[]>();
const SEEDS = [1, 2, 3, 4, 5, 6, 7, 8];

const point = (number: number, atMs: number, consistency: Consistency = 'crash'): RetentionPoint => ({
  number,
  cutAtMs: atMs,
  committedAtMs: atMs + 800,
  consistency,
});
const numbers = (kept: readonly { readonly point: RetentionPoint }[]): number[] => kept.map((k) => k.point.number);
const keepOf = (points: readonly RetentionPoint[], policy: RetentionPolicy, nowMs: number): RetentionPoint[] =>
  planRetention(points, policy, nowMs, NONE).keep.map((k) => k.point);
const tiersOnly = (tiers: readonly RetentionTier[]): RetentionPolicy => ({ tiers, applicationTiers: [] });

const CHOICES: readonly Consistency[] = ['crash', 'crash', 'crash', 'crash', 'filesystem', 'application'];

/** Points with pauses and changing distances and levels. */
function history(random: Random, count: number, stepMs: number): RetentionPoint[] {
  let atMs = START + between(random, 0, DAY);
  return Array.from({ length: count }, (_, i) => {
    atMs += stepMs + between(random, 0, stepMs);
    if (random() < 0.01) atMs += between(random, 0, 10 * HOUR);
    return point(i + 1, atMs, CHOICES[between(random, 0, CHOICES.length)]);
  });
}

/** A grid that the schema would take. */
function anyGrid(random: Random): RetentionTier[] {
  const tiers: RetentionTier[] = [];
  let everyMs = random() < 0.5 ? 0 : between(random, 1, 30) * MIN;
  let upToMs = everyMs + between(random, 1, 180) * MIN;
  for (let i = 0; i < between(random, 1, 5); i++) {
    tiers.push({ everyMs, upToMs });
    everyMs = everyMs === 0 ? between(random, 5, 60) * MIN : everyMs * between(random, 2, 5);
    upToMs = Math.max(upToMs + 1, everyMs) + between(random, 0, 2 * DAY);
  }
  return tiers;
}

/** Thinned again and again while the points come in, at moments that the seed picks. */
function runOften(
  points: readonly RetentionPoint[],
  policy: RetentionPolicy,
  random: Random,
  often: number,
): RetentionPoint[] {
  let kept: RetentionPoint[] = [];
  for (const p of points) {
    kept.push(p);
    if (random() < often) kept = keepOf(kept, policy, p.committedAtMs + between(random, 0, HOUR));
  }
  return kept;
}

describe('what is kept does not depend on when upkeep ran', () => {
  test('three weeks of points, thinned at each of them: the same as thinned once', () => {
    // Every 5 s at the end alone: planning at each of 360,000 points would show nothing more.
    const coarse = Array.from({ length: 21 * 24 * 6 }, (_, i) => START + i * 10 * MIN);
    const fine = Array.from({ length: 720 }, (_, i) => START + 21 * DAY + i * 5_000);
    const points = [...coarse, ...fine].map((atMs, i) => point(i + 1, atMs, i % 97 === 0 ? 'application' : 'crash'));
    const nowMs = START + 30 * DAY;
    const often = runOften(points, DEFAULT_RETENTION, randomOf(1), 1);
    expect(keepOf(often, DEFAULT_RETENTION, nowMs)).toEqual(keepOf(points, DEFAULT_RETENTION, nowMs));
  });

  test.each(SEEDS)('any grid, any points, thinned at any moments (seed %i)', (seed) => {
    const random = randomOf(seed);
    for (let round = 0; round < 12; round++) {
      const policy = { tiers: anyGrid(random), applicationTiers: random() < 0.5 ? anyGrid(random) : [] };
      const points = history(random, 400, between(random, 1, 40) * MIN);
      const nowMs = (points.at(-1)?.committedAtMs ?? 0) + 1;
      const often = keepOf(runOften(points, policy, random, random()), policy, nowMs);
      expect(often, `round ${round}`).toEqual(keepOf(points, policy, nowMs));
    }
  });

  test('the point of an hour is the one that two hours keep', () => {
    const points = Array.from({ length: 400 }, (_, i) =>
      point(i + 1, START + i * 10 * MIN, i % 7 === 0 ? 'filesystem' : 'crash'),
    );
    const hourly = keepOf(points, tiersOnly([{ everyMs: HOUR, upToMs: 30 * DAY }]), START + 30 * DAY);
    const twoHourly = keepOf(points, tiersOnly([{ everyMs: 2 * HOUR, upToMs: 30 * DAY }]), START + 30 * DAY);
    expect(hourly).toEqual(expect.arrayContaining(twoHourly));
  });
});

describe('a slot keeps one', () => {
  test.each(SEEDS)('each slot that had a point has one for as long as its tier reaches (seed %i)', (seed) => {
    const random = randomOf(100 + seed);
    const tiers = [
      { everyMs: 0, upToMs: 2 * HOUR },
      { everyMs: HOUR, upToMs: DAY },
      { everyMs: 2 * HOUR, upToMs: 7 * DAY },
    ];
    const points = history(random, 3_000, 2 * MIN);
    const newest = points.at(-1) as RetentionPoint;
    const kept = keepOf(points, tiersOnly(tiers), newest.committedAtMs);
    for (const p of points) {
      const ageMs = newest.cutAtMs - p.cutAtMs;
      if (ageMs > 7 * DAY) continue;
      const everyMs = ageMs <= 2 * HOUR ? 1 : ageMs <= DAY ? HOUR : 2 * HOUR;
      const slot = Math.floor(p.cutAtMs / everyMs);
      expect(
        kept.some((k) => Math.floor(k.cutAtMs / everyMs) === slot),
        `slot of point ${p.number}`,
      ).toBe(true);
    }
    // And not more than one per slot beyond the first tier, or nothing would be thinned.
    const hours = kept.filter((k) => newest.cutAtMs - k.cutAtMs > 2 * HOUR && newest.cutAtMs - k.cutAtMs <= 22 * HOUR);
    expect(new Set(hours.map((k) => Math.floor(k.cutAtMs / HOUR))).size).toBeGreaterThanOrEqual(hours.length - 1);
  });

  test('of a slot the strongest consistency stays, then the oldest', () => {
    const policy = tiersOnly([{ everyMs: HOUR, upToMs: DAY }]);
    const at = (minute: number): number => START + minute * MIN;
    const points = [
      point(1, at(0)),
      point(2, at(10), 'filesystem'),
      point(3, at(20), 'application'),
      point(4, at(30), 'application'),
      point(5, at(60)),
      point(6, at(70)),
      point(7, at(120), 'application'),
    ];
    const plan = planRetention(points, policy, at(130), NONE);
    expect(numbers(plan.keep)).toEqual([3, 5, 7]);
    expect(plan.drop.map((d) => [d.point.number, d.code])).toEqual([1, 2, 4, 6].map((n) => [n, 'slot-taken']));
    expect(plan.drop[0]?.reason).toContain('point 3');
    expect(plan.drop[0]?.reason).toContain('application-consistent and this one crash');
  });

  test('members of a group that have the same policy keep the same points of it, whatever they make for themselves', () => {
    const policy = tiersOnly([
      { everyMs: HOUR, upToMs: DAY },
      { everyMs: 4 * HOUR, upToMs: 30 * DAY },
    ]);
    // A point of the group every 50 minutes; each machine's own come at other times, and are as consistent.
    const kept = [7, 11].map((everyMinutes) => {
      const times = new Map<number, object | undefined>();
      for (let minute = 0; minute < 3 * 24 * 60; minute += everyMinutes) times.set(START + minute * MIN, undefined);
      for (let i = 0; i < 86; i++) times.set(START + (13 + 50 * i) * MIN + 500, { point: `group ${i}` });
      const points = [...times]
        .sort(([a], [b]) => a - b)
        .map(([ms, group], i) => ({ ...point(i + 1, ms, 'application'), ...(group === undefined ? {} : { group }) }));
      const plan = planRetention(points, policy, START + 3 * DAY, NONE);
      expect(plan.drop.some(({ reason }) => reason.includes('which is one of a group'))).toBe(true);
      return plan.keep.flatMap(({ point: { group } }) => (group as { point: string } | undefined)?.point ?? []);
    });
    expect(kept[0]?.length).toBeGreaterThan(20);
    expect(kept[1]).toEqual(kept[0]);
  });

  test('weeks begin on Monday', () => {
    const policy = tiersOnly([{ everyMs: 7 * DAY, upToMs: 70 * DAY }]);
    const sunday = START - HOUR;
    const points = [
      point(1, sunday - DAY),
      point(2, sunday),
      point(3, START),
      point(4, START + 2 * DAY),
      point(5, START + 9 * DAY),
    ];
    expect(numbers(planRetention(points, policy, START + 9 * DAY, NONE).keep)).toEqual([1, 3, 5]);
  });

  test('application-consistent points have a grid of their own beside the other', () => {
    const policy: RetentionPolicy = {
      tiers: [{ everyMs: 0, upToMs: HOUR }],
      applicationTiers: [{ everyMs: DAY, upToMs: 30 * DAY }],
    };
    const points = Array.from({ length: 120 }, (_, i) =>
      point(i + 1, START + i * 2 * HOUR, i % 6 === 0 ? 'application' : 'crash'),
    );
    const plan = planRetention(points, policy, START + 20 * DAY, NONE);
    expect(numbers(plan.keep)).toEqual([1, 13, 25, 37, 49, 61, 73, 85, 97, 109, 115, 120]);
    expect(plan.keep.find((k) => k.point.number === 115)?.code).toBe('newest-application');
    expect(plan.keep[0]?.code).toBe('application-tier');
  });
});

describe('what must stay', () => {
  test('while the newest point lacks a disk: the last with that disk, and the last with all of them', () => {
    const policy: RetentionPolicy = { tiers: [{ everyMs: 0, upToMs: HOUR }], applicationTiers: [] };
    // Both disks to 3, then without b to 6 (c is given up at 5), then without a and b.
    const of = (number: number, disks: string[], without?: string[]): RetentionPoint => ({
      ...point(number, START + number * DAY),
      disks: disks.map((disk) => ({ disk })),
      ...(without === undefined ? {} : { without }),
    });
    const points = [
      of(1, ['a', 'b', 'c']),
      of(2, ['a', 'b', 'c']),
      of(3, ['a', 'b', 'c']),
      of(4, ['a', 'c'], ['b']),
      of(5, ['a'], ['b']),
      of(6, ['a'], ['b']),
      of(7, ['d'], ['a', 'b']),
      of(8, ['d'], ['a', 'b']),
    ];
    const plan = planRetention(points, policy, START + 8 * DAY, NONE);
    expect(numbers(plan.keep)).toEqual([3, 6, 8]);
    expect(plan.keep[0]).toMatchObject({
      code: 'newest-with-disk',
      reason: 'the last point with disk b, which the newest lacks',
    });
    expect(numbers(planRetention(points.slice(0, 6), policy, START + 6 * DAY, NONE).keep)).toEqual([3, 6]);
    // Whole again, or given up: nothing is held any more.
    const again = [...points, of(9, ['a', 'b', 'd'])];
    expect(numbers(planRetention(again, policy, START + 9 * DAY, NONE).keep)).toEqual([9]);
  });

  test.each(SEEDS)('the newest point and everything held, whatever the grid (seed %i)', (seed) => {
    const random = randomOf(200 + seed);
    for (let round = 0; round < 20; round++) {
      const points = history(random, 1 + between(random, 0, 200), 7 * MIN);
      const held = new Map<number, readonly string[]>();
      for (let i = 0; i < 5; i++) held.set(between(random, 1, points.length + 1), ['held as LEGAL-17']);
      const plan = planRetention(points, tiersOnly(anyGrid(random)), START + between(random, 0, 400) * DAY, held);
      const kept = new Set(numbers(plan.keep));
      expect(kept.has(points.length)).toBe(true);
      for (const number of held.keys()) expect(kept.has(number)).toBe(true);
      expect([...numbers(plan.keep), ...numbers(plan.drop)].sort((a, b) => a - b)).toEqual(points.map((p) => p.number));
    }
  });

  test('why a held point is kept is said in full', () => {
    const points = [point(1, START), point(2, START + 40 * DAY)];
    const held = new Map([[1, ['held as LEGAL-17', 'pinned: restore on host1']]]);
    const plan = planRetention(points, DEFAULT_RETENTION, START + 40 * DAY, held);
    expect(plan.keep.map((k) => [k.code, k.reason])).toEqual([
      ['held', 'held as LEGAL-17; pinned: restore on host1'],
      ['newest', 'the newest point'],
    ]);
    expect(planRetention(points, DEFAULT_RETENTION, START + 40 * DAY, NONE).drop.map((d) => d.code)).toEqual([
      'expired',
    ]);
  });

  test('a machine that stopped replicating keeps what it has', () => {
    const points = history(randomOf(7), 300, 20 * MIN);
    const newest = points.at(-1) as RetentionPoint;
    const then = numbers(planRetention(points, DEFAULT_RETENTION, newest.committedAtMs, NONE).keep);
    expect(numbers(planRetention(points, DEFAULT_RETENTION, newest.committedAtMs + 1_000 * DAY, NONE).keep)).toEqual(
      then,
    );
  });

  test('no points, no plan', () => {
    expect(planRetention([], DEFAULT_RETENTION, START, NONE)).toEqual({
      keep: [],
      drop: [],
      referenceMs: START,
      doubts: [],
    });
  });
});

describe('clocks that are wrong', () => {
  const regular = Array.from({ length: 200 }, (_, i) => point(i + 1, START + i * MIN));
  const all = (points: readonly RetentionPoint[], nowMs: number): number =>
    planRetention(points, DEFAULT_RETENTION, nowMs, NONE).drop.filter((d) => d.code === 'expired').length;

  test("the receiver's clock jumps ahead by a year: nothing expires, and the plan says why", () => {
    const next = {
      number: 201,
      cutAtMs: START + 200 * MIN,
      committedAtMs: START + 365 * DAY,
      consistency: 'crash' as const,
    };
    expect(all([...regular, next], START + 365 * DAY)).toBe(0);
    expect(planRetention([...regular, next], DEFAULT_RETENTION, START + 365 * DAY, NONE).doubts).toHaveLength(1);
  });

  test('it was ahead and is set right: its points age like those after them', () => {
    const ahead = {
      number: 201,
      cutAtMs: START + 200 * MIN,
      committedAtMs: START + 365 * DAY,
      consistency: 'crash' as const,
    };
    const later = Array.from({ length: 100 }, (_, i) => point(202 + i, START + 30 * DAY + i * MIN));
    const plan = planRetention(
      [...regular, ahead, ...later],
      tiersOnly([{ everyMs: 0, upToMs: HOUR }]),
      START + 31 * DAY,
      NONE,
    );
    // Point 201 counts as old as 202, not as one from next year.
    expect(numbers(plan.keep)).toEqual(later.slice(-61).map((p) => p.number));
  });

  test("the source's clock is at 1970, or a century ahead, for a while: its points count by their commits", () => {
    for (const cutAtMs of [0, START + 36_500 * DAY]) {
      const odd = Array.from({ length: 30 }, (_, i) => ({
        ...point(201 + i, START + (200 + i) * MIN),
        cutAtMs: cutAtMs + i * MIN,
      }));
      const after = point(231, START + 231 * MIN);
      expect(all([...regular, ...odd], START + 230 * MIN)).toBe(0);
      const kept = keepOf([...regular, ...odd, after], tiersOnly([{ everyMs: 0, upToMs: HOUR }]), START + 232 * MIN);
      expect(kept.map((p) => p.number)).toEqual([
        ...regular.filter((p) => p.number > 171).map((p) => p.number),
        ...odd.map((p) => p.number),
        231,
      ]);
    }
  });

  test('a source whose clock is always off by hours is thinned like any other', () => {
    const off = regular.map((p) => ({ ...p, cutAtMs: p.cutAtMs - 7 * HOUR }));
    const plan = planRetention(off, DEFAULT_RETENTION, START + 200 * MIN, NONE);
    expect(plan.doubts).toEqual([]);
    expect(numbers(plan.keep)).toEqual(
      numbers(
        planRetention(
          regular.map((p) => ({ ...p, cutAtMs: p.committedAtMs })),
          DEFAULT_RETENTION,
          START + 200 * MIN,
          NONE,
        ).keep,
      ),
    );
  });
});

test('cost is that of one pass: each point is looked at a fixed number of times', () => {
  const looks = (count: number): number => {
    let seen = 0;
    const points = Array.from({ length: count }, (_, i) => {
      const plain = point(i + 1, START + i * MIN, i % 9 === 0 ? 'application' : 'crash');
      return Object.defineProperty({ ...plain }, 'consistency', { get: () => (seen++, plain.consistency) });
    });
    planRetention(
      points,
      { ...DEFAULT_RETENTION, applicationTiers: [{ everyMs: DAY, upToMs: 90 * DAY }] },
      START + 400 * DAY,
      NONE,
    );
    return seen / count;
  };
  expect(looks(20_000)).toBeLessThan(looks(1_000) * 1.5);
});
