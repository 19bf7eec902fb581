/**
 * The receiver is killed before and after every request and call that changes something, in every operation: the next start ends where an undisturbed
 * run ends, and at no moment may two write. Requests that only read are left out: being killed there is being killed after the change before.
 */
import { afterAll, describe, expect, it } from 'vitest';
import { removeCopiesFolders } from './fakes.js';
import { run, SCENARIOS } from './scenarios.js';

afterAll(removeCopiesFolders);

describe.each(SCENARIOS)('$name', (scenario) => {
  it('ends the same wherever the receiver is killed', async () => {
    const undisturbed = await run(scenario);
    expect(undisturbed.world.violations).toEqual([]);
    expect(undisturbed.steps).toBeGreaterThan(10);
    expect(undisturbed.changes.length).toBeGreaterThan(5);
    for (const moment of undisturbed.changes.flatMap((step) => [step * 2, step * 2 + 1])) {
      const { world, end, log } = await run(scenario, { diesAt: moment });
      const where = `killed ${moment % 2 === 0 ? 'before' : 'after'} step ${moment >> 1}: ${log.at(-1) ?? ''}`;
      expect(end, where).toEqual(undisturbed.end);
      expect(world.violations, where).toEqual([]);
      removeCopiesFolders();
    }
  }, 120_000);
});
