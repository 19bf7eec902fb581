/**
 * Disks that come, go, fail and change while the agent runs: each is handled by itself, and the points of the others go on.
 */
import { afterEach, describe, expect, it } from 'vitest';
import { MIB } from '../../shared/units.js';
import { canRunLab, Lab, WHY_NO_LAB } from './lab.js';
import { fillRandomly } from './scribbler.js';

describe.skipIf(!canRunLab)(`disks that come and go (${WHY_NO_LAB})`, () => {
  let lab: Lab | undefined;
  afterEach(async () => {
    await lab?.cleanUp();
    lab = undefined;
  }, 60_000);

  it(
    'what is written to a disk during its first copy is in its first point, whatever points others make meanwhile',
    { timeout: 180_000 },
    async () => {
      const l = await Lab.open({ disks: [8 * MIB, 256 * MIB], agent: { io: { rate: { limit: '12MB/s' } } } });
      lab = l;
      const [first, second] = l.disks;
      if (first === undefined || second === undefined) return;
      fillRandomly(second, 0, second.sizeBytes);
      await l.startReceiver();
      await l.enrol();
      await l.protect([first]);
      await l.startAgent();
      await l.untilProtected();
      await l.protect([second]);
      const halfway = await l.until('amid the first copy', (s) => (s.disks[1]?.progress?.percent ?? 0) >= 20, 90_000);
      // Behind the sweep; then points of the first disk take marks from the kernel.
      fillRandomly(second, MIB, 4096);
      for (let i = 1; i <= 2; i++) {
        fillRandomly(first, i * MIB, 4096);
        await l.until('a point of the first', (s) => s.pointsCommitted >= halfway.pointsCommitted + i);
      }
      await l.untilProtected(90_000);
      const { point } = await l.syncNow();
      await l.restore(point);
      expect([l.differences(0), l.differences(1)]).toEqual([[], []]);
      expect(l.unexpectedLines([/limits of load/])).toEqual([]);
    },
  );
});
