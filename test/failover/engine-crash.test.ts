/**
 * The receiver is killed before and after every request to the store and every call of a part, in every operation: the next start ends where an
 * undisturbed run ends, and at no moment may two write.
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
    for (let moment = 0; moment < undisturbed.steps * 2; moment++) {
      const { world, end, log } = await run(scenario, { diesAt: moment });
      const where = `killed ${moment % 2 === 0 ? 'before' : 'after'} step ${moment >> 1}: ${log.at(-1) ?? ''}`;
      expect(end, where).toEqual(undisturbed.end);
      expect(world.violations, where).toEqual([]);
      removeCopiesFolders();
    }
  }, 120_000);
});
