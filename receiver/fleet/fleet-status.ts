/**
 * The fleet as `/status` and `/metrics` show it: who is there, which machines are to move, what moved. Collects, decides nothing.
 */
import type { Clock } from '../../shared/clock.js';
import type { FleetCounters } from './counters.js';
import type { Fleet } from './fleet.js';
import type { Handovers } from './handovers.js';
import type { Liveness } from './roster.js';

export interface FleetFigures {
  readonly owned: number;
  readonly toMove: number;
  readonly lookedAtMs: number | null;
  readonly hasProblem: boolean;
  /** This one among them. */
  readonly receivers: Readonly<Record<Liveness, number>>;
  readonly counters: Readonly<FleetCounters>;
}

/** `owned`: machines that are written here, by a session or by a copy. */
export function fleetFigures(fleet: Fleet, handovers: Handovers, owned: number): FleetFigures {
  const receivers = { live: 0, unknown: 0, gone: 0 };
  for (const { liveness } of fleet.view.members) receivers[liveness]++;
  const { lookedAtMs, counters, problem, isDoubled } = fleet;
  return {
    ...{ owned, toMove: handovers.plan.length, lookedAtMs, receivers, counters },
    hasProblem: problem !== '' || isDoubled,
  };
}

export function fleetStatus(fleet: Fleet, handovers: Handovers, owned: number, clock: Clock): unknown {
  const { self, members, isSettled } = fleet.view;
  const seen = new Map(fleet.entries.map(({ record, seenAtMs }) => [record.id, { record, seenAtMs }]));
  const nowMs = clock.monotonicMs();
  const { lookedAtMs, counters } = fleet;
  return {
    ...{ self, isSettled, isDoubled: fleet.isDoubled, problem: fleet.problem, owned, ...counters },
    lastLookAt: lookedAtMs === null ? null : new Date(lookedAtMs).toISOString(),
    receivers: members.map(({ id, name, addresses, weight, liveness }) => {
      const other = id === self ? undefined : seen.get(id);
      return {
        ...{ id, name, addresses, weight, liveness },
        silentSeconds: other === undefined ? 0 : Math.round((nowMs - other.seenAtMs) / 1000),
        load: other?.record.load ?? null,
      };
    }),
    handedOver: handovers.handedOver,
    moves: handovers.plan,
  };
}
