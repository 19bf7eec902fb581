/**
 * A fixed set of simulated worlds: whatever goes wrong in them, every listed point is what the disks held, and all heal.
 */
import { afterAll, describe, expect, it } from 'vitest';
import { FAULTY_MS, SEEDS } from './seeds.js';
import { runWorld, type WorldResult } from './world.js';

describe('simulated worlds', () => {
  const results: WorldResult[] = [];
  const sum = (of: (result: WorldResult) => number): number => results.reduce((n, result) => n + of(result), 0);

  it.each(SEEDS)('seed %d', async (seed) => {
    const result = await runWorld({ seed, plan: { faultyMs: FAULTY_MS, fleet: null } });
    results.push(result);
    expect(result.violations).toEqual([]);
    expect(result.checkedPoints).toBeGreaterThan(0);
  });

  // Of a part of the worlds that was asked for alone nothing follows.
  afterAll(() => {
    if (results.length < SEEDS.length) return;
    expect(
      sum(({ encrypted }) => encrypted),
      'encrypted machines',
    ).toBeGreaterThan(0);
    expect(
      sum(({ rotations }) => rotations),
      'new keys',
    ).toBeGreaterThan(0);
    expect(
      sum(({ holds }) => holds),
      'holds',
    ).toBeGreaterThan(0);
    expect(
      sum(({ rot }) => rot.mended),
      'mended objects',
    ).toBeGreaterThan(0);
    expect(
      sum(({ rot }) => rot.lost),
      'objects that are named as lost',
    ).toBeGreaterThan(0);
  });
});

describe('a seed', () => {
  // The second has operators, and machines that are encrypted.
  it.each([42, 970])('%d makes the same world each time, to the last event', async (seed) => {
    const plan = { faultyMs: 15_000 };
    const first = await runWorld({ seed, plan });
    const second = await runWorld({ seed, plan });
    expect(first.events).toBeGreaterThan(200);
    expect(second.traceHash).toBe(first.traceHash);
    expect((await runWorld({ seed: seed + 1, plan })).traceHash).not.toBe(first.traceHash);
  });
});
