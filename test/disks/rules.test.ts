/** Which disks rules take, as a table. */
import { expect, test } from 'vitest';
import { multipathAbove, pathsText } from '../../agent/disks/multipath.js';
import { ruleVerdict, type DiskRule } from '../../agent/disks/rules.js';
import type { BlockDevice } from '../../agent/disks/sysfs.js';
import { asDiskId, GIB, SECTOR_BYTES } from '../../shared/units.js';

const disk = (name: string, more: Partial<BlockDevice> = {}) => ({
  device: {
    name,
    serial: 'S-1',
    sectorCount: (100 * GIB) / SECTOR_BYTES,
    removable: false,
    slaves: [],
    ...more,
  } as unknown as BlockDevice,
  id: asDiskId('naa.5000'),
});

const rules = (include: readonly DiskRule[], exclude: readonly DiskRule[] = []) => ({ include, exclude });

test.each([
  ['no rule', disk('sda'), rules([]), null],
  ['a name', disk('sda'), rules([{ name: 'sda' }]), true],
  ['another name', disk('sdaa'), rules([{ name: 'sda' }]), null],
  ['a glob', disk('nvme0n1'), rules([{ name: 'nvme*' }]), true],
  ['a dot is a dot', disk('sda'), rules([{ name: 's.a' }]), null],
  ['one character', disk('sda'), rules([{ name: 'sd?' }]), true],
  ['an id', disk('sda'), rules([{ id: 'naa.5*' }]), true],
  ['an id that can not be told', { ...disk('sda'), id: null }, rules([{ id: '*' }]), null],
  ['a serial', disk('sda'), rules([{ serial: 'S-*' }]), true],
  ['a disk without serial', disk('sda', { serial: null }), rules([{ serial: '*' }]), null],
  ['large enough', disk('sda'), rules([{ minSize: 100 * GIB }]), true],
  ['too small', disk('sda'), rules([{ minSize: 100 * GIB + 1 }]), null],
  ['too large', disk('sda'), rules([{ maxSize: 99 * GIB }]), null],
  ['all of a rule must fit', disk('sda'), rules([{ name: 'sd*', serial: 'T-*' }]), null],
  ['any rule will do', disk('sda'), rules([{ serial: 'T-*' }, { name: 'sd*' }]), true],
  ['excluded', disk('sda'), rules([{ name: 'sd*' }], [{ serial: 'S-1' }]), false],
  ['excluded what is not included', disk('sda'), rules([], [{ serial: 'S-1' }]), null],
  ['a loop device by a glob', disk('loop3'), rules([{ name: 'loop*' }]), false],
  ['a loop device by its name', disk('loop3'), rules([{ name: 'loop3' }]), true],
  ['what stands on others', disk('dm-0', { slaves: ['sda'] }), rules([{ minSize: 1 }]), false],
  ['... by its id', disk('dm-0', { slaves: ['sda'] }), rules([{ id: 'naa.5000' }]), true],
  ['a stick', disk('sdz', { removable: true }), rules([{ name: 'sd*' }]), false],
] as const)('%s', (_what, candidate, all, expected) => {
  expect(ruleVerdict(candidate, all)?.protect ?? null).toBe(expected);
});

test('a path of a multipath device is that device; a path of anything else is itself', () => {
  const of = (name: string, more: Partial<BlockDevice>): BlockDevice =>
    disk(name, { holders: [], dmUuid: null, ...more }).device;
  const devices = new Map(
    [
      of('dm-0', { dmUuid: 'mpath-3600508b400105e21', dmName: 'mpatha', slaves: ['sda', 'sdb'] }),
      of('dm-1', { dmUuid: 'LVM-abc', dmName: 'vg-lv', slaves: ['sdc'] }),
    ].map((d) => [d.name, d]),
  );
  const above = (holders: string[]) => multipathAbove(of('sda', { holders }), (name) => devices.get(name) ?? null);
  expect(above(['dm-0'])?.name).toBe('dm-0');
  expect(above(['dm-1', 'dm-0'])?.name).toBe('dm-0');
  expect(above(['dm-1'])).toBeNull();
  expect(above(['dm-7'])).toBeNull();
  expect(above([])).toBeNull();
  expect(pathsText('/dev/sda', devices.get('dm-0') ?? of('x', {}))).toBe(
    '/dev/sda is one of the paths of mpatha (sda, sdb): that is protected, whichever path its I/O takes',
  );
});

test('the reason names the rule', () => {
  expect(ruleVerdict(disk('sda'), rules([{ name: 'sd*', minSize: 1 }]))?.reason).toBe(
    'included by the rule { name: sd*, minSize: 1 }',
  );
  expect(ruleVerdict(disk('sda'), rules([{ name: 'sd*' }], [{ id: 'naa.5000' }]))?.reason).toBe(
    'excluded by the rule { id: naa.5000 }',
  );
});
