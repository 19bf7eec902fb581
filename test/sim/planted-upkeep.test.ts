/**
 * Bugs planted in upkeep, retention and takeovers: modules are replaced by ones with a guard missing. As in planted.test.ts each must be caught.
 */
import { afterEach, describe, expect, it, vi } from 'vitest';
import { KIB, MIB } from '../../shared/units.js';
import { violationsWith, type Hunt } from './bug.js';
import type { MachineShape } from './machine.js';
import type { Plan, UpkeepPlan } from './plan.js';

type Bug =
  | 'gc-by-age'
  | 'gc-forgets-pages'
  | 'merge-drops-zeroes'
  | 'no-boundary-check'
  | 'ignores-pins'
  | 'ignores-holds'
  | 'confirms-at-once'
  | 'concerns-nothing'
  | 'mends-in-words'
  | null;
const planted = vi.hoisted((): { bug: Bug } => ({ bug: null }));

// Few manifests stay, so that numbers come back within a short world.
vi.mock('../../shared/limits-upkeep.js', async (original) => ({
  ...(await original<typeof import('../../shared/limits-upkeep.js')>()),
  MANIFESTS_KEPT: 4,
  BOUNDARY_STEP: 3,
}));

vi.mock('../../receiver/upkeep/gc-plan.js', async (original) => {
  const real = await original<typeof import('../../receiver/upkeep/gc-plan.js')>();
  return {
    ...real,
    gcPlan: (input: Parameters<typeof real.gcPlan>[0]) => {
      if (planted.bug === 'gc-by-age') return real.gcPlan({ ...input, isInFlight: () => false });
      if (planted.bug === 'ignores-pins') return real.gcPlan({ ...input, pins: [] });
      return real.gcPlan(input);
    },
    namesOf: (history: Parameters<typeof real.namesOf>[0]) => {
      const names = real.namesOf(history);
      if (planted.bug === 'gc-forgets-pages') for (const { name } of history.manifest.pages) names.delete(name);
      return names;
    },
  };
});

vi.mock('../../receiver/upkeep/winners.js', async (original) => {
  const real = await original<typeof import('../../receiver/upkeep/winners.js')>();
  return {
    ...real,
    winnersOf: (...args: Parameters<typeof real.winnersOf>) => {
      const winners = real.winnersOf(...args);
      if (planted.bug !== 'merge-drops-zeroes') return winners;
      return winners.map((winner) => ({ ...winner, work: { ...winner.work, zeroes: [] } }));
    },
  };
});

vi.mock('../../receiver/upkeep/retention.js', async (original) => {
  const real = await original<typeof import('../../receiver/upkeep/retention.js')>();
  return {
    ...real,
    planRetention: (...args: Parameters<typeof real.planRetention>) => {
      if (planted.bug !== 'ignores-pins') return real.planRetention(...args);
      const [points, policy, nowMs] = args;
      return real.planRetention(points, policy, nowMs, new Map());
    },
  };
});

vi.mock('../../receiver/catalog/holds.js', async (original) => {
  const real = await original<typeof import('../../receiver/catalog/holds.js')>();
  return {
    ...real,
    readHolds: (...args: Parameters<typeof real.readHolds>) =>
      planted.bug === 'ignores-holds' ? Promise.resolve([]) : real.readHolds(...args),
    confirmHold: (...args: Parameters<typeof real.confirmHold>) =>
      planted.bug === 'confirms-at-once' ? Promise.resolve('kept') : real.confirmHold(...args),
  };
});

vi.mock('../../receiver/upkeep/scrub-concern.js', async (original) => {
  const real = await original<typeof import('../../receiver/upkeep/scrub-concern.js')>();
  return {
    ...real,
    concernOfLayer: async (...args: Parameters<typeof real.concernOfLayer>) => {
      const concern = await real.concernOfLayer(...args);
      return planted.bug === 'concerns-nothing' ? { ...concern, points: [] } : concern;
    },
  };
});

vi.mock('../../receiver/upkeep/scrub-small.js', async (original) => {
  const real = await original<typeof import('../../receiver/upkeep/scrub-small.js')>();
  return {
    ...real,
    mendSmall: (...args: Parameters<typeof real.mendSmall>) =>
      planted.bug === 'mends-in-words'
        ? Promise.resolve({ state: 'repaired', reason: 'planted' })
        : real.mendSmall(...args),
  };
});

vi.mock('../../receiver/catalog/manifest-io.js', async (original) => {
  const real = await original<typeof import('../../receiver/catalog/manifest-io.js')>();
  return {
    ...real,
    readBoundary: (...args: Parameters<typeof real.readBoundary>) =>
      planted.bug === 'no-boundary-check' ? Promise.resolve(0) : real.readBoundary(...args),
  };
});

const upkeep: UpkeepPlan = {
  intervalMs: 2_000,
  deletionDelayMs: 1_000,
  policy: {
    tiers: [
      { everyMs: 0, upToMs: 10_000 },
      { everyMs: 5_000, upToMs: 30_000 },
    ],
    applicationTiers: [],
  },
  readers: 0,
  operators: 0,
  scrubEveryMs: null,
};

interface Case {
  readonly what: string;
  readonly bug: Exclude<Bug, null>;
  readonly plan: Partial<Plan>;
  readonly hunt?: Hunt;
}

/** Three segments, so that a sweep's layers wait for the rest of it; calm enough for cuts. */
const swept: MachineShape = {
  disks: [{ sizeBytes: 130 * MIB, blockBytes: 64 * KIB }],
  workload: { writers: 2, thinkMs: 100, deviceMs: 5, hotShare: 1, burstBlocks: 4, burstChance: 0, raceChance: 0 },
};
const keepsAll: UpkeepPlan = { ...upkeep, policy: { tiers: [{ everyMs: 0, upToMs: 600_000 }], applicationTiers: [] } };

const rotting: Partial<Plan> = {
  faults: new Set(['bit-rot']),
  faultEveryMs: 5_000,
  faultyMs: 30_000,
  upkeep: { ...upkeep, scrubEveryMs: 10_000 },
};

const CASES: readonly Case[] = [
  {
    what: 'garbage is collected by its age alone, not by who may still need it',
    bug: 'gc-by-age',
    plan: {
      machines: [swept],
      faults: new Set(['agent-stall', 'power-cut']),
      faultEveryMs: 3_000,
      upkeep: { ...upkeep, intervalMs: 500, deletionDelayMs: 100 },
    },
  },
  {
    what: 'garbage collection forgets what history pages are',
    bug: 'gc-forgets-pages',
    plan: { faultyMs: 100_000, upkeep: keepsAll },
  },
  { what: 'a merge is not the union: zero runs are left out', bug: 'merge-drops-zeroes', plan: {} },
  { what: 'what is pinned is dropped and deleted', bug: 'ignores-pins', plan: { upkeep: { ...upkeep, readers: 3 } } },
  {
    what: 'what is held by name is dropped',
    bug: 'ignores-holds',
    plan: { upkeep: { ...upkeep, operators: 1 } },
  },
  {
    what: 'a hold is told to be kept before anybody who drops points must have seen it',
    bug: 'confirms-at-once',
    hunt: { from: 1007 },
    plan: { storeLatencyMs: 40, upkeep: { ...upkeep, operators: 2 } },
  },
  {
    what: 'what rotted is taken for needed by none',
    bug: 'concerns-nothing',
    plan: rotting,
  },
  { what: 'a small object that rotted is said to be mended, and is not', bug: 'mends-in-words', plan: rotting },
  {
    what: 'a takeover does not look whether its number lies below the boundary',
    bug: 'no-boundary-check',
    hunt: { from: 1001 },
    plan: { faults: new Set(['takeover']), faultEveryMs: 6_000, receivers: 3, faultyMs: 120_000 },
  },
];

afterEach(() => {
  planted.bug = null;
});

describe('upkeep', () => {
  it('is right as it is', async () => {
    expect(await violationsWith({ upkeep, faultyMs: 20_000 }, {}, { seeds: 1 })).toEqual([]);
    expect(await violationsWith(rotting, {}, { seeds: 1 })).toEqual([]);
  });

  it.each(CASES)('is caught: $what', async ({ bug, plan, hunt }) => {
    planted.bug = bug;
    expect(await violationsWith({ upkeep, ...plan }, {}, hunt)).not.toEqual([]);
  });
});
