import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, vi } from 'vitest';
import { systemClock } from '../../shared/clock.js';
import { silentLogger } from '../../shared/log.js';
import { asDiskId, MIB } from '../../shared/units.js';
import { Volume, type VolumeOptions } from '../../receiver/volume/volume.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { MemoryContent } from '../helpers/memory-content.js';
import { between, randomOf } from '../helpers/random.js';
import { SECTOR, SectorModel, stampedDisk } from './sector-model.js';
import { differing, VolumeLoad, wholeDisk } from './volume-load.js';

removeTempFolders();

/** Reads and writes of the local image take their time now and then, so that whatever may come in between does. */
const late = randomOf(99);
let lateness = 0.03;
vi.mock('node:fs', async (original) => {
  const fs = await original<typeof import('node:fs')>();
  const lateNowAndThen =
    <T extends unknown[]>(call: (...args: T) => void) =>
    (...args: T): void => {
      // The maps' pages are 4 KiB.
      if (late() < lateness && args[3] !== 4096) setTimeout(() => call(...args), between(late, 0, 4));
      else call(...args);
    };
  return {
    ...fs,
    read: lateNowAndThen(fs.read as (...args: unknown[]) => void),
    write: lateNowAndThen(fs.write as (...args: unknown[]) => void),
  };
});

/** Not a multiple of any block, so that the last one is short. */
const SECTORS = (3 * MIB) / SECTOR + 5;

const SEEDS = Number(process.env['AFTERIMAGE_SEEDS'] ?? '4');
const FIRST_SEED = Number(process.env['AFTERIMAGE_SEED'] ?? '1');
const seeds = Array.from({ length: SEEDS }, (_, i) => FIRST_SEED + i);

describe('a volume under random requests', () => {
  it.each(seeds)('holds what was written, cut after cut, opening after opening (seed %i)', async (seed) => {
    const random = randomOf(seed);
    const disk = stampedDisk(random, SECTORS);
    const content = new MemoryContent(disk, seed % 3 === 0 ? 16384 : 4096);
    content.isNear = seed % 4 < 2;
    content.onRead = async () => {
      if (random() < 0.3) await sleep(between(random, 0, 3));
    };
    const model = new SectorModel(disk);
    const options: VolumeOptions = {
      folder: await tempFolder('volume'),
      disk: asDiskId('d0'),
      content,
      baseKey: 'point-1',
      writable: true,
      cacheBytesMax: seed % 2 === 0 ? 256 * 1024 : null,
      clock: systemClock,
      log: silentLogger(),
    };
    for (let opening = 0; opening < 3; opening++) {
      const volume = await Volume.open(options);
      const replica = opening === 0 ? Buffer.from(disk) : await wholeDisk(volume);
      let over = false;
      const load = new VolumeLoad(volume, model, random);
      const loading = load.run(400, 6).finally(() => (over = true));
      const cutting = (async () => {
        while (!over) {
          await sleep(between(random, 0, 5));
          await volume.hold();
          const expected = model.settledDisk();
          const cut = volume.cut();
          volume.resume();
          const commits = random() < 0.7;
          const found = Buffer.from(replica);
          for (const { first, count } of cut.changed.extents()) {
            if (!commits && random() < 0.5) continue;
            if (random() < 0.2) await sleep(1);
            const into = Buffer.alloc(count * volume.blockBytes, 0xee);
            await cut.read(first, count, into);
            const past = first * volume.blockBytes + into.length - found.length;
            if (past > 0) expect(into.subarray(-past).every((b) => b === 0)).toBe(true);
            into.copy(found, first * volume.blockBytes);
          }
          cut.end(commits ? 'committed' : 'given-up');
          if (!commits) continue;
          expect(differing(found, expected, volume.blockBytes)).toEqual([]);
          found.copy(replica);
        }
      })();
      await Promise.all([loading, cutting]);
      expect(differing(await wholeDisk(volume), model.settledDisk(), 512)).toEqual([]);
      await volume.close();
    }
    // Nothing went through to the point.
    expect(content.bytes.subarray(0, disk.length).equals(disk)).toBe(true);
  });

  it('gives up only what it can fetch again, and stays near its bound', async () => {
    const random = randomOf(77);
    const disk = stampedDisk(random, (16 * MIB) / SECTOR);
    const model = new SectorModel(disk);
    const content = new MemoryContent(disk);
    const folder = await tempFolder('volume');
    const options = { folder, disk: asDiskId('d0'), content, baseKey: 'p', writable: true } as const;
    const volume = await Volume.open({
      ...options,
      cacheBytesMax: 3 * MIB,
      clock: systemClock,
      log: silentLogger(),
    });
    const load = new VolumeLoad(volume, model, random);
    await load.run(300, 4);
    await load.flush();
    await load.read(0, SECTORS);
    await load.run(300, 4);
    for (let at = 0; at < model.sectors.length; at += 512) await load.read(at, 512);
    expect(volume.stats().fetchedBytes).toBeGreaterThan(8 * MIB);
    // What is in use at the moment stays; the next fetch tries again.
    const cachedBytes = (): number => volume.stats().localBytes - volume.stats().writtenBytes;
    for (let i = 0; i < 100 && cachedBytes() > 4 * MIB; i++)
      await load.read(between(random, 0, model.sectors.length - 64), 64);
    expect(cachedBytes()).toBeLessThanOrEqual(4 * MIB);
    expect(differing(await wholeDisk(volume), model.settledDisk(), 512)).toEqual([]);
    await volume.close();
  });

  it('a write that needs two blocks of the point has both, however small the cache', async () => {
    const disk = stampedDisk(randomOf(80), (4 * MIB) / SECTOR);
    const model = new SectorModel(disk);
    const content = new MemoryContent(disk);
    content.onRead = () => {
      if (content.reads > 100) throw new Error('fetched again and again');
    };
    const volume = await Volume.open({
      folder: await tempFolder('volume'),
      disk: asDiskId('d0'),
      content,
      baseKey: 'p',
      writable: true,
      cacheBytesMax: 4096,
      clock: systemClock,
      log: silentLogger(),
    });
    const load = new VolumeLoad(volume, model, randomOf(81));
    // Begins and ends within a block, and chunks apart.
    for (let at = 257; at + 1025 < model.sectors.length; at += 1031) await load.writeAt(at, 1025);
    expect(differing(await wholeDisk(volume), model.settledDisk(), 512)).toEqual([]);
    await volume.close();
  });

  it('never gives up blocks under a reader', async () => {
    const disk = stampedDisk(randomOf(78), (8 * MIB) / SECTOR);
    const model = new SectorModel(disk);
    const volume = await Volume.open({
      folder: await tempFolder('volume'),
      disk: asDiskId('d0'),
      content: new MemoryContent(disk),
      baseKey: 'p',
      writable: false,
      cacheBytesMax: MIB,
      clock: systemClock,
      log: silentLogger(),
    });
    // Too large to be tried at once: they go through the file, slowly.
    volume.tryRead = () => false;
    lateness = 0.5;
    const random = randomOf(79);
    const load = new VolumeLoad(volume, model, random);
    const reader = async (): Promise<void> => {
      // How many meet a block that is kept is a matter of chance: until some have.
      for (let i = 0; i < 60 || (i < 600 && volume.stats().cacheHits <= 20); i++)
        await load.read(between(random, 0, model.sectors.length - 256), 256);
    };
    await Promise.all(Array.from({ length: 8 }, reader));
    lateness = 0.03;
    expect(volume.stats().cacheHits).toBeGreaterThan(20);
    await volume.close();
  });
});
