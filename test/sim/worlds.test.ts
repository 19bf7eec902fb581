/**
 * A fixed set of simulated worlds: whatever goes wrong in them, every listed point is what the disks held, and all heal.
 */
import { describe, expect, it } from 'vitest';
import { FAULTY_MS, SEEDS } from './seeds.js';
import { runWorld } from './world.js';

describe('simulated worlds', () => {
  it.each(SEEDS)('seed %d', async (seed) => {
    const result = await runWorld({ seed, plan: { faultyMs: FAULTY_MS } });
    expect(result.violations).toEqual([]);
    expect(result.checkedPoints).toBeGreaterThan(0);
  });
});

describe('a seed', () => {
  it('makes the same world each time, to the last event', async () => {
    const plan = { faultyMs: 15_000 };
    const first = await runWorld({ seed: 42, plan });
    const second = await runWorld({ seed: 42, plan });
    expect(first.events).toBeGreaterThan(200);
    expect(second.traceHash).toBe(first.traceHash);
    expect((await runWorld({ seed: 43, plan })).traceHash).not.toBe(first.traceHash);
  });
});
