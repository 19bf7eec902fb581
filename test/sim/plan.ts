/**
 * What a seed's world is made of: machines, receivers, latencies, and which faults happen how often. Each run has a subset of the faults, so that one
 * doesn't hide behind another. Pure.
 */
import type { RetentionPolicy } from '../../receiver/catalog/policy.js';
import { KIB, MIB } from '../../shared/units.js';
import type { DiskShape } from './disk.js';
import type { MachineShape } from './machine.js';
import type { Rng } from './rng.js';
import type { StoreFaults } from './store.js';
import type { TrackerFaults } from './tracker.js';

export const FAULTS = [
  'store-requests',
  'agent-crash',
  'power-cut',
  'receiver-crash',
  'receiver-stall',
  'agent-stall',
  'reroute',
  'takeover',
  'partition',
  'connection-loss',
  'store-full',
  'state-full',
  'wall-clock',
  'missed-marks',
  'bit-rot',
] as const;
/** ... of several receivers that share machines. */
export const FLEET_FAULTS = ['fleet-change', 'lasting-cut', 'failover'] as const;
/** ... and what operators do there that is no fault: machines are failed over and brought home by plan, and tested. */
export const SWITCHOVERS = ['switchover', 'test-failover'] as const;
export type Fault = (typeof FAULTS)[number] | (typeof FLEET_FAULTS)[number] | (typeof SWITCHOVERS)[number];

/** Copies of machines run in such a world. */
export const hasCopies = (faults: ReadonlySet<Fault>): boolean =>
  faults.has('failover') || SWITCHOVERS.some((what) => faults.has(what));

export interface Plan {
  readonly machines: readonly MachineShape[];
  /** Receivers encrypt what they store. */
  readonly atRest: boolean;
  readonly receivers: number;
  readonly interval: string;
  readonly netLatencyMs: number;
  readonly storeLatencyMs: number;
  readonly storePageNames: number;
  /** Virtual time in which faults happen, and then that in which all must be well again. */
  readonly faultyMs: number;
  readonly healingMs: number;
  /** How often all points are compared with the disks on the way. */
  readonly checks: number;
  readonly faults: ReadonlySet<Fault>;
  /** Between two faults of one kind, on average. */
  readonly faultEveryMs: number;
  readonly store: StoreFaults;
  readonly tracker: TrackerFaults;
  /** Null: receivers look after nothing, all stays. */
  readonly upkeep: UpkeepPlan | null;
  /** Null: each agent knows one receiver, and the world decides which that is. */
  readonly fleet: FleetPlan | null;
}

/** Receivers that know each other by the store alone, and share the machines. */
export interface FleetPlan {
  /** Beside those that the world has anyway. */
  readonly machines: readonly MachineShape[];
  /** Of each receiver, its share relative to the others'. */
  readonly weights: readonly number[];
  /** So many of the last are not there at the beginning. */
  readonly joining: number;
  /** Agents are configured with the addresses of all; else they know the first, and are told of the others. */
  readonly areAllKnown: boolean;
  readonly heartbeatMs: number;
  readonly handoversPerMinute: number;
  readonly faults: ReadonlySet<Fault>;
}

export interface UpkeepPlan {
  readonly intervalMs: number;
  readonly deletionDelayMs: number;
  readonly policy: RetentionPolicy;
  /** Readers at a time, each of a pinned point, slowly. */
  readonly readers: number;
  /** Those who hold points by name and release them. */
  readonly operators: number;
  /** From the beginning of a pass of the scrub to the next; null: there is none. */
  readonly scrubEveryMs: number | null;
}

const CHANCE_OF_A_FAULT = 0.45;

export function planOf(rng: Rng): Plan {
  const isCalm = rng.chance(0.1);
  const faults = new Set<Fault>(FAULTS.filter((f) => f !== 'bit-rot' && !isCalm && rng.chance(CHANCE_OF_A_FAULT)));
  const harm = rng.pick([0.003, 0.01, 0.03]);
  const secrets = rng.fork('secrets');
  const plan = {
    machines: Array.from({ length: rng.chance(0.3) ? 2 : 1 }, () => ({
      ...machineOf(rng),
      encrypts: secrets.chance(0.25),
    })),
    atRest: secrets.chance(0.35),
    receivers: rng.pick([1, 2, 2, 3]),
    interval: rng.pick(['1s', '2s', '5s']),
    netLatencyMs: rng.pick([0.2, 2, 20]),
    storeLatencyMs: rng.pick([1, 5, 40]),
    storePageNames: rng.pick([3, 20, 1000]),
    faultyMs: rng.pick([60_000, 120_000, 200_000]),
    healingMs: 600_000,
    checks: 2,
    faults,
    faultEveryMs: rng.pick([10_000, 30_000, 80_000]),
    store: {
      error: harm * rng.unit(),
      lostRequest: harm * rng.unit(),
      lostReply: harm * rng.unit(),
      late: harm * rng.unit(),
      repeated: harm * rng.unit(),
    },
    tracker: {
      missedCompletion: rng.pick([0, 0.003]),
      missedSubmission: rng.pick([0, 0.0005]),
      falseHit: rng.pick([0, 0.02]),
    },
    upkeep: rng.chance(0.65) ? upkeepOf(rng) : null,
    fleet: rng.fork('fleet').chance(0.4) ? fleetOf(rng.fork('fleets'), isCalm) : null,
  };
  // Without a scrub nobody would find it.
  if (!isCalm && plan.upkeep?.scrubEveryMs != null && rng.fork('rot').chance(CHANCE_OF_A_FAULT)) faults.add('bit-rot');
  return plan;
}

/** A plan as the world runs it: with the machines, receivers and faults of its fleet. */
export function withFleet(plan: Plan): Plan {
  const { fleet } = plan;
  if (fleet === null) return plan;
  // Agents find their receivers by themselves.
  const faults = [...plan.faults].filter((fault) => fault !== 'reroute');
  return {
    ...plan,
    machines: [...plan.machines, ...fleet.machines],
    receivers: fleet.weights.length,
    faults: new Set([...faults, ...fleet.faults]),
  };
}

function fleetOf(rng: Rng, isCalm: boolean): FleetPlan {
  const receivers = rng.pick([2, 3, 3, 4]);
  return {
    machines: Array.from({ length: rng.whole(1, 3) }, () => ({ ...SMALL, encrypts: rng.chance(0.1) })),
    weights: Array.from({ length: receivers }, () => rng.pick([1, 1, 2])),
    joining: rng.below(receivers),
    areAllKnown: rng.chance(0.5),
    heartbeatMs: rng.pick([1_000, 3_000, 5_000]),
    handoversPerMinute: rng.pick([12, 60, 600]),
    faults: fleetFaultsOf(rng, isCalm),
  };
}

function fleetFaultsOf(rng: Rng, isCalm: boolean): Set<Fault> {
  const faults = new Set<Fault>(FLEET_FAULTS.filter(() => !isCalm && rng.chance(0.6)));
  const switchovers = rng.fork('home');
  if (!switchovers.chance(CHANCE_OF_A_FAULT)) return faults;
  // Home must get to where its copy is.
  faults.delete('lasting-cut');
  faults.add('switchover');
  return switchovers.chance(0.5) ? faults.add('test-failover') : faults;
}

/** Machines of a fleet are many, and cost little. */
export const SMALL: MachineShape = {
  disks: [{ sizeBytes: 1 * MIB, blockBytes: 16 * KIB }],
  workload: {
    writers: 1,
    thinkMs: 500,
    deviceMs: 5,
    hotShare: 0.1,
    burstBlocks: 4,
    burstChance: 0,
    raceChance: 0.05,
  },
};

/** Days of retention in minutes: the same grid, with other units. */
const GRIDS: readonly RetentionPolicy['tiers'][] = [
  [
    { everyMs: 0, upToMs: 15_000 },
    { everyMs: 5_000, upToMs: 40_000 },
    { everyMs: 20_000, upToMs: 120_000 },
  ],
  [
    { everyMs: 0, upToMs: 30_000 },
    { everyMs: 30_000, upToMs: 90_000 },
  ],
  [{ everyMs: 10_000, upToMs: 60_000 }],
];

function upkeepOf(rng: Rng): UpkeepPlan {
  return {
    intervalMs: rng.pick([3_000, 10_000, 25_000]),
    deletionDelayMs: rng.pick([1_000, 15_000, 40_000]),
    policy: { tiers: rng.pick(GRIDS), applicationTiers: [] },
    readers: rng.pick([0, 1, 2]),
    operators: rng.fork('operators').pick([0, 1, 1, 2]),
    scrubEveryMs: rng.fork('scrub').pick([null, 5_000, 20_000]),
  };
}

function machineOf(rng: Rng): MachineShape {
  return {
    disks: Array.from({ length: rng.whole(1, 2) }, () => diskOf(rng)),
    workload: {
      writers: rng.whole(1, 3),
      thinkMs: rng.pick([50, 200, 1_000]),
      deviceMs: rng.pick([0.5, 5, 50]),
      hotShare: rng.pick([0.02, 0.1, 0.5]),
      burstBlocks: rng.pick([4, 30]),
      burstChance: rng.pick([0, 0.1]),
      raceChance: rng.pick([0, 0.05, 0.5]),
    },
  };
}

function diskOf(rng: Rng): DiskShape {
  // More than one segment now and then; an end that fills no block.
  if (rng.chance(0.2)) return { sizeBytes: 66 * MIB + 512, blockBytes: 64 * KIB };
  return { sizeBytes: rng.pick([1 * MIB, 2 * MIB + 512, 3 * MIB]), blockBytes: rng.pick([4, 4, 16]) * KIB };
}
