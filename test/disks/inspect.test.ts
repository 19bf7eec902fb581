import { execFileSync } from 'node:child_process';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { inspectDevice, type InspectContext, type InspectedDevice } from '../../agent/disks/inspect.js';
import { Sysfs } from '../../agent/disks/sysfs.js';
import { checkDisk, compareDisk, readDiskState, type DiskState } from '../../agent/disks/watch.js';
import { AfterimageError } from '../../shared/errors.js';
import { OwnLoop } from '../helpers/own-loop.js';
import { isRoot, LoopDisks } from '../quiesce/loop-disks.js';

const MIB = 1 << 20;
const sysfs = new Sysfs();
let disks: LoopDisks;
beforeEach(() => (disks = new LoopDisks()));
afterEach(() => disks.cleanUp());

const context = (more: Partial<InspectContext> = {}): InspectContext => ({
  sysfs,
  protectedDisks: [],
  kept: [],
  newUuid: () => '33333333-3333-4333-8333-333333333333',
  ...more,
});

const inspect = (path: string, others: InspectedDevice[] = []): InspectedDevice =>
  inspectDevice(path, context({ protectedDisks: others, newUuid: () => crypto.randomUUID() }));

function usageOf(path: string, others: InspectedDevice[] = []): string {
  try {
    inspect(path, others);
  } catch (error) {
    if (error instanceof AfterimageError && error.kind === 'usage' && error.exitCode === 2) return error.message;
    throw error;
  }
  return 'accepted';
}

describe('inspection of files', () => {
  it('accepts an image file, for the scan tracker', () => {
    const path = disks.image(64 * MIB + 512);
    const link = join(disks.folder, 'link');
    symlinkSync(path, link);
    const found = inspect(link);
    expect(found).toMatchObject({
      source: { kind: 'file', path },
      trackable: null,
      geometry: { sizeBytes: 64 * MIB + 512, blockBytes: 4096, blockCount: 16385 },
      mounted: [],
      warnings: [],
    });
    expect(found.untrackedReason).toContain('image file');
    expect(found.identity.record).toMatchObject({ id: found.id, key: `file:${path}`, sizeBytes: 64 * MIB + 512 });
    const again = inspectDevice(path, context({ kept: found.identity.record === null ? [] : [found.identity.record] }));
    expect(again.id).toBe(found.id);
    expect(again.identity.record).toBeNull();
  });

  it('refuses what can not be protected, and says why', () => {
    const file = (name: string, bytes: number): string => {
      writeFileSync(join(disks.folder, name), Buffer.alloc(bytes));
      return join(disks.folder, name);
    };
    mkdirSync(join(disks.folder, 'dir'));
    expect(usageOf(join(disks.folder, 'missing'))).toContain('does not exist');
    expect(usageOf(join(disks.folder, 'dir'))).toContain('is a folder');
    expect(usageOf('/dev/null')).toContain('neither a block device nor a regular file');
    expect(usageOf(join(file('plain', 10), 'below'))).toContain("can't be reached");
    expect(usageOf(file('empty', 0))).toContain('size is 0');
    expect(usageOf(file('small', 4096))).toContain('not supported');
    expect(usageOf(file('odd', MIB + 100))).toMatch(/odd: disk size 1048676 bytes is not supported/);
  });

  it('refuses a file that is protected already, under any name', () => {
    const path = disks.image(MIB);
    const known = inspect(path);
    const again = inspectDevice(path, context({ kept: known.identity.record === null ? [] : [known.identity.record] }));
    expect(again.id).toBe(known.id);
    expect(usageOf(path, [known])).toContain('shares bytes');
    execFileSync('ln', [path, join(disks.folder, 'hard link')]);
    expect(usageOf(join(disks.folder, 'hard link'), [known])).toContain('shares bytes');
  });
});

describe.skipIf(!isRoot)('inspection of devices', () => {
  it('accepts a loop device, names what is mounted there, and knows it again', () => {
    const device = disks.attach(disks.image(32 * MIB));
    const mount = disks.mount(device, 'ext4');
    const found = inspect(device);
    const name = device.slice('/dev/'.length);
    expect(found).toMatchObject({
      source: { kind: 'block', name, path: device },
      trackable: { id: found.id, sysName: name, major: 7, startSector: 0, sectorCount: 65536 },
      untrackedReason: null,
      mounted: [{ path: mount, fsType: 'ext4', notFrozen: null }],
    });
    expect(found.identity.record?.key).toMatch(/^loop:.*image-0\+0$/);
    expect(usageOf(device, [found])).toContain('shares bytes');
  });

  it('refuses a read-only device, a node without a device, and a device without a medium', () => {
    expect(usageOf(disks.attach(disks.image(MIB), '-r'))).toContain('is read-only');
    const node = join(disks.folder, 'node');
    execFileSync('mknod', [node, 'b', '240', '9']);
    // The folder may lie on a filesystem that allows no device nodes; the answer is the same then.
    expect(usageOf(node)).toMatch(/without a device behind it|can't be reached/);
  });

  it('sees overlaps of loop devices, their files and what they are made of', () => {
    const file = disks.image(8 * MIB);
    const lower = disks.attach(file);
    const upper = disks.attach(lower, '-o', String(MIB));
    const other = inspect(disks.attach(disks.image(8 * MIB)));
    const known = inspect(lower);
    expect(usageOf(file, [other, known])).toContain('shares bytes');
    expect(usageOf(upper, [other, known])).toContain('shares bytes');
    expect(usageOf(lower, [inspect(upper)])).toContain('shares bytes');
    expect(usageOf(lower, [inspect(file)])).toContain('shares bytes');
    expect(usageOf(lower, [other])).toBe('accepted');
  });

  it('accepts a partition, as a window of its disk', () => {
    const device = disks.attach(disks.image(16 * MIB));
    // Not every kernel parses partition tables by itself: told one by one, it makes the devices all the same.
    execFileSync('addpart', [device, '1', '2048', '8192']);
    execFileSync('addpart', [device, '2', '10240', '22528']);
    disks.undo(() => execFileSync('partx', ['-d', device]));
    const [one, two] = [inspect(`${device}p1`), inspect(`${device}p2`)];
    expect(one.trackable).toMatchObject({ sysName: device.slice(5), startSector: 2048, sectorCount: 8192, major: 7 });
    expect(one.id).toMatch(/-p2048$/);
    expect(usageOf(`${device}p1`, [one])).toContain('shares bytes');
    expect(usageOf(device, [one])).toContain('shares bytes');
    expect(usageOf(`${device}p1`, [two])).toBe('accepted');
  });

  it('watches: unchanged, resized, replaced, vanished', () => {
    const file = disks.image(8 * MIB);
    const loop = new OwnLoop();
    const { device } = loop;
    loop.attach(file);
    disks.undo(() => {
      loop.detach();
      loop.remove();
    });
    const known = inspect(device).state;
    expect(checkDisk(sysfs, known)).toEqual({ is: 'unchanged' });
    execFileSync('truncate', ['-s', String(9 * MIB), file]);
    execFileSync('losetup', ['-c', device]);
    expect(checkDisk(sysfs, known)).toMatchObject({ is: 'resized', sizeBytes: 9 * MIB });
    loop.detach();
    expect(checkDisk(sysfs, known)).toMatchObject({ is: 'vanished' });
    loop.attach(file);
    expect(checkDisk(sysfs, known)).toMatchObject({ is: 'replaced' });
  });
});

describe('comparison of disk states', () => {
  const source = { kind: 'block', name: 'sda', path: '/dev/sda' } as const;
  const marks = { diskseq: '4', number: '8:0', startSector: 0, backingFile: null, inode: null };
  const known: DiskState = { source, sizeBytes: 4096, marks };
  it.each<[string, DiskState | null, string]>([
    ['nothing', null, 'vanished'],
    ['the same', known, 'unchanged'],
    ['another diskseq', { ...known, marks: { ...marks, diskseq: '5' } }, 'replaced'],
    ['a kernel that does not tell', { ...known, marks: { ...marks, diskseq: null } }, 'unchanged'],
    ['another number', { ...known, marks: { ...marks, number: '8:16' } }, 'replaced'],
    ['another start', { ...known, marks: { ...marks, startSector: 8 } }, 'replaced'],
    ['another size', { ...known, sizeBytes: 8192 }, 'resized'],
    ['another disk of another size', { ...known, sizeBytes: 8192, marks: { ...marks, diskseq: '5' } }, 'replaced'],
  ])('%s', (_, now, is) => expect(compareDisk(known, now).is).toBe(is));

  it('reads files', () => {
    const path = disks.image(MIB);
    const state = inspect(path).state;
    expect(checkDisk(sysfs, state)).toEqual({ is: 'unchanged' });
    execFileSync('sh', ['-c', 'cp "$0" "$0.new" && mv "$0.new" "$0"', path]);
    expect(checkDisk(sysfs, state)).toMatchObject({ is: 'replaced' });
    execFileSync('rm', [path]);
    expect(readDiskState(sysfs, state.source)).toBeNull();
  });
});
