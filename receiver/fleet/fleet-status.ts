/**
 * The fleet as `/status` shows it: who is there, and which machines are to move. Collects, decides nothing.
 */
import type { Clock } from '../../shared/clock.js';
import type { Fleet } from './fleet.js';
import type { Handovers } from './handovers.js';

export function fleetStatus(fleet: Fleet, handovers: Handovers, clock: Clock): unknown {
  const { self, members, isSettled } = fleet.view;
  const seen = new Map(fleet.entries.map(({ record, seenAtMs }) => [record.id, { record, seenAtMs }]));
  const nowMs = clock.monotonicMs();
  return {
    self,
    isSettled,
    isDoubled: fleet.isDoubled,
    problem: fleet.problem,
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
