/**
 * Crashes of the host, simulated: what is on the disk afterwards is, page by page, either what the last completed sync of the file covered or anything
 * newer. Crashes are taken at random moments under load, and at the worst ones: within syncs.
 */
import { copyFileSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, vi } from 'vitest';
import { systemClock } from '../../shared/clock.js';
import { silentLogger } from '../../shared/log.js';
import { asDiskId, MIB } from '../../shared/units.js';
import { Volume, type VolumeOptions } from '../../receiver/volume/volume.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { MemoryContent } from '../helpers/memory-content.js';
import { between, randomOf, type Random } from '../helpers/random.js';
import { SECTOR, SectorModel, stampedDisk } from './sector-model.js';
import { differing, VolumeLoad, wholeDisk } from './volume-load.js';

removeTempFolders();

/** What is surely on the disk: path of a file → its bytes at the start of the last sync that completed. */
const stable = new Map<string, Buffer>();
let onSync: (path: string) => void = () => undefined;

vi.mock('node:fs', async (original) => {
  const fs = await original<typeof import('node:fs')>();
  const fdatasync = (fd: number, done: (error: Error | null) => void): void => {
    const path = fs.readlinkSync(`/proc/self/fd/${fd}`);
    onSync(path);
    const covered = fs.readFileSync(path);
    fs.fdatasync(fd, (error) => {
      stable.set(path, covered);
      onSync(path);
      done(error);
    });
  };
  return { ...fs, fdatasync };
});

const SECTORS = (2 * MIB) / SECTOR + 5;

interface Crash {
  readonly folder: string;
  /** Oldest value of each sector that may be found. */
  readonly floors: readonly number[];
  /** Number of values issued by then, per sector. */
  readonly issued: readonly number[];
}

function mixed(random: Random, path: string, unitBytes: number): Buffer {
  const now = readFileSync(path);
  const then = stable.get(path);
  // Never synced by itself: made when the folder was, and empty.
  const old = then ?? Buffer.alloc(now.length);
  const keeps = random();
  for (let at = 0; at < now.length; at += unitBytes) {
    if (random() < keeps) old.copy(now, at, at, Math.min(now.length, at + unitBytes));
  }
  return now;
}

function crash(random: Random, from: string, to: string, model: SectorModel): Crash {
  writeFileSync(join(to, 'image'), mixed(random, join(from, 'image'), 4096));
  writeFileSync(join(to, 'durable'), mixed(random, join(from, 'durable'), SECTOR));
  // Never synced: may hold anything.
  writeFileSync(join(to, 'live'), Buffer.alloc(statSync(join(from, 'live')).size, 0xff));
  copyFileSync(join(from, 'header'), join(to, 'header'));
  return { folder: to, floors: model.sectors.map((s) => s.floor), issued: model.sectors.map((s) => s.values.length) };
}

describe('after a crash of the host', () => {
  it.each([11, 12, 13])('blocks are as flushed or newer, and what differs is known (seed %i)', async (seed) => {
    const random = randomOf(seed);
    const disk = stampedDisk(random, SECTORS);
    const content = new MemoryContent(disk);
    const root = await tempFolder('volume-crash');
    let bootId = 'boot-0';
    const options = (folder: string): VolumeOptions => ({
      folder,
      disk: asDiskId('d0'),
      content,
      baseKey: 'p',
      writable: true,
      cacheBytesMax: seed % 2 === 0 ? 128 * 1024 : null,
      clock: systemClock,
      log: silentLogger(),
      bootId,
    });
    const model = new SectorModel(disk);
    const folder = join(root, 'first');
    const volume = await Volume.open(options(folder));
    const crashes: Crash[] = [];
    const folders = Array.from({ length: 16 }, (_, i) => join(root, `crash-${i}`));
    for (const to of folders) await mkdir(to);
    const crashNow = (): void => {
      const to = folders.pop();
      if (to !== undefined) crashes.push(crash(random, folder, to, model));
    };
    onSync = (path) => {
      if (path.startsWith(folder) && random() < (basename(path) === 'image' ? 0.1 : 0.2)) crashNow();
    };
    let over = false;
    const load = new VolumeLoad(volume, model, random);
    const crashing = (async () => {
      while (!over && folders.length > 0) {
        await sleep(between(random, 0, 20));
        crashNow();
      }
    })();
    await load.run(700, 6).finally(() => (over = true));
    await crashing;
    onSync = () => undefined;
    await volume.close();

    expect(crashes.length).toBeGreaterThan(10);
    for (const [i, { folder: crashed, floors, issued }] of crashes.entries()) {
      bootId = `boot-${i + 1}`;
      const again = await Volume.open(options(crashed));
      const found = await wholeDisk(again);
      const then = new SectorModel(disk);
      then.sectors.forEach((s, k) => s.values.splice(0, 1, ...(model.sectors[k]?.values.slice(0, issued[k]) ?? [])));
      expect(then.problem(found, 0, floors)).toBeUndefined();
      await again.hold();
      const { changed } = again.cut();
      again.resume();
      expect(differing(found, disk, 4096).filter((block) => !changed.has(block))).toEqual([]);
      await again.close();
      // Closed in good order: the next boot finds the same, and no more doubt.
      bootId = `boot-${i + 1}b`;
      const third = await Volume.open(options(crashed));
      expect(differing(await wholeDisk(third), found, 4096)).toEqual([]);
      await third.close();
    }
  });

  it('a read-only volume keeps its cache without doubt', async () => {
    const disk = stampedDisk(randomOf(5), SECTORS);
    const content = new MemoryContent(disk);
    const folder = await tempFolder('volume-crash');
    const common = { disk: asDiskId('d0'), content, baseKey: 'p', writable: false, cacheBytesMax: null } as const;
    const rest = { clock: systemClock, log: silentLogger() };
    const volume = await Volume.open({ ...common, ...rest, folder, bootId: 'a' });
    await wholeDisk(volume);
    // What was read is kept in the background; a flush covers what was kept.
    await vi.waitFor(() => expect(volume.stats().localBytes).toBe(disk.length));
    await volume.flush();
    const to = await tempFolder('volume-crash');
    crash(randomOf(6), folder, to, new SectorModel(disk));
    await volume.close();
    const again = await Volume.open({ ...common, ...rest, folder: to, bootId: 'b' });
    expect(again.changedBlocks).toBe(0);
    content.onRead = () => {
      throw new Error('the cache should have it');
    };
    expect(differing(await wholeDisk(again), disk, 4096)).toEqual([]);
    await again.close();
  });
});
