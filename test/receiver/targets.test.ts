/**
 * Targets of a restore: files and devices, what is refused, what is continued after a cancel or a kill.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { constants, existsSync } from 'node:fs';
import { mkdir, open, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { openStore } from '../../receiver/store/open.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { giveBackAligned, takeAligned } from '../../receiver/volume/aligned-pool.js';
import { openTarget } from '../../receiver/volume/target.js';
import { MIB } from '../../shared/units.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { Chain, type Model } from '../helpers/layers.js';
import { detachLoops, isRoot, loopDevice } from '../helpers/loop.js';
import { planOf, restoreTo, type Planned } from '../helpers/restore.js';
import { differences } from '../helpers/restored.js';

removeTempFolders();
detachLoops();

let url: string;
let store: ObjectStore;
let chain: Chain;
let planned: Planned;
let model: Model;
/** Ends in the middle of a block and of a segment. */
const SIZE = 200 * MIB + 3 * 512;

beforeAll(async () => {
  url = `file:${await tempFolder('targets')}/store`;
  store = await openStore(url, { create: true });
  chain = new Chain(store, { sizeBytes: SIZE, blockBytes: 4096 });
  const last = chain.geometry.blockCount - 1;
  for (const first of [0, 10_000, 16_380, 40_000, last - 20]) {
    const blocks = Array.from({ length: 21 }, (_, i) => chain.block(first + i, 'first'));
    chain.apply([{ first, blocks }]);
  }
  for (let s = 0; s < chain.geometry.segmentCount; s++) await chain.base(s, 1);
  chain.point(1);
  for (let p = 2; p <= 6; p++) {
    const changes = [
      { first: 100 * p, blocks: [chain.block(100 * p, `at ${p}`), chain.block(100 * p + 1, `at ${p}`, false)] },
      { first: 10_000 + p, zeroCount: 1 },
    ];
    chain.apply(changes);
    await chain.delta(p, p, changes);
    chain.point(p);
  }
  await chain.publish();
  planned = await planOf(store, chain.machine, chain.disk, 6);
  model = chain.models.get(6) ?? new Map();
});

const target = async (name: string): Promise<string> => join(await tempFolder('target'), name);
const check = async (path: string): Promise<void> => expect(await differences(path, chain.geometry, model)).toEqual([]);

describe('restore to a file', () => {
  it('writes through the page cache what the kernel refuses to write around it', async () => {
    const path = await target('unaligned.raw');
    const file = await openTarget(path, { sizeBytes: 64 * 1024 + 512, sparse: true });
    try {
      await file.prepare();
      const aligned = takeAligned();
      aligned.fill(1, 0, 8192);
      await file.write(0, aligned.subarray(0, 8192));
      // At an odd address.
      await file.write(8192, Buffer.alloc(4097, 2).subarray(1));
      aligned.fill(3, 0, 4096 + 512);
      await file.write(64 * 1024 - 4096, aligned.subarray(0, 4096 + 512));
      giveBackAligned(aligned);
      await file.sync();
    } finally {
      await file.close();
    }
    const expected = Buffer.alloc(64 * 1024 + 512);
    expected
      .fill(1, 0, 8192)
      .fill(2, 8192, 12_288)
      .fill(3, 64 * 1024 - 4096);
    expect((await readFile(path)).equals(expected)).toBe(true);
  });

  it('makes a sparse file', async () => {
    const path = await target('sparse.raw');
    await restoreTo(planned, { path, sparse: true, readBack: true });
    await check(path);
    const { size, blocks } = await stat(path);
    expect(size).toBe(SIZE);
    expect(blocks * 512).toBeLessThan(4 * MIB);
    expect(existsSync(`${path}.afterimage-restore`)).toBe(false);
  });

  it('reserves the space of a raw file', async () => {
    const path = await target('raw.raw');
    await restoreTo(planned, { path, sparse: false, readBack: true });
    await check(path);
    expect((await stat(path)).blocks * 512).toBeGreaterThanOrEqual(SIZE);
  });

  it('reports progress up to the end', async () => {
    const path = await target('progress.raw');
    const seen: number[] = [];
    await restoreTo(planned, { path, onProgress: (r) => seen.push(r.bytesDone / r.bytesTotal) });
    expect(seen.at(-1)).toBe(1);
  });

  it('refuses a file that holds something, unless forced', async () => {
    const path = await target('full.raw');
    await writeFile(path, 'precious');
    await expect(restoreTo(planned, { path })).rejects.toMatchObject({ code: 'target-not-empty', kind: 'refused' });
    expect(await readFile(path, 'utf8')).toBe('precious');
    await restoreTo(planned, { path, force: true });
    await check(path);
  });

  it('refuses what can not be a file, as bad input', async () => {
    const folder = await tempFolder('bad');
    for (const path of [folder, join(folder, 'none', 'x.raw'), '', '/dev/afterimage-none', '/dev/null']) {
      await expect(restoreTo(planned, { path, journalPath: join(folder, 'j') })).rejects.toMatchObject({
        kind: 'usage',
      });
    }
  });

  it('continues after a cancel and keeps what was done', async () => {
    const path = await target('cancelled.raw');
    const stop = new AbortController();
    let units = 0;
    const signal = stop.signal;
    const cancelSoon = setInterval(() => existsSync(`${path}.afterimage-restore`) && ++units > 0 && stop.abort(), 1);
    const first = restoreTo(planned, { path, signal, syncBytes: 1 });
    await expect(first).rejects.toMatchObject({
      code: 'cancelled',
      kind: 'cancelled',
      hint: expect.stringMatching(/again/) as unknown,
    });
    clearInterval(cancelSoon);
    const result = await restoreTo(planned, { path, readBack: true });
    expect(result.digest).toBe(planned.disk.digest);
    await check(path);
  });

  it('does not continue with another point, nor on a file that was cut short', async () => {
    const path = await target('other.raw');
    const child = killedRestore(path, `${path}.afterimage-restore`, 'restore.unit-recorded:3');
    expect(child.signal).toBe('SIGKILL');
    const other = await planOf(store, chain.machine, chain.disk, 5);
    await expect(restoreTo(other, { path })).rejects.toMatchObject({ code: 'restore-other', kind: 'refused' });
    await truncate(path, SIZE - 512);
    await expect(restoreTo(planned, { path })).rejects.toMatchObject({ code: 'target-not-empty' });
    const result = await restoreTo(planned, { path, force: true, readBack: true });
    expect(result.keptBytes).toBe(0);
    await check(path);
  });

  it('drops a torn last line of its journal', async () => {
    const path = await target('torn.raw');
    const journal = `${path}.afterimage-restore`;
    killedRestore(path, journal, 'restore.unit-recorded:4');
    const lines = await readFile(journal, 'utf8');
    await writeFile(journal, lines.slice(0, -7));
    const result = await restoreTo(planned, { path, readBack: true });
    expect(result.keptBytes).toBeGreaterThan(0);
    await check(path);
  });
});

function killedRestore(path: string, journal: string, point: string, force = false): { signal: string | null } {
  const child = ['--import', './test/helpers/ts-loader.mjs', 'test/receiver/restore-child.ts'];
  const args = [...child, url, '6', path, journal, ...(force ? ['force'] : [])];
  const { signal } = spawnSync(process.execPath, args, {
    env: { ...process.env, AFTERIMAGE_FAILPOINT: point },
    stdio: 'inherit',
  });
  return { signal };
}

describe('restore after kill -9', () => {
  for (const [place, keeps] of [
    ['restore.unit-written:1', false],
    ['restore.unit-written:5', true],
    ['restore.unit-recorded:1', true],
    ['restore.unit-recorded:4', true],
  ] as const) {
    it(`continues on a file (${place})`, { timeout: 30_000 }, async () => {
      const path = await target('killed.raw');
      expect(killedRestore(path, `${path}.afterimage-restore`, place).signal).toBe('SIGKILL');
      const result = await restoreTo(planned, { path, readBack: true });
      expect(result.keptBytes > 0).toBe(keeps);
      await check(path);
    });
  }

  it.skipIf(!isRoot)('continues on a device that held other data', { timeout: 30_000 }, async () => {
    const folder = await tempFolder('device');
    const backing = join(folder, 'disk');
    await writeFile(backing, Buffer.alloc(201 * MIB, 0x5a));
    const device = loopDevice(backing, 201 * MIB);
    const journalPath = join(folder, 'state', 'journal');
    await expect(restoreTo(planned, { path: device, journalPath })).rejects.toMatchObject({ code: 'target-not-empty' });
    expect(existsSync(journalPath)).toBe(false);
    expect(killedRestore(device, journalPath, 'restore.unit-recorded:3', true).signal).toBe('SIGKILL');
    const result = await restoreTo(planned, { path: device, journalPath, readBack: true });
    expect(result.keptBytes).toBeGreaterThan(0);
    await check(device);
    // Beyond the end of the disk the device is left alone.
    const rest = execFileSync('dd', [`if=${device}`, 'bs=512', `skip=${SIZE / 512}`, 'count=1', 'status=none']);
    expect(rest.equals(Buffer.alloc(512, 0x5a))).toBe(true);
  });
});

describe.skipIf(!isRoot)('restore to a device (root)', () => {
  const attach = async (sizeBytes: number): Promise<{ device: string; folder: string; journalPath: string }> => {
    const folder = await tempFolder('device');
    return { device: loopDevice(join(folder, 'disk'), sizeBytes), folder, journalPath: join(folder, 'journal') };
  };

  it('writes an empty device of the right size', async () => {
    const { device, journalPath } = await attach(SIZE);
    await restoreTo(planned, { path: device, journalPath, readBack: true });
    await check(device);
  });

  it('refuses one that is too small, as bad input', async () => {
    const { device, journalPath } = await attach(SIZE - 512);
    await expect(restoreTo(planned, { path: device, journalPath, force: true })).rejects.toMatchObject({
      code: 'target-too-small',
      exitCode: 2,
    });
  });

  it('refuses a mounted one, even when forced, and one that holds a filesystem', async () => {
    const { device, folder, journalPath } = await attach(256 * MIB);
    execFileSync('mkfs.ext4', ['-q', '-F', device]);
    await expect(restoreTo(planned, { path: device, journalPath })).rejects.toMatchObject({ code: 'target-not-empty' });
    const mount = join(folder, 'mount point');
    await mkdir(mount);
    execFileSync('mount', [device, mount]);
    try {
      const forced = restoreTo(planned, { path: device, journalPath, force: true });
      await expect(forced).rejects.toMatchObject({ code: 'target-mounted', kind: 'refused' });
      await expect(restoreTo(planned, { path: device, journalPath, force: true })).rejects.toThrow(/mount point/);
    } finally {
      execFileSync('umount', [mount]);
    }
    // What a loop device is made of is in use as well.
    const backing = join(folder, 'disk');
    await expect(restoreTo(planned, { path: backing, force: true })).rejects.toMatchObject({ code: 'target-held' });
    await restoreTo(planned, { path: device, journalPath, force: true, readBack: true });
    await check(device);
  });

  it('refuses swap space, and one that another restore holds', async () => {
    const { device, folder, journalPath } = await attach(SIZE);
    const handle = await open(device, constants.O_RDWR | constants.O_EXCL);
    await expect(restoreTo(planned, { path: device, journalPath })).rejects.toMatchObject({ code: 'target-busy' });
    await handle.close();
    execFileSync('mkswap', [device], { stdio: 'ignore' });
    execFileSync('swapon', [device]);
    try {
      await expect(restoreTo(planned, { path: device, journalPath, force: true })).rejects.toMatchObject({
        code: 'target-swap',
      });
    } finally {
      execFileSync('swapoff', [device]);
    }
    expect(existsSync(join(folder, 'journal'))).toBe(false);
  });
});
