import { describe, expect, it } from 'vitest';
import { parseMountInfo, type MountEntry } from '../../agent/quiesce/mountinfo.js';
import { planFreeze, type DeviceStack } from '../../agent/quiesce/mounts.js';

describe('mountinfo', () => {
  it('undoes the escapes of spaces, tabs, newlines and backslashes, and keeps other characters', () => {
    const line = String.raw`36 35 98:0 /a\040b /mnt/o\011n\012e\134\134040é rw,noatime master:1 - ext3 /dev/my\040root rw,errors=continue`;
    expect(parseMountInfo(line)).toEqual([
      {
        mountId: 36,
        device: '98:0',
        root: '/a b',
        path: '/mnt/o\tn\ne\\\\040é',
        fsType: 'ext3',
        source: '/dev/my root',
        readOnly: false,
      },
    ]);
  });

  it.each([
    ['no optional fields', '22 1 8:1 / / rw - ext4 /dev/sda1 rw', { mountId: 22, readOnly: false }],
    [
      'several optional fields',
      '22 1 8:1 / / rw shared:1 master:2 propagate_from:3 - xfs /dev/sda1 ro,x',
      { fsType: 'xfs', readOnly: true },
    ],
    [
      'a read-only mount of a writable superblock',
      '22 1 8:1 / /b ro,bind shared:1 - ext4 /dev/sda1 rw',
      { readOnly: false },
    ],
    ['an option that only contains ro', '22 1 8:1 / / rw - ext4 /dev/sda1 rw,errors=remount-ro', { readOnly: false }],
    ['a mount point named like the separator', '22 1 8:1 / /- rw - ext4 /dev/sda1 rw', { path: '/-', fsType: 'ext4' }],
    ['no source', '22 1 0:5 / /d rw -  tmpfs  rw', {}],
  ])('reads %s', (_, line, expected) => {
    expect(parseMountInfo(line)[0] ?? {}).toMatchObject(expected);
  });

  it('skips what is not a mount, and finds the mounts of other namespaces below their root', () => {
    expect(parseMountInfo('\nnonsense\n1 2 3\n')).toEqual([]);
    const [entry] = parseMountInfo('22 1 8:1 / /data rw - ext4 /dev/sda1 rw\n', '/proc/7/root');
    expect(entry?.path).toBe('/proc/7/root/data');
  });
});

describe('freeze plan', () => {
  let nextId = 1;
  const mount = (path: string, device: string, fsType = 'ext4', more: Partial<MountEntry> = {}): MountEntry => ({
    mountId: nextId++,
    device,
    root: '/',
    path,
    fsType,
    source: device,
    readOnly: false,
    ...more,
  });
  /** Here a filesystem's number is the name of its device. */
  const stack = (above: Record<string, string[]> = {}, loops: Record<string, string> = {}): DeviceStack => ({
    above: (name) => above[name] ?? [],
    devicesOf: ({ device, source }) =>
      device.startsWith('0:') ? source.split(',').filter((name) => name !== '') : [device],
    loops: Object.entries(loops).map(([name, backingFile]) => ({ name, backingFile })),
  });
  const paths = (mounts: MountEntry[], devices: DeviceStack, ...sources: string[]): string[] =>
    planFreeze(mounts, devices, sources).freeze.map((filesystem) => filesystem.mounts[0]?.path ?? '');

  it('takes partitions, volumes above them and nothing of other disks', () => {
    const mounts = [mount('/', 'dm-0'), mount('/boot', 'sda1'), mount('/data', 'sdb1'), mount('/var', 'dm-1', 'xfs')];
    const devices = stack({ sda: ['sda1', 'sda2'], sda2: ['dm-0', 'dm-1'], sdb: ['sdb1'] });
    expect(paths(mounts, devices, 'sda')).toEqual(['/var', '/boot', '/']);
    expect(paths(mounts, devices, 'sda1')).toEqual(['/boot']);
    expect(paths(mounts, devices, 'sda2')).toEqual(['/var', '/']);
    expect(paths(mounts, devices, 'sda', 'sdb')).toEqual(['/var', '/data', '/boot', '/']);
  });

  it('counts a superblock once and prefers its whole at a short path', () => {
    const mounts = [
      mount('/etc/hosts', 'sda1', 'ext4', { root: '/containers/hosts' }),
      mount('/srv/a/deep/place', 'sda1'),
      mount('/srv', 'sda1'),
    ];
    const plan = planFreeze(mounts, stack(), ['sda1']);
    expect(plan.freeze).toHaveLength(1);
    expect(plan.freeze[0]?.mounts.map(({ path }) => path)).toEqual(['/srv', '/srv/a/deep/place', '/etc/hosts']);
  });

  it('skips what is read-only or can not freeze, with the reason', () => {
    const mounts = [
      mount('/boot/efi', 'sda1', 'vfat'),
      mount('/cd', 'sda2', 'ext4', { readOnly: true }),
      mount('/', 'sda3'),
    ];
    const plan = planFreeze(mounts, stack({ sda: ['sda1', 'sda2', 'sda3'] }), ['sda']);
    expect(plan.freeze.map(({ device }) => device)).toEqual(['sda3']);
    expect(plan.skipped).toEqual([
      { path: '/boot/efi', fsType: 'vfat', why: 'cannot-freeze' },
      { path: '/cd', fsType: 'ext4', why: 'read-only' },
    ]);
  });

  it('takes filesystems of several devices when any of them is protected', () => {
    const mounts = [
      mount('/pool', '0:44', 'btrfs', { source: 'sda,sdb' }),
      mount('/tmp', '0:45', 'tmpfs', { source: '' }),
    ];
    expect(paths(mounts, stack(), 'sdb')).toEqual(['/pool']);
  });

  it('goes through loop files to any depth, innermost first, even when the outer mount came later', () => {
    const mounts = [mount('/c', 'loop2'), mount('/b', 'loop1'), mount('/', 'sda'), mount('/b/x/y/z', 'sdb')];
    const devices = stack({}, { loop1: '/img/b', loop2: '/b/x/c', loop9: '/other' });
    expect(paths(mounts, devices, 'sda')).toEqual(['/c', '/b', '/']);
    expect(paths(mounts, devices, 'sda', 'sdb')).toEqual(['/c', '/b', '/b/x/y/z', '/']);
    // With its file on sdb, c has nothing to do with b any more.
    expect(paths(mounts, stack({}, { loop1: '/img/b', loop2: '/b/x/y/z/c' }), 'sda', 'sdb')).toEqual([
      '/b',
      '/c',
      '/b/x/y/z',
      '/',
    ]);
    // Sources named one by one are put in order all the same.
    expect(paths(mounts, devices, 'loop1', 'loop2', 'sda')).toEqual(['/c', '/b', '/']);
    expect(paths(mounts, devices, 'loop1')).toEqual(['/c', '/b']);
  });

  it('ends on a loop that holds its own file', () => {
    expect(paths([mount('/a', 'loop1')], stack({ loop1: ['loop1'] }, { loop1: '/a/file' }), 'loop1')).toEqual(['/a']);
  });
});
