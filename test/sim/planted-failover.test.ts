/**
 * Bugs planted in failover: who may write while a machine changes hands, and with which point its copy begins. As in planted.test.ts each must be caught.
 */
import { afterEach, expect, it, vi } from 'vitest';
import { steadyFleet, steadyPlan, violationsWith, type Hunt } from './bug.js';
import type { Plan } from './plan.js';

const PLAN: Partial<Plan> = { ...steadyPlan(8_000), fleet: steadyFleet('failover') };

type Bug = 'no-new-generation' | 'home-is-let-in' | 'an-older-point' | null;
const planted = vi.hoisted((): { bug: Bug } => ({ bug: null }));

vi.mock('../../receiver/failover/take-generation.js', async (original) => {
  const real = await original<typeof import('../../receiver/failover/take-generation.js')>();
  return {
    takeGeneration: (...args: Parameters<typeof real.takeGeneration>) =>
      planted.bug === 'no-new-generation' ? Promise.resolve(args[3]) : real.takeGeneration(...args),
  };
});

vi.mock('../../receiver/catalog/recovery-io.js', async (original) => {
  const real = await original<typeof import('../../receiver/catalog/recovery-io.js')>();
  return {
    ...real,
    loadRecovery: async (...args: Parameters<typeof real.loadRecovery>) => {
      const recovery = await real.loadRecovery(...args);
      if (planted.bug !== 'home-is-let-in' || recovery?.home.mode !== 'refused') return recovery;
      return { ...recovery, home: { mode: 'replicate', generation: recovery.failover?.generation ?? 1 } };
    },
  };
});

vi.mock('../../receiver/failover/choose-point.js', async (original) => {
  const real = await original<typeof import('../../receiver/failover/choose-point.js')>();
  return {
    ...real,
    choosePoint: async (...args: Parameters<typeof real.choosePoint>) => {
      const chosen = await real.choosePoint(...args);
      const number = chosen.point.number - 2;
      if (planted.bug !== 'an-older-point' || number < 1) return chosen;
      return { ...chosen, point: await chosen.view.findPoint({ by: 'number', number }) };
    },
  };
});

interface Planted {
  readonly bug: Exclude<Bug, null>;
  readonly what: string;
  /** What the world says of it. */
  readonly says: RegExp;
  readonly hunt?: Hunt;
}

const PLANTED: readonly Planted[] = [
  {
    bug: 'no-new-generation',
    what: 'a copy writes without a generation of its own',
    says: /adds point \d+ of copy, and its generation 1 is that of a home/,
  },
  {
    bug: 'home-is-let-in',
    what: 'a source that was failed over goes on',
    says: /adds point \d+ of home, and its generation \d+ is that of a copy/,
  },
  {
    bug: 'an-older-point',
    what: 'a copy begins with an older point than the newest',
    says: /runs from point \d+, and its agent was told of \d+/,
  },
];

afterEach(() => {
  planted.bug = null;
});

it.each(PLANTED)('is caught: $what', async ({ bug, hunt, says }) => {
  planted.bug = bug;
  expect((await violationsWith(PLAN, {}, hunt)).join('\n')).toMatch(says);
});
