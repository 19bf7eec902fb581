/**
 * A fixed set of simulated worlds in which machines are failed over and brought home by plan, and tested, while all goes wrong: home is then exactly what
 * its copy was, nothing that was acknowledged is lost by a planned switch in either direction, and nothing of a copy is left.
 */
import { afterAll, describe, expect, it } from 'vitest';
import { SMALL, type FleetPlan, type Plan } from './plan.js';
import { HOME_SEEDS } from './seeds.js';
import { runWorld, type WorldResult } from './world.js';

const FLEET: FleetPlan = {
  machines: [],
  weights: [1, 1, 1],
  joining: 0,
  areAllKnown: true,
  heartbeatMs: 1_000,
  handoversPerMinute: 600,
  faults: new Set(['switchover', 'test-failover']),
};

const PLAN: Partial<Plan> = {
  machines: [SMALL],
  upkeep: null,
  interval: '2s',
  faultyMs: 60_000,
  checks: 1,
  faultEveryMs: 12_000,
  faults: new Set([
    'agent-crash',
    'power-cut',
    'receiver-crash',
    'receiver-stall',
    'agent-stall',
    'partition',
    'connection-loss',
  ]),
  fleet: FLEET,
};

describe('simulated homecomings', () => {
  const results: WorldResult[] = [];
  const sum = (of: (result: WorldResult) => number): number => results.reduce((n, result) => n + of(result), 0);

  it.each(HOME_SEEDS)('seed %d', async (seed) => {
    const result = await runWorld({ seed, plan: PLAN });
    results.push(result);
    expect(result.violations).toEqual([]);
  });

  // Of a part of the worlds that was asked for alone nothing follows.
  afterAll(() => {
    if (results.length < HOME_SEEDS.length) return;
    expect(
      sum(({ homecomings }) => homecomings),
      'homecomings',
    ).toBeGreaterThan(2);
    expect(
      sum(({ plannedFailovers }) => plannedFailovers),
      'planned failovers',
    ).toBeGreaterThan(1);
    expect(
      sum(({ tests }) => tests),
      'tests',
    ).toBeGreaterThan(2);
  });
});

it('a restore whose hash stores had no room goes on when there is room again', async () => {
  const fleet = { ...FLEET, faults: new Set(['switchover'] as const) };
  const { violations, homecomings, faults } = await runWorld({
    seed: 2,
    plan: { ...PLAN, faults: new Set(['state-full']), faultEveryMs: 5_000, fleet },
  });
  expect(violations).toEqual([]);
  expect(homecomings).toBeGreaterThan(0);
  expect(faults.get('state-full')).toBeGreaterThan(0);
});

it('beside tests points go on', async () => {
  const fleet = { ...FLEET, faults: new Set(['test-failover'] as const) };
  const { violations, tests } = await runWorld({ seed: 1, plan: { ...PLAN, faults: new Set(), fleet } });
  expect(violations).toEqual([]);
  expect(tests).toBeGreaterThan(1);
});

it('a seed brings machines home the same way each time, to the last event', async () => {
  const [seed = 0] = HOME_SEEDS;
  const first = await runWorld({ seed, plan: PLAN });
  const second = await runWorld({ seed, plan: PLAN });
  expect(first.homecomings).toBeGreaterThan(0);
  expect(second.traceHash).toBe(first.traceHash);
});
