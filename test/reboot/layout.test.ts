/** Where on a disk a trace must be left by whoever uses it; and when there is no such place. */
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { lvmLayout, volumesIn } from '../../agent/reboot/layout/lvm.js';
import { SIGNATURE_BYTES, signatureOf } from '../../agent/reboot/layout/signature.js';
import { traceOf } from '../../agent/reboot/layout/trace.js';
import { xfsLogRanges } from '../../agent/reboot/layout/xfs-log.js';
import type { ReadAt } from '../../agent/reboot/layout/bytes.js';
import { MIB } from '../../shared/units.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { canTrack } from '../tracker/support/loop.js';

removeTempFolders();

/** The beginning of a physical volume of 64 MiB as LVM 2.03 left it: `files` of 5 extents and, behind `more` of 5, 2 further ones. */
const PV_HEAD = gunzipSync(readFileSync(new URL('pv-head.bin.gz', import.meta.url)));
const EXTENT_BYTES = 4 * MIB;

const reader =
  (path: string): ReadAt =>
  (offset, length) => {
    const fd = openSync(path, 'r');
    try {
      const bytes = Buffer.alloc(length);
      return bytes.subarray(0, readSync(fd, bytes, 0, length, offset));
    } finally {
      closeSync(fd);
    }
  };
const inMemory =
  (bytes: Buffer): ReadAt =>
  (offset, length) =>
    bytes.subarray(offset, offset + length);

function poke(path: string, offset: number, bytes: Buffer): void {
  const fd = openSync(path, 'r+');
  writeSync(fd, bytes, 0, bytes.length, offset);
  closeSync(fd);
}

async function image(sizeBytes: number, ...make: string[]): Promise<string> {
  const path = join(await tempFolder('layout'), 'disk');
  writeFileSync(path, '');
  truncateSync(path, sizeBytes);
  const [command, ...args] = make;
  if (command !== undefined) execFileSync(command, [...args, path], { stdio: 'ignore' });
  return path;
}

const head = (path: string): Buffer => reader(path)(0, SIGNATURE_BYTES);
const with_ = (at: number, text: string | Buffer): Buffer => {
  const bytes = Buffer.alloc(SIGNATURE_BYTES);
  bytes.write(text.toString('latin1'), at, 'latin1');
  return bytes;
};

describe('what lies at the beginning of a disk', () => {
  test('filesystems, as their tools make them', async () => {
    expect(signatureOf(head(await image(16 * MIB, 'mkfs.ext4', '-q', '-F')))).toEqual({ kind: 'ext', isClean: true });
    expect(signatureOf(head(await image(320 * MIB, 'mkfs.xfs', '-q')))).toEqual({ kind: 'xfs' });
    expect(signatureOf(head(await image(128 * MIB, 'mkfs.btrfs', '-q')))).toEqual({ kind: 'btrfs' });
    expect(signatureOf(Buffer.concat([PV_HEAD, Buffer.alloc(SIGNATURE_BYTES)]))).toEqual({ kind: 'lvm' });
    expect(signatureOf(head(await image(16 * MIB, 'mkswap')))).toMatchObject({ kind: 'other', what: 'swap space' });
  });

  test('an ext filesystem that is mounted, or was not unmounted', async () => {
    const path = await image(16 * MIB, 'mkfs.ext4', '-q', '-F');
    poke(path, 1024 + 58, Buffer.from([0, 0]));
    expect(signatureOf(head(path))).toEqual({ kind: 'ext', isClean: false });
    expect(traceOf(reader(path), 16 * MIB, [])).toEqual({ doubt: 'an ext filesystem that was not unmounted' });
  });

  test.each([
    ['LUKS', with_(0, 'LUKS\xba\xbe'), /LUKS/],
    ['a member of an array', with_(4096, Buffer.from([0xfc, 0x4e, 0x2b, 0xa9])), /md array/],
    ['nothing', Buffer.alloc(SIGNATURE_BYTES), /nothing whose use/],
    ['too little', Buffer.alloc(4096), /too small/],
  ])('%s', (_what, bytes, what) => {
    expect(signatureOf(bytes)).toEqual({ kind: 'other', what: expect.stringMatching(what) as string });
  });

  test('signs of two filesystems: neither is believed', async () => {
    const path = await image(16 * MIB, 'mkfs.ext4', '-q', '-F');
    poke(path, 0, Buffer.from('XFSB'));
    expect(signatureOf(head(path))).toMatchObject({ kind: 'other', what: 'signs of both ext and xfs' });
  });
});

describe('logical volumes', () => {
  test('begin where LVM says', () => {
    expect(lvmLayout(inMemory(PV_HEAD))).toEqual({
      volumes: [
        { name: 'files', offset: MIB, length: 5 * EXTENT_BYTES },
        { name: 'more', offset: MIB + 5 * EXTENT_BYTES, length: 5 * EXTENT_BYTES },
      ],
    });
  });

  test('filesystems in them are looked at, and what is none is a doubt', async () => {
    const disk = await image(64 * MIB);
    poke(disk, 0, PV_HEAD);
    const ext = readFileSync(await image(16 * MIB, 'mkfs.ext4', '-q', '-F'));
    poke(disk, MIB, ext);
    expect(traceOf(reader(disk), 64 * MIB, [])).toEqual({ doubt: 'more: nothing whose use leaves a known trace' });
    poke(disk, MIB + 5 * EXTENT_BYTES, ext);
    const trace = traceOf(reader(disk), 64 * MIB, []);
    expect(trace).toMatchObject({
      ranges: [
        { offset: 0, length: MIB },
        { offset: 63 * MIB, length: MIB },
        { offset: MIB, length: 4096 },
        { offset: MIB + 5 * EXTENT_BYTES, length: 4096 },
      ],
    });
  });

  const text = PV_HEAD.toString('latin1');
  const group = text.slice(text.lastIndexOf('data {')).split('\0')[0] ?? '';
  const uuid = /pv0 \{\s*id = "([^"]+)"/.exec(group)?.[1]?.replaceAll('-', '') ?? '';
  test.each<[string, (of: string) => string, RegExp]>([
    ['of two stripes', (t) => t.replace('stripe_count = 1', 'stripe_count = 2'), /not linear/],
    ['mirrored', (t) => t.replace('type = "striped"', 'type = "raid1"'), /not linear/],
    [
      'that begin on another disk',
      (t) => t.replace('"pv0", 0', '"pv1", 0').replace('"pv0", 10', '"pv0", 0'),
      /another disk/,
    ],
    ['of another disk', (t) => t.replace(/id = "[^"]+"\n\t*device/, 'id = "x"\ndevice'), /does not know/],
  ])('%s are a doubt', (_what, change, doubt) => {
    expect(volumesIn(change(group), uuid)).toEqual({ doubt: expect.stringMatching(doubt) as string });
  });

  test('damaged metadata is a doubt, not an error', () => {
    const damaged = Buffer.from(PV_HEAD);
    damaged.fill(0x7b, 4096 + 512);
    expect(lvmLayout(inMemory(damaged))).toHaveProperty('doubt');
    expect(lvmLayout(inMemory(PV_HEAD.subarray(0, 2048)))).toHaveProperty('doubt');
  });
});

describe('partitions', () => {
  const partition = (offset: number) => ({ name: 'vdb1', offset, sizeBytes: 16 * MIB });

  test('are looked at each; a table without them is a doubt', async () => {
    const disk = await image(32 * MIB);
    poke(disk, 510, Buffer.from([0x55, 0xaa]));
    expect(traceOf(reader(disk), 32 * MIB, [])).toHaveProperty('doubt');
    expect(traceOf(reader(disk), 32 * MIB, [partition(MIB)])).toEqual({
      doubt: 'vdb1: nothing whose use leaves a known trace',
    });
    poke(disk, MIB, readFileSync(await image(16 * MIB, 'mkfs.ext4', '-q', '-F')));
    expect(traceOf(reader(disk), 32 * MIB, [partition(MIB)])).toHaveProperty(['ranges', 2], {
      offset: MIB,
      length: 4096,
    });
  });
});

test.skipIf(!canTrack)(
  'XFS: what a mount writes into the log lies within what is looked at',
  { timeout: 120_000 },
  async () => {
    const path = await image(320 * MIB, 'mkfs.xfs', '-q');
    const at = `${path}.mnt`;
    mkdirSync(at);
    const mounted = (work: () => void = () => undefined): void => {
      const device = execFileSync('losetup', ['-f', '--show', path], { encoding: 'utf8' }).trim();
      try {
        execFileSync('mount', [device, at]);
        work();
        execFileSync('umount', [at]);
      } finally {
        execFileSync('losetup', ['-d', device]);
      }
    };
    // So much that the head lies somewhere amid the log.
    mounted(() => {
      for (let i = 0; i < 400; i++) writeFileSync(join(at, `file${i}`), 'x');
    });
    const ranges = xfsLogRanges(reader(path)) ?? [];
    const superblock = reader(path)(0, 512);
    const blockBytes = superblock.readUInt32BE(4);
    const logBytes = superblock.readUInt32BE(96) * blockBytes;
    const [first] = ranges;
    if (first === undefined) throw new Error('no ranges');
    const before = readFileSync(path);
    mounted();
    const after = readFileSync(path);
    const changed: number[] = [];
    for (let offset = 0; offset < after.length; offset += 512)
      if (after.compare(before, offset, offset + 512, offset, offset + 512) !== 0) changed.push(offset);
    const inLog = changed.filter((offset) => Math.abs(offset - first.offset) < logBytes);
    expect(inLog.length).toBeGreaterThan(0);
    expect(inLog.filter((o) => ranges.some(({ offset, length }) => o >= offset && o < offset + length))).not.toEqual(
      [],
    );
  },
);
