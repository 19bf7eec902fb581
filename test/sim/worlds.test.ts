/**
 * A fixed set of simulated worlds: whatever goes wrong in them, every listed point is what the disks held, and all heal.
 */
import { describe, expect, it } from 'vitest';
import { SEEDS } from './seeds.js';
import { runWorld } from './world.js';

describe('simulated worlds', () => {
  it.each(SEEDS)('seed $seed: $why', async ({ seed }) => {
    const result = await runWorld({ seed });
    expect(result.violations).toEqual([]);
    expect(result.points).toBeGreaterThan(0);
    expect(result.checkedPoints).toBeGreaterThanOrEqual(result.points);
  });
});

describe('a seed', () => {
  it('makes the same world each time, to the last event', async () => {
    const plan = { faultyMs: 20_000 };
    const first = await runWorld({ seed: 42, plan });
    const second = await runWorld({ seed: 42, plan });
    expect(first.events).toBeGreaterThan(1_000);
    expect(second.traceHash).toBe(first.traceHash);
    expect((await runWorld({ seed: 43, plan })).traceHash).not.toBe(first.traceHash);
  });
});
