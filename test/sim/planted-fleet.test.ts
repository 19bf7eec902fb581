/**
 * Bugs planted in what several receivers do that share machines: placement, redirects, handovers, what an owner does that has slept through its end. As in
 * planted.test.ts each must be caught.
 */
import { afterEach, expect, it, vi } from 'vitest';
import { machinePrefix } from '../../receiver/catalog/names.js';
import { OwnedMachine } from '../../receiver/catalog/owned-machine.js';
import { Fleet } from '../../receiver/fleet/fleet.js';
import { Handovers } from '../../receiver/fleet/handovers.js';
import { Roster } from '../../receiver/fleet/roster.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { violationsWith, wrapped, type Hunt } from './bug.js';
import { SMALL, type FleetPlan, type Plan, type UpkeepPlan } from './plan.js';
import type { Bugs } from './world.js';

const FLEET: FleetPlan = {
  machines: [SMALL, SMALL],
  weights: [1, 1, 1],
  joining: 1,
  areAllKnown: true,
  heartbeatMs: 1_000,
  handoversPerMinute: 600,
  faults: new Set(['fleet-change']),
};

const UPKEEP: UpkeepPlan = {
  intervalMs: 3_000,
  deletionDelayMs: 1_000,
  policy: { tiers: [{ everyMs: 5_000, upToMs: 30_000 }], applicationTiers: [] },
  readers: 0,
  operators: 0,
  scrubEveryMs: null,
};

/** Nothing is dropped: who had a machine before commits nothing, and so isn't told that it has lost it. */
const KEEPS_ALL: UpkeepPlan = {
  ...UPKEEP,
  policy: { tiers: [{ everyMs: 0, upToMs: 3_600_000 }], applicationTiers: [] },
};

const planted = vi.hoisted((): { bug: 'gc-without-epochs' | null } => ({ bug: null }));

vi.mock('../../receiver/upkeep/gc-plan.js', async (original) => {
  const real = await original<typeof import('../../receiver/upkeep/gc-plan.js')>();
  return {
    ...real,
    gcPlan: (input: Parameters<typeof real.gcPlan>[0]) => {
      const plan = real.gcPlan(input);
      if (planted.bug === null) return plan;
      const epochOf = (name: string): number =>
        real.kindOf(name.slice(machinePrefix(input.machine).length))?.epoch ?? 0;
      const newer = input.objects.filter(({ name }) => epochOf(name) > input.epoch);
      const wrong = real.gcPlan({ ...input, objects: newer, epoch: Number.MAX_SAFE_INTEGER });
      const seen = new Map([...plan.seen, ...wrong.seen]);
      return { ...plan, deletable: [...plan.deletable, ...wrong.deletable], seen };
    },
  };
});

/** Three machines: a world of theirs takes its time. */
const BRIEF: Partial<Plan> = { interval: '2s', faultyMs: 40_000, checks: 1 };

interface Planted {
  readonly bug: string;
  /** What the world says of it. */
  readonly says: RegExp;
  readonly plan?: Partial<Plan>;
  readonly fleet?: Partial<FleetPlan>;
  readonly hunt?: Hunt;
  readonly bugs?: Bugs;
  readonly spy?: () => void;
}

const PLANTED: readonly Planted[] = [
  {
    bug: 'machines are not handed over to receivers that come',
    says: /is at receiver\d, and belongs to/,
    spy: () => vi.spyOn(Handovers.prototype, 'next').mockReturnValue(undefined),
  },
  {
    bug: 'a receiver that is silent counts as live',
    hunt: { from: 1002 },
    says: /is at receiver\d, and belongs to/,
    fleet: { joining: 0 },
    spy: () => {
      const { entries } = Roster.prototype;
      vi.spyOn(Roster.prototype, 'entries').mockImplementation(function (this: Roster, nowMs) {
        return entries.call(this, nowMs).map((entry) => ({ ...entry, liveness: 'live' as const }));
      });
    },
  },
  {
    bug: 'an agent is sent again to where it can not get',
    hunt: { from: 1001 },
    says: /is not well after/,
    fleet: { joining: 0, faults: new Set(['lasting-cut']) },
    spy: () => {
      const { direction } = Fleet.prototype;
      vi.spyOn(Fleet.prototype, 'direction').mockImplementation(function (this: Fleet, machine, recovery) {
        return direction.call(this, machine, recovery, { redirects: 0, unreachable: [] });
      });
    },
  },
  {
    bug: 'every receiver does the upkeep of every machine',
    says: /was taken over although it was where it belongs|is served by receiver\d, and its manifest names/,
    plan: { upkeep: UPKEEP },
    fleet: { joining: 0, faults: new Set() },
    spy: () => vi.spyOn(Fleet.prototype, 'isOurs').mockReturnValue({ ours: true, reason: 'planted' }),
  },
  {
    bug: 'who had a machine before takes what its new owner writes for garbage',
    says: /deletes .*: manifest \d+ names it/,
    plan: { upkeep: KEEPS_ALL },
    spy: () => {
      planted.bug = 'gc-without-epochs';
      vi.spyOn(OwnedMachine.prototype, 'confirm').mockResolvedValue();
    },
  },
  {
    bug: 'an owner that wakes up takes the manifest of who took over for its own',
    says: /manifest/,
    plan: { faults: new Set(['receiver-stall', 'takeover']), faultEveryMs: 4_000 },
    bugs: {
      wrapStore: (store) =>
        wrapped<ObjectStore>(store, {
          createIfAbsent: async (name, bytes) => {
            await store.createIfAbsent(name, bytes);
            return 'created';
          },
        }),
    },
  },
];

afterEach(() => {
  planted.bug = null;
  vi.restoreAllMocks();
});

it.each(PLANTED)('is caught: $bug', async ({ plan, fleet, bugs = {}, spy, hunt, says }) => {
  spy?.();
  const shared = { ...BRIEF, machines: [SMALL], fleet: { ...FLEET, ...fleet }, ...plan };
  expect((await violationsWith(shared, bugs, hunt)).join('\n')).toMatch(says);
});
