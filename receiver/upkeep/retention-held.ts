/**
 * Which points must stay whatever the policy says, and why: held by name, pinned by readers, begun with by running copies or read by a running job.
 * Gathering only; what follows from it is decided in retention.ts.
 *
 * Whoever drops points asks within the change of the very commit that drops them (`OwnedMachine.commit`), where nobody else can commit in between:
 * a hold that was written after that is told by confirmHold() to have come too late.
 */
import type { MachineId } from '../../shared/units.js';
import { readHolds, type Hold } from '../catalog/holds.js';
import { endPins, isPinLive, readPins, type Pin, type PinsRead } from '../catalog/pins.js';
import { loadRecovery } from '../catalog/recovery-io.js';
import type { Recovery } from '../catalog/recovery.js';
import type { LockedNames } from '../store/locked-names.js';
import type { ObjectStore } from '../store/store.js';
import type { HeldPoints } from './retention.js';

export interface Held {
  readonly points: HeldPoints;
  /** Pins that still count: GC looks at them as well. */
  readonly pins: readonly Pin[];
  /** Not empty: nobody knows what is needed, so nothing may be dropped or deleted. */
  readonly blockers: readonly string[];
}

/**
 * Throws when holds or the recovery object can't be read: then nothing may be dropped. Three listings and as many small reads. `wholeCopy`: id of a copy that
 * has all of itself on its host, so that it would do without the point that it began with.
 */
export const loadHeld = (
  store: ObjectStore,
  machine: MachineId,
  nowMs: number,
  wholeCopy: string | null = null,
): Promise<Held> => heldWith(store, machine, nowMs, readPins(store, machine), wholeCopy);

/** The same for whoever deletes layers next: pins that have ended are removed first, so that a holder which comes back learns that it has none. */
export const loadHeldAndEndPins = (
  store: ObjectStore,
  machine: MachineId,
  nowMs: number,
  locked: LockedNames,
): Promise<Held> => heldWith(store, machine, nowMs, endPins(store, machine, nowMs, locked));

async function heldWith(
  store: ObjectStore,
  machine: MachineId,
  nowMs: number,
  reading: Promise<PinsRead>,
  wholeCopy: string | null = null,
): Promise<Held> {
  const [{ pins, unreadable }, holds, recovery] = [
    await reading,
    await readHolds(store, machine),
    await loadRecovery(store, machine),
  ];
  const live = pins.filter((pin) => isPinLive(pin, nowMs));
  return {
    points: heldPoints(holds, live, recovery, wholeCopy),
    pins: live,
    blockers: unreadable.map(({ name, why }) => `pin ${name} can't be read: ${why}`),
  };
}

/** Pure. */
export function heldPoints(
  holds: readonly Hold[],
  pins: readonly Pin[],
  recovery: Recovery | null,
  wholeCopy: string | null = null,
): HeldPoints {
  const points = new Map<number, string[]>();
  const add = (point: unknown, reason: string): void => {
    if (typeof point !== 'number' || point < 1) return;
    points.set(point, [...(points.get(point) ?? []), reason]);
  };
  for (const { name, point } of holds) add(point, `held as ${name}`);
  for (const { holder, point } of pins) add(point, `pinned: ${holder}`);
  if (recovery === null) return points;
  const { failover, testFailover, job } = recovery;
  if (failover !== null && failover.id !== wholeCopy) add(failover.point, 'the failed-over machine began with it');
  if (testFailover.instance !== null) add(testFailover.instance.point, 'the test failover began with it');
  if (job?.state === 'InProgress') {
    for (const key of ['point', 'finalPoint']) add(job.data[key], `job ${job.operation} works with it`);
  }
  return points;
}
