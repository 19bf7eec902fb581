import { setTimeout as sleep } from 'node:timers/promises';
import { join } from 'node:path';
import { existsSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { BlockSet } from '../../shared/blocks/block-set.js';
import { systemClock } from '../../shared/clock.js';
import { silentLogger } from '../../shared/log.js';
import { asDiskId, KIB, MIB } from '../../shared/units.js';
import type { HydrationProgress } from '../../receiver/volume/local/hydration.js';
import { Volume, type VolumeOptions } from '../../receiver/volume/volume.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { MemoryContent } from '../helpers/memory-content.js';
import { randomOf } from '../helpers/random.js';
import { SECTOR, SectorModel, stampedDisk } from './sector-model.js';
import { differing, VolumeLoad, wholeDisk } from './volume-load.js';

removeTempFolders();

const SIZE = 6 * MIB + 3 * SECTOR;
const disk = stampedDisk(randomOf(21), SIZE / SECTOR);

async function optionsFor(content: MemoryContent, more: Partial<VolumeOptions> = {}): Promise<VolumeOptions> {
  return {
    folder: join(await tempFolder('volume-hydrate'), 'volume'),
    disk: asDiskId('d0'),
    content,
    baseKey: 'p',
    writable: true,
    cacheBytesMax: null,
    clock: systemClock,
    log: silentLogger(),
    ...more,
  };
}

const forever = (): AbortSignal => new AbortController().signal;

describe('hydration', () => {
  it('makes everything local under load; then the point is not needed any more, in no boot', async () => {
    const content = new MemoryContent(disk);
    const model = new SectorModel(disk);
    const options = await optionsFor(content, { cacheBytesMax: 512 * KIB });
    const volume = await Volume.open(options);
    const load = new VolumeLoad(volume, model, randomOf(22));
    const progress: HydrationProgress[] = [];
    const hydrating = volume.hydrate({ bytesPerSecond: null, signal: forever(), onProgress: (p) => progress.push(p) });
    await Promise.all([hydrating, load.run(300, 4)]);
    expect(await hydrating).toBe('complete');
    expect(volume.isComplete).toBe(true);
    expect(volume.stats().hydratedPercent).toBe(100);
    expect(progress.at(-1)).toMatchObject({ localBytes: SIZE, totalBytes: SIZE, timeLeftMs: 0, problem: null });
    content.onRead = () => {
      throw new Error('the point is gone');
    };
    await load.run(200, 4);
    await volume.close();
    for (const bootId of ['x', 'y']) {
      const again = await Volume.open({ ...options, content: null, bootId });
      expect(again.isComplete).toBe(true);
      expect(differing(await wholeDisk(again), model.settledDisk(), SECTOR)).toEqual([]);
      await again.close();
    }
  });

  it('knows which blocks it keeps, whatever becomes of the point', async () => {
    const content = new MemoryContent(disk);
    const asked = BlockSet.of([0, 1, 2, 40]);
    const bounded = await Volume.open(await optionsFor(content, { cacheBytesMax: 512 * KIB }));
    const unbounded = await Volume.open(await optionsFor(content));
    for (const volume of [bounded, unbounded]) {
      await volume.write(volume.blockBytes, Buffer.alloc(volume.blockBytes, 7));
      await volume.read(0, Buffer.alloc(volume.blockBytes));
    }
    // What is only cached may be given up.
    expect([...bounded.held(asked).blocks()]).toEqual([1]);
    expect(unbounded.held(asked).has(1)).toBe(true);
    expect(unbounded.held(asked).has(40)).toBe(false);
    await unbounded.hydrate({ bytesPerSecond: null, signal: forever() });
    expect([...unbounded.held(asked).blocks()]).toEqual([0, 1, 2, 40]);
    await bounded.close();
    await unbounded.close();
  });

  it('shows what it can not fetch, and tries again', async () => {
    const content = new MemoryContent(disk);
    let broken = true;
    content.onRead = (first) => {
      if (broken && first > 500) throw new Error('the store is down');
    };
    const volume = await Volume.open(await optionsFor(content));
    const problems: (string | null)[] = [];
    const hydrating = volume.hydrate({
      bytesPerSecond: null,
      signal: forever(),
      onProgress: ({ problem }) => {
        problems.push(problem);
        if (problem !== null) broken = false;
      },
    });
    expect(await hydrating).toBe('complete');
    expect(problems).toContain('the store is down');
    expect(problems.at(-1)).toBeNull();
    expect(differing(await wholeDisk(volume), disk, SECTOR)).toEqual([]);
    await volume.close();
  });

  it('keeps to its rate, is paused and goes on where it was', async () => {
    const content = new MemoryContent(disk);
    const volume = await Volume.open(await optionsFor(content));
    const pause = new AbortController();
    const hydrating = volume.hydrate({ bytesPerSecond: 4 * MIB, signal: pause.signal });
    await sleep(300);
    pause.abort();
    expect(await hydrating).toBe('stopped');
    const { hydratedPercent, fetchedBytes } = volume.stats();
    expect(hydratedPercent).toBeGreaterThan(0);
    expect(hydratedPercent).toBeLessThan(80);
    expect(volume.isComplete).toBe(false);
    expect(await volume.hydrate({ bytesPerSecond: null, signal: forever() })).toBe('complete');
    expect(volume.stats().fetchedBytes).toBeLessThanOrEqual(SIZE + 4096);
    expect(volume.stats().fetchedBytes).toBeGreaterThan(fetchedBytes);
    await volume.close();
  });

  it('is stopped by closing', async () => {
    const content = new MemoryContent(disk);
    content.onRead = () => sleep(5);
    const volume = await Volume.open(await optionsFor(content));
    const hydrating = volume.hydrate({ bytesPerSecond: 64 * KIB, signal: forever() });
    await sleep(20);
    await volume.close();
    expect(await hydrating).toBe('stopped');
    await expect(volume.read(0, Buffer.alloc(512))).rejects.toMatchObject({ code: 'volume-closed' });
    expect(volume.tryRead(0, Buffer.alloc(512))).toBe(false);
  });
});

describe('a volume', () => {
  it('is refused over another point, and for two at a time; destroyed when it is closed', async () => {
    const options = await optionsFor(new MemoryContent(disk));
    const volume = await Volume.open(options);
    await expect(Volume.open(options)).rejects.toMatchObject({ code: 'volume-in-use' });
    await expect(Volume.destroy(options.folder)).rejects.toMatchObject({ code: 'volume-in-use' });
    await volume.write(0, Buffer.alloc(4096, 1));
    await volume.close();
    await expect(Volume.open({ ...options, baseKey: 'q' })).rejects.toMatchObject({ code: 'volume-other-base' });
    await expect(Volume.open({ ...options, content: null })).rejects.toMatchObject({ code: 'volume-incomplete' });
    const readOnly = await Volume.open({ ...options, writable: false });
    await expect(readOnly.write(0, Buffer.alloc(512))).rejects.toMatchObject({ code: 'volume-read-only' });
    expect((await wholeDisk(readOnly)).subarray(0, 4096).every((b) => b === 1)).toBe(true);
    await readOnly.close();
    await Volume.destroy(options.folder);
    expect(existsSync(options.folder)).toBe(false);
    await Volume.destroy(options.folder);
  });

  it('reads another point after a rebase, and is opened with it', async () => {
    const model = new SectorModel(disk);
    const first = new MemoryContent(disk);
    const options = await optionsFor(first);
    const volume = await Volume.open(options);
    const load = new VolumeLoad(volume, model, randomOf(31));
    await load.run(100, 4);
    const point = model.settledDisk();
    const second = new MemoryContent(point);
    await volume.rebase(second, 'q');
    first.onRead = () => {
      throw new Error('no longer');
    };
    await load.run(100, 4);
    expect(differing(await wholeDisk(volume), model.settledDisk(), SECTOR)).toEqual([]);
    await volume.close();
    await expect(Volume.open(options)).rejects.toMatchObject({ code: 'volume-other-base' });
    const again = await Volume.open({ ...options, content: second, baseKey: 'q', bootId: 'other' });
    expect(differing(await wholeDisk(again), model.settledDisk(), SECTOR)).toEqual([]);
    await again.close();
  });

  it('says what is allocated: never a hole where there is data', async () => {
    const random = randomOf(41);
    const volume = await Volume.open(await optionsFor(new MemoryContent(disk)));
    const model = new SectorModel(disk);
    const load = new VolumeLoad(volume, model, random);
    for (let round = 0; round < 4; round++) {
      await load.run(60, 4);
      const now = model.settledDisk();
      let zeroBytes = 0;
      for (let at = 512 * round; at < SIZE;) {
        const runs = await volume.allocation(at, SIZE - at, 3);
        expect(runs.length).toBeGreaterThan(0);
        expect(runs.length).toBeLessThanOrEqual(3);
        for (const { lengthBytes, zero, hole } of runs) {
          expect(lengthBytes).toBeGreaterThan(0);
          expect(hole).toBe(zero);
          if (zero) {
            zeroBytes += lengthBytes;
            expect(now.subarray(at, at + lengthBytes).every((b) => b === 0)).toBe(true);
          }
          at += lengthBytes;
        }
        expect(at).toBeLessThanOrEqual(SIZE);
      }
      expect(zeroBytes).toBeGreaterThan(0);
    }
    await volume.close();
  });

  it('does not take trimming what is zero anyway for a change, but does so for the rest', async () => {
    const content = new MemoryContent(Buffer.alloc(4 * MIB));
    content.bytes.fill(7, MIB, 2 * MIB);
    const volume = await Volume.open(await optionsFor(content));
    await volume.trim(0, 4 * MIB);
    expect(volume.changedBlocks).toBe(256);
    expect((await wholeDisk(volume)).every((b) => b === 0)).toBe(true);
    await volume.close();
  });

  it('reads a full write that comes while its block is being fetched, not what was fetched', async () => {
    const content = new MemoryContent(disk);
    const volume = await Volume.open(await optionsFor(content));
    const at = disk.findIndex((b) => b !== 0);
    const offset = at - (at % 4096);
    let fetched: () => void = () => undefined;
    const gate = new Promise<void>((go) => (fetched = go));
    content.onRead = (_first, _count, when) => (when === 'late' ? gate : undefined);
    const reading = volume.read(offset, Buffer.alloc(4096));
    const partial = volume.write(offset + 4096 + 512, Buffer.alloc(512, 5));
    await volume.write(offset, Buffer.alloc(4096, 9));
    fetched();
    await Promise.all([reading, partial]);
    const into = Buffer.alloc(8192);
    await volume.read(offset, into);
    expect(into.subarray(0, 4096).every((b) => b === 9)).toBe(true);
    expect(into.subarray(4096 + 512, 4096 + 1024).every((b) => b === 5)).toBe(true);
    expect(into.subarray(4096 + 1024).equals(disk.subarray(offset + 4096 + 1024, offset + 8192))).toBe(true);
    await volume.close();
  });
});
