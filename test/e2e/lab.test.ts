/** The lab itself: a protected disk, a write, a point, a restore that equals the disk. */
import { execFileSync } from 'node:child_process';
import { afterEach, describe, expect, it } from 'vitest';
import { MIB } from '../../shared/units.js';
import { canRunLab, Lab, WHY_NO_LAB } from './lab.js';

describe.skipIf(!canRunLab)(`whole system (${WHY_NO_LAB})`, () => {
  let lab: Lab | undefined;
  afterEach(async () => {
    await lab?.cleanUp();
    lab = undefined;
  });

  it('restores what a disk held', { timeout: 60_000 }, async () => {
    lab = await Lab.open({ disks: [64 * MIB, 8 * MIB] });
    await lab.setUp();
    const [disk] = lab.disks;
    execFileSync('dd', ['if=/dev/urandom', `of=${disk?.device ?? ''}`, 'bs=64k', 'count=20', 'seek=3', 'oflag=direct']);
    const { point } = await lab.syncNow();
    expect(point).toBeGreaterThan(1);
    await lab.restore(point);
    expect([lab.differences(0), lab.differences(1)]).toEqual([[], []]);
    expect((await lab.verifyAll()).every((v) => v.restorable)).toBe(true);
    expect(lab.unexpectedLines()).toEqual([]);
  });
});
