/** Rendezvous hashing, as properties over random fleets. */
import { describe, expect, it } from 'vitest';
import { wantedOwner, type Candidate } from '../../receiver/fleet/wanted.js';
import { asMachineId, type MachineId } from '../../shared/units.js';
import { between, randomOf, type Random } from '../helpers/random.js';

const uuid = (random: Random): string => {
  const hex = Array.from({ length: 32 }, () => between(random, 0, 16).toString(16)).join('');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20)}`;
};
const fleetOf = (random: Random, size: number): Candidate[] =>
  Array.from({ length: size }, () => ({ id: uuid(random), weight: 1 }));
const machinesOf = (random: Random, size: number): MachineId[] =>
  Array.from({ length: size }, () => asMachineId(uuid(random)));

describe('the wanted owner of a machine', () => {
  it.each([1, 2, 3, 4, 5])('moves only to a receiver that comes, and only from one that goes (seed %i)', (seed) => {
    const random = randomOf(seed);
    const fleet = fleetOf(random, between(random, 1, 8));
    const [more] = fleetOf(random, 1);
    if (more === undefined) throw new Error('no receiver');
    for (const machine of machinesOf(random, 400)) {
      const before = wantedOwner(machine, fleet);
      const after = wantedOwner(machine, [...fleet, more]);
      expect([before, more.id]).toContain(after);
      // The same, read backwards: the one that goes gives up its own, nothing else moves.
      for (const gone of fleet) {
        const without = wantedOwner(
          machine,
          fleet.filter((r) => r !== gone),
        );
        if (before !== gone.id) expect(without).toBe(before);
      }
    }
  });

  it('does not depend on the order in which receivers are listed', () => {
    const random = randomOf(7);
    const fleet = fleetOf(random, 6);
    const shuffled = [...fleet].sort(() => random() - 0.5);
    for (const machine of machinesOf(random, 200)) {
      expect(wantedOwner(machine, shuffled)).toBe(wantedOwner(machine, fleet));
    }
  });

  it('is shared out by weight, within what chance allows', () => {
    const random = randomOf(11);
    const [a, b, c] = fleetOf(random, 3);
    if (a === undefined || b === undefined || c === undefined) throw new Error('no receivers');
    const fleet = [a, b, { ...c, weight: 2 }];
    const machines = machinesOf(random, 4000);
    const share = (id: string): number => machines.filter((m) => wantedOwner(m, fleet) === id).length / machines.length;
    // Five standard deviations are 3.5 %.
    expect(Math.abs(share(a.id) - 0.25)).toBeLessThan(0.035);
    expect(Math.abs(share(b.id) - 0.25)).toBeLessThan(0.035);
    expect(Math.abs(share(c.id) - 0.5)).toBeLessThan(0.04);
  });

  it('is nobody when there is nobody', () => {
    const [machine] = machinesOf(randomOf(1), 1);
    expect(wantedOwner(machine ?? asMachineId(''), [])).toBeNull();
  });
});
