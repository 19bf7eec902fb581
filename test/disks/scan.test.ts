import { closeSync, fsyncSync, openSync, utimesSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execFileSync } from 'node:child_process';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { inspectDevice } from '../../agent/disks/inspect.js';
import type { Source } from '../../agent/disks/footprint.js';
import { Sysfs } from '../../agent/disks/sysfs.js';
import { fingerprint, isStill, type Fingerprint } from '../../agent/tracker/scan.js';
import { systemClock } from '../../shared/clock.js';
import { isRoot, LoopDisks } from '../quiesce/loop-disks.js';

const MIB = 1 << 20;
const sysfs = new Sysfs();
const look = (source: Source): Promise<Fingerprint> => fingerprint(sysfs, source, systemClock);
const sourceOf = (path: string): Source =>
  inspectDevice(path, { sysfs, protectedDisks: [], kept: [], newUuid: () => crypto.randomUUID() }).source;
const quiet = (): Promise<void> => systemClock.sleep(40);

function write(path: string, offset: number): void {
  const fd = openSync(path, 'r+');
  writeSync(fd, Buffer.alloc(4096, 7), 0, 4096, offset);
  fsyncSync(fd);
  closeSync(fd);
}

let disks: LoopDisks;
let folder: string;
beforeEach(() => {
  disks = new LoopDisks();
  folder = execFileSync('mktemp', ['-d', join(tmpdir(), 'afterimage-scan-XXXXXX')], { encoding: 'utf8' }).trim();
  disks.undo(() => execFileSync('rm', ['-r', folder]));
});
afterEach(() => disks.cleanUp());

describe('stillness of files', () => {
  it('is proved by two equal looks, and by nothing less', async () => {
    const path = disks.image(4 * MIB, folder);
    const source = sourceOf(path);
    await quiet();
    const before = await look(source);
    await quiet();
    expect(isStill(before, await look(source))).toEqual({ still: true });
    write(path, 4096);
    expect(isStill(before, await look(source))).toEqual({ still: false, reason: 'the file was written' });
  });

  it('does not trust a file that changed a moment before', async () => {
    const path = disks.image(4 * MIB, folder);
    const source = sourceOf(path);
    // On a busy machine the look may come later than a moment: then once more.
    await expect
      .poll(
        async () => {
          write(path, 0);
          const before = await look(source);
          return isStill(before, await look(source));
        },
        { timeout: 30_000, interval: 1 },
      )
      .toEqual({ still: false, reason: 'the file was written a moment before' });
  });

  it('sees a write whose time of modification was set back', async () => {
    const path = disks.image(4 * MIB, folder);
    utimesSync(path, 1000, 1000);
    await quiet();
    const before = await look(sourceOf(path));
    write(path, 0);
    utimesSync(path, 1000, 1000);
    await quiet();
    expect(isStill(before, await look(sourceOf(path))).still).toBe(false);
  });

  it('sees each round of a concurrent writer', async () => {
    const path = disks.image(4 * MIB, folder);
    const source = sourceOf(path);
    for (let round = 0; round < 20; round++) {
      await quiet();
      const before = await look(source);
      write(path, round * 4096);
      expect(isStill(before, await look(source)).still).toBe(false);
    }
  });

  it('sees stores into a mapped file', async () => {
    const path = disks.image(4 * MIB, folder);
    const source = sourceOf(path);
    const { mmapShared } = await import('../../shared/native/libc.js');
    const fd = openSync(path, 'r+');
    const mapping = mmapShared(fd, 4 * MIB);
    try {
      const bytes = new Uint8Array(mapping.bytes);
      bytes[5] = 1;
      await look(source);
      await quiet();
      const before = await look(source);
      expect(isStill(before, await look(source))).toEqual({ still: true });
      bytes[5] = 2;
      expect(isStill(before, await look(source)).still).toBe(false);
    } finally {
      mapping.unmap();
      closeSync(fd);
    }
  });

  it('sees a file that was replaced or resized', async () => {
    const path = disks.image(4 * MIB, folder);
    await quiet();
    const before = await look(sourceOf(path));
    execFileSync('truncate', ['-s', String(5 * MIB), path]);
    expect(isStill(before, await look(sourceOf(path)))).toMatchObject({ reason: 'the file changed its size' });
    execFileSync('sh', ['-c', 'cp "$0" "$0.new" && mv "$0.new" "$0"', path]);
    expect(isStill(before, await look(sourceOf(path)))).toMatchObject({ reason: 'the file was replaced' });
  });
});

describe.skipIf(!isRoot)('stillness of devices', () => {
  it('sees writes and discards, and stands still without them', async () => {
    const device = disks.attach(disks.image(16 * MIB));
    const source = sourceOf(device);
    const before = await look(source);
    expect(isStill(before, await look(source))).toEqual({ still: true });
    execFileSync('dd', [`if=${device}`, 'of=/dev/null', 'bs=1M', 'iflag=direct'], { stdio: 'ignore' });
    expect(isStill(before, await look(source))).toEqual({ still: true });
    write(device, MIB);
    const written = await look(source);
    expect(isStill(before, written)).toMatchObject({
      still: false,
      reason: expect.stringContaining('was written') as string,
    });
    execFileSync('blkdiscard', ['-o', '0', '-l', String(MIB), device]);
    expect(isStill(written, await look(source)).still).toBe(false);
  });

  it('sees a file written through a loop device on it', async () => {
    const path = disks.image(16 * MIB, folder);
    const device = disks.attach(path);
    const source = sourceOf(path);
    await quiet();
    const before = await look(source);
    expect(before.devices).toHaveLength(1);
    write(device, 0);
    expect(isStill(before, await look(source)).still).toBe(false);
  });

  it('calls a vanished device not still', async () => {
    const source = { kind: 'block', name: 'nothing9', path: '/dev/nothing9' } as const;
    expect(isStill(await look(source), await look(source))).toEqual({ still: false, reason: 'the device is gone' });
  });
});

describe('decision', () => {
  const device = { name: 'sda', diskseq: '1', written: 10, writesInFlight: 0, dax: false };
  const of = (more: Partial<typeof device>): Fingerprint => ({
    takenAtMs: 0,
    file: null,
    devices: [{ ...device, ...more }],
  });
  it.each<[string, Fingerprint, Fingerprint, string | null]>([
    ['equal', of({}), of({}), null],
    ['written', of({}), of({ written: 11 }), 'sda was written'],
    ['in flight before', of({ writesInFlight: 1 }), of({}), 'sda has writes in flight'],
    ['in flight after', of({}), of({ writesInFlight: 1 }), 'sda has writes in flight'],
    ['another disk', of({}), of({ diskseq: '2' }), 'sda was replaced'],
    ['DAX', of({ dax: true }), of({ dax: true }), "sda is written as memory (DAX): its writes can't be counted"],
    ['gone', of({}), { ...of({}), devices: [] }, 'a loop device of the file came or went, or the device is gone'],
  ])('%s', (_, before, after, reason) => {
    const verdict = isStill(before, after);
    expect(verdict.still ? null : verdict.reason).toBe(reason);
  });
});
