/** A disk behind several paths and the rules that take it, on a /sys of our own. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ruleThatTakes } from '../../agent/protect-by-rule.js';
import { asDiskId } from '../../shared/units.js';
import { FakeSysfs } from './fake-sysfs.js';

const NUMBER = 'naa.5000c500a1b2c3d4';
const ID = asDiskId('mpath-35000c500a1b2c3d4');
const list = { disks: [{ id: ID, path: '/dev/sda', blockBytes: 4096 }], kept: [] };
const rules = (...include: { name?: string; id?: string }[]) => ({ disks: { include, exclude: [] } });

let fake: FakeSysfs;
beforeEach(() => {
  fake = new FakeSysfs();
  fake.disk('sda', 8192, 'pci/host0', { wwid: NUMBER });
  fake.disk('sdb', 8192, 'pci/host1', { wwid: NUMBER });
  fake.disk('dm-0', 8192, 'virtual/block', { 'dm/uuid': ID, 'dm/name': 'mpatha' });
  for (const path of ['sda', 'sdb']) fake.stack(path, 'dm-0');
});
afterEach(() => fake.remove());

test('who gives up a disk that a rule takes by one of its paths is told so', () => {
  expect(ruleThatTakes(rules({ name: 'sd*' }), fake.sysfs, list, ID)).toBe('included by the rule { name: sd* }');
  expect(ruleThatTakes(rules({ id: ID }), fake.sysfs, list, ID)).not.toBeNull();
  expect(ruleThatTakes(rules({ name: 'nvme*' }), fake.sysfs, list, ID)).toBeNull();
});
