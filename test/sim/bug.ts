/** Ways to plant a bug, and the worlds in which planted bugs are looked for. */
import { runWorld, type Bugs } from './world.js';
import type { MachineShape } from './machine.js';
import { SMALL, type FleetPlan, type Plan } from './plan.js';

/** Seeds that a bug may take to show. */
const SEEDS_MAX = 12;
const FIRST_SEED = 1_000;

/** Where a bug is looked for. */
export interface Hunt {
  /** Begins with a seed that is known to show it, to be quick. */
  readonly from?: number;
  readonly seeds?: number;
}

export const busy: MachineShape = {
  disks: [{ sizeBytes: 1024 * 1024, blockBytes: 4096 }],
  workload: {
    writers: 3,
    thinkMs: 60,
    deviceMs: 10,
    hotShare: 0.1,
    burstBlocks: 10,
    burstChance: 0.1,
    raceChance: 0.5,
  },
};

const BASE: Partial<Plan> = {
  machines: [busy],
  atRest: false,
  receivers: 2,
  interval: '1s',
  netLatencyMs: 2,
  storeLatencyMs: 5,
  storePageNames: 100,
  faultyMs: 60_000,
  healingMs: 300_000,
  checks: 4,
  faults: new Set(),
  faultEveryMs: 10_000,
  store: { error: 0.01, lostRequest: 0.01, lostReply: 0.01, late: 0.01, repeated: 0.01 },
  tracker: { missedCompletion: 0, missedSubmission: 0, falseHit: 0 },
  upkeep: null,
  fleet: null,
};

/** A small machine in a fleet whose receivers know each other from the beginning, and come and go as the faults say. */
export const steadyFleet = (fault: 'failover' | 'switchover'): FleetPlan => ({
  machines: [SMALL],
  weights: [1, 1],
  joining: 0,
  areAllKnown: true,
  heartbeatMs: 1_000,
  handoversPerMinute: 600,
  faults: new Set([fault]),
});

/** ... with a fault every so often. */
export const steadyPlan = (faultEveryMs: number): Partial<Plan> => ({
  machines: [SMALL],
  interval: '2s',
  faultyMs: 60_000,
  checks: 1,
  faultEveryMs,
});

/** A thing of which some methods are replaced. */
export function wrapped<T extends object>(thing: T, replaced: Partial<T>): T {
  return new Proxy(thing, {
    get(target, name): unknown {
      const mine: unknown = Reflect.get(replaced, name);
      if (mine !== undefined) return mine;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? (value.bind(target) as unknown) : value;
    },
  });
}

/** What a world says that catches the bug; empty when none of them does. */
export async function violationsWith(
  plan: Partial<Plan>,
  bugs: Bugs = {},
  hunt: Hunt = {},
): Promise<readonly string[]> {
  const { from = FIRST_SEED, seeds = SEEDS_MAX } = hunt;
  for (let seed = from; seed < from + seeds; seed++) {
    const { violations } = await runWorld({ seed, plan: { ...BASE, ...plan }, bugs });
    if (violations.length > 0) return violations;
  }
  return [];
}
