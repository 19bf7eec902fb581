import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Source } from '../../agent/disks/footprint.js';
import { usageWarnings } from '../../agent/disks/warnings.js';
import { FakeSysfs } from './fake-sysfs.js';

let fake: FakeSysfs;
beforeEach(() => {
  fake = new FakeSysfs();
  fake.disk('sda', 10_000, 'pci0/a');
  fake.partition('sda', 'sda2', 2, 4000, 2000);
  fake.disk('sdb', 10_000, 'pci0/b');
  fake.disk('dm-0', 1000, 'virtual/block', { 'dm/name': 'vg-data' });
  fake.stack('sda2', 'dm-0');
  fake.stack('sdb', 'dm-0');
});
afterEach(() => fake.remove());

const block = (name: string): Source => ({ kind: 'block', name, path: `/dev/${name}` });

describe('warnings', () => {
  it.each<[string, string, string[], RegExp | null]>([
    ['a volume of which only one disk is protected', 'sda', [], /vg-data also lies on sdb/],
    ['the other disk of it', 'sdb', [], /vg-data also lies on sda2/],
    ['both disks', 'sda', ['sdb'], null],
    ['the volume itself', 'dm-0', [], null],
  ])('%s', (_, name, others, expected) => {
    const found = usageWarnings(fake.sysfs, block(name), others.map(block), [], '/nowhere');
    if (expected === null) expect(found).toEqual([]);
    else expect(found).toEqual([expect.stringMatching(expected)]);
  });

  it('names filesystems that can not be frozen', () => {
    const mounted = [{ path: '/boot/efi', fsType: 'vfat', notFrozen: 'cannot-freeze' as const }];
    expect(usageWarnings(fake.sysfs, block('dm-0'), [], mounted, '/nowhere')).toEqual([
      "vfat at /boot/efi can't be frozen: in stronger points it is only crash-consistent",
    ]);
  });
});
