import { mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { footprintOf, inodeOf, overlaps } from '../../agent/disks/footprint.js';
import { identityOf, sanitizeId, type KeptIdentity } from '../../agent/disks/identity.js';
import { fileFactsOf, locateDisk, wholeDisks, backingFacts } from '../../agent/disks/locate.js';
import { isDiskId } from '../../shared/units.js';
import { FakeSysfs } from './fake-sysfs.js';

const GIB_SECTORS = 2 ** 21;
const UUIDS = ['11111111-1111-4111-8111-111111111111', '22222222-2222-4222-8222-222222222222'];

let fake: FakeSysfs;
beforeEach(() => (fake = new FakeSysfs()));
afterEach(() => fake.remove());

function identify(name: string, kept: KeptIdentity[] = []): { id: string; from: string; record: KeptIdentity | null } {
  const device = fake.sysfs.device(name);
  const parent = device === null ? null : fake.sysfs.device(device.disk);
  if (device === null || parent === null) throw new Error(`no ${name}`);
  const uuids = UUIDS.slice(kept.length);
  const subject = { kind: 'block', device, parent, backing: backingFacts(parent) } as const;
  const identity = identityOf(subject, wholeDisks(fake.sysfs), kept, () => uuids.shift() ?? 'too many');
  expect(isDiskId(identity.id)).toBe(true);
  if (identity.record !== null) {
    const { id } = identity.record;
    kept.splice(0, kept.length, ...kept.filter((record) => record.id !== id), identity.record);
  }
  return identity;
}

describe('sysfs', () => {
  it('reads a whole disk and its partitions', () => {
    fake.disk('sda', GIB_SECTORS, 'pci0000:00/0000:00:05.0/virtio3/host2/target2:0:1/2:0:1:0', {
      diskseq: '9',
      removable: '0',
      'queue/rotational': '1',
      'queue/dax': '0',
      'device/wwid': 'naa.5000c500a1b2c3d4',
    });
    fake.partition('sda', 'sda1', 1, 2048, 4096);
    fake.disk('dm-0', 4096, 'virtual/block', { 'dm/name': 'vg-root', 'dm/uuid': 'LVM-x' });
    fake.stack('sda1', 'dm-0');
    expect(fake.sysfs.device('sda')).toMatchObject({
      disk: 'sda',
      partition: null,
      startSector: 0,
      sectorCount: GIB_SECTORS,
      diskseq: '9',
      rotational: true,
      dax: false,
      wwid: 'naa.5000c500a1b2c3d4',
      partitions: ['sda1'],
      topology: 'pci0000:00/0000:00:05.0/virtio#/host#/0:1/0:1:0',
    });
    expect(fake.sysfs.device('sda1')).toMatchObject({
      disk: 'sda',
      partition: 1,
      startSector: 2048,
      holders: ['dm-0'],
      diskseq: '9',
    });
    expect(fake.sysfs.device('dm-0')).toMatchObject({ slaves: ['sda1'], dmName: 'vg-root', topology: 'virtual/dm-0' });
    expect(fake.sysfs.device('sdb')).toBeNull();
  });
});

describe('disk ids', () => {
  it.each([
    ['SCSI WWID', { 'device/wwid': 'naa.5000c500a1b2c3d4' }, 'naa.5000c500a1b2c3d4'],
    ['ATA as SCSI', { 'device/wwid': 't10.ATA     QEMU HARDDISK        QM00001 ' }, 't10.ata-qemu-harddisk-qm00001'],
    ['NVMe', { wwid: 'eui.0025388b710116a1', 'device/serial': 'S4EVNX0N' }, 'eui.0025388b710116a1'],
    ['virtio serial', { serial: 'Data_Disk-7' }, 'data_disk-7'],
    ['placeholder WWID, real serial', { wwid: 'naa.0000000000000000', serial: 'WD-77AB' }, 'wd-77ab'],
    ['LVM volume', { 'dm/uuid': `LVM-${'aB3'.repeat(21)}x` }, null],
    ['md array', { 'md/uuid': '5c2e:1' }, 'md-5c2e-1'],
  ])('takes the number of a disk: %s', (_, files, expected) => {
    fake.disk('sda', GIB_SECTORS, 'pci0/1', files);
    fake.partition('sda', 'sda3', 3, 1050624, 2048);
    const { id, from } = identify('sda');
    expect(from).toBe('device');
    if (expected !== null) expect(id).toBe(expected);
    expect(identify('sda3').id).toMatch(/-p1050624$/);
    expect(identify('sda3').id.slice(0, 20)).toBe(`${id}-p1050624`.slice(0, 20));
  });

  it('keeps long ids apart', () => {
    const [a, b] = [sanitizeId(`${'x'.repeat(80)}a`), sanitizeId(`${'x'.repeat(80)}b`)];
    expect(a).toHaveLength(64);
    expect(a).not.toBe(b);
    expect(sanitizeId(' ??? ')).toBeNull();
    expect(sanitizeId('.-a-.')).toBe('a');
  });

  it.each(['0000', '123', '0123456789ABCDEF', 'none', 'FFFF-FFFF'])('does not believe %s', (serial) => {
    fake.disk('vda', GIB_SECTORS, 'pci0000:00/0000:00:02.0/virtio1', { serial });
    expect(identify('vda').from).toBe('new');
  });

  it('makes a UUID for a disk without a number and finds it by its slot, under any name', () => {
    fake.disk('vda', GIB_SECTORS, 'pci0000:00/0000:00:02.0/virtio1');
    fake.partition('vda', 'vda1', 1, 2048, 4096);
    const kept: KeptIdentity[] = [];
    expect(identify('vda', kept)).toMatchObject({ id: UUIDS[0], from: 'new' });
    expect(identify('vda', kept)).toMatchObject({ id: UUIDS[0], from: 'kept', record: null });
    expect(identify('vda1', kept).id).toBe(`${UUIDS[0]}-p2048`);
    fake.remove();
    fake = new FakeSysfs();
    fake.disk('vda', GIB_SECTORS, 'pci0000:00/0000:00:01.0/virtio1');
    fake.disk('vdb', GIB_SECTORS, 'pci0000:00/0000:00:02.0/virtio0');
    fake.partition('vdb', 'vdb1', 1, 2048, 4096);
    expect(locateDisk(fake.sysfs, UUIDS[0] as never, kept)).toBe('/dev/vdb');
    expect(locateDisk(fake.sysfs, `${UUIDS[0]}-p2048` as never, kept)).toBe('/dev/vdb1');
    expect(identify('vda', kept).id).toBe(UUIDS[1]);
  });

  it('finds a disk by its number under another name, and says when it is not there', () => {
    fake.disk('sdc', GIB_SECTORS, 'pci0/1', { 'device/wwid': 'naa.1234abcd' });
    fake.disk('cciss!c0d0', GIB_SECTORS, 'pci0/2', { serial: 'RAID77' });
    expect(locateDisk(fake.sysfs, 'naa.1234abcd' as never, [])).toBe('/dev/sdc');
    expect(locateDisk(fake.sysfs, 'raid77' as never, [])).toBe('/dev/cciss/c0d0');
    expect(locateDisk(fake.sysfs, 'naa.ffffaaaa' as never, [])).toBeNull();
  });

  it('refuses two disks with one number', () => {
    for (const name of ['sda', 'sdb']) fake.disk(name, GIB_SECTORS, `pci0/${name}`, { 'device/wwid': 'naa.77aa77bb' });
    expect(() => identify('sda')).toThrow(/sda and sdb carry the same number naa.77aa77bb/);
    expect(locateDisk(fake.sysfs, 'naa.77aa77bb' as never, [])).toBeNull();
  });

  it('knows loop devices by their file, and files by path, then by inode', () => {
    const folder = mkdtempSync(join(tmpdir(), 'afterimage-id-'));
    try {
      const file = join(folder, 'image');
      writeFileSync(file, '');
      truncateSync(file, 1 << 20);
      fake.disk('loop7', 2048, 'virtual/block', { 'loop/backing_file': file, 'loop/offset': '0', serial: 'ignored1' });
      fake.disk('loop8', 1024, 'virtual/block', { 'loop/backing_file': file, 'loop/offset': '1048576' });
      const kept: KeptIdentity[] = [];
      expect(identify('loop7', kept).id).toBe(UUIDS[0]);
      expect(identify('loop7', kept).id).toBe(UUIDS[0]);
      const facts = fileFactsOf(file);
      if (facts === null) throw new Error('no facts');
      const asFile = (path: string, inode: string): string =>
        identityOf({ kind: 'file', file: { ...facts, path, inode } }, [], records, () => UUIDS[1] ?? '').id;
      const records: KeptIdentity[] = [
        { id: UUIDS[0] as never, key: `file:${file}`, inode: facts.inode, sizeBytes: 1 << 20 },
      ];
      expect(asFile(file, facts.inode)).toBe(UUIDS[0]);
      expect(asFile(file, '1:2')).toBe(UUIDS[0]);
      expect(asFile('/elsewhere', facts.inode)).toBe(UUIDS[0]);
      expect(asFile('/elsewhere', '1:2')).toBe(UUIDS[1]);
      expect(locateDisk(fake.sysfs, UUIDS[0] as never, records)).toBe(file);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe('overlap', () => {
  const block = (name: string): ReturnType<typeof footprintOf> =>
    footprintOf(fake.sysfs, { kind: 'block', name, path: name });

  it.each([
    ['sda', 'sda1', true],
    ['sda1', 'sda2', false],
    ['sda', 'dm-0', true],
    ['sda2', 'dm-0', true],
    ['sda1', 'dm-0', false],
    ['dm-0', 'dm-1', false],
    ['sdb', 'dm-1', true],
    ['sdb', 'dm-0', false],
    ['md0', 'sda1', true],
    ['md0p1', 'sda1', true],
    ['md0p1', 'sda2', false],
    ['sda', 'sda', true],
  ])('%s and %s: %s', (a, b, expected) => {
    fake.disk('sda', 10_000, 'pci0/a');
    fake.partition('sda', 'sda1', 1, 2000, 2000);
    fake.partition('sda', 'sda2', 2, 4000, 2000);
    fake.disk('sdb', 10_000, 'pci0/b');
    for (const name of ['dm-0', 'dm-1', 'md0']) fake.disk(name, 1000);
    fake.partition('md0', 'md0p1', 1, 100, 100);
    fake.stack('sda2', 'dm-0');
    fake.stack('sda2', 'dm-1');
    fake.stack('sdb', 'dm-1');
    fake.stack('sda1', 'md0');
    const [one, two] = [block(a), block(b)];
    if (one === null || two === null) throw new Error('no footprint');
    expect(overlaps(one, two)).toBe(expected);
    expect(overlaps(two, one)).toBe(expected);
  });

  it('sees a file and the loop device on it', () => {
    const path = join(fake.root, 'image');
    writeFileSync(path, 'x');
    fake.disk('loop0', 2048, 'virtual/block', { 'loop/backing_file': path });
    const file = footprintOf(fake.sysfs, { kind: 'file', path, inode: inodeOf(statSync(path)) });
    const loop = block('loop0');
    if (file === null || loop === null) throw new Error('no footprint');
    expect(overlaps(file, loop)).toBe(true);
  });
});
