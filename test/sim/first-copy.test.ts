/**
 * Two disks of which one is in points long before the other's first copy is done: what is written meanwhile to parts that the copy has passed is in its
 * first point. (Found by seed 723: a cut of the first disk took the marks of the second, and nobody kept them.)
 */
import { expect, it } from 'vitest';
import { KIB, MIB } from '../../shared/units.js';
import { violationsWith } from './bug.js';

it('the first point of a disk has what was written during its copy, whatever the others did meanwhile', async () => {
  const machine = {
    disks: [
      { sizeBytes: 1 * MIB, blockBytes: 4 * KIB },
      { sizeBytes: 450 * MIB, blockBytes: 64 * KIB },
    ],
    workload: { writers: 3, thinkMs: 20, deviceMs: 2, hotShare: 1, burstBlocks: 4, burstChance: 0, raceChance: 0 },
  };
  expect(await violationsWith({ machines: [machine], faultyMs: 8_000, checks: 1 }, {}, { seeds: 1 })).toEqual([]);
});
