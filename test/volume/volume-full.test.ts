/** What a volume does when the filesystem of its local image is full: a real one, small. */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../shared/clock.js';
import { silentLogger } from '../../shared/log.js';
import { asDiskId, MIB } from '../../shared/units.js';
import { Volume } from '../../receiver/volume/volume.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { isRoot } from '../helpers/loop.js';
import { MemoryContent } from '../helpers/memory-content.js';
import { randomOf } from '../helpers/random.js';
import { SECTOR, SectorModel, stampedDisk } from './sector-model.js';
import { differing, VolumeLoad, wholeDisk } from './volume-load.js';

removeTempFolders();
if (!isRoot) console.log('skipped: a full filesystem needs root (mount)');

const mounted: string[] = [];
afterAll(() => {
  // Lazily: a test that failed has left its volume open.
  for (const mount of mounted.splice(0)) execFileSync('umount', ['-l', mount]);
});

async function smallFilesystem(kind: 'tmpfs' | 'ext4', sizeBytes: number): Promise<string> {
  const root = await tempFolder('volume-full');
  const mount = join(root, 'mount');
  await mkdir(mount);
  if (kind === 'tmpfs') execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${sizeBytes}`, 'tmpfs', mount]);
  else {
    const file = join(root, 'backing');
    writeFileSync(file, '');
    execFileSync('truncate', ['-s', `${sizeBytes}`, file]);
    execFileSync('mkfs.ext4', ['-q', '-m', '0', '-O', '^has_journal', file]);
    execFileSync('mount', ['-o', 'loop', file, mount]);
  }
  mounted.push(mount);
  return mount;
}

describe.skipIf(!isRoot)('a volume on a full filesystem', () => {
  it.each(['tmpfs', 'ext4'] as const)('goes on reading, and refuses writes with a reason (%s)', async (kind) => {
    const mount = await smallFilesystem(kind, 6 * MIB);
    const disk = stampedDisk(randomOf(3), (12 * MIB) / SECTOR);
    const content = new MemoryContent(disk);
    const model = new SectorModel(disk);
    const options = {
      folder: join(mount, 'volume'),
      disk: asDiskId('d0'),
      content,
      baseKey: 'p',
      writable: true,
      cacheBytesMax: null,
      clock: systemClock,
      log: silentLogger(),
    };
    const volume = await Volume.open(options);
    const load = new VolumeLoad(volume, model, randomOf(4));
    // More than there is room for: the rest is answered without being kept.
    expect(differing(await wholeDisk(volume), disk, SECTOR)).toEqual([]);
    expect(volume.stats().localBytes).toBeLessThan(11 * MIB);
    // The cache makes room for writes, until writes alone fill the filesystem.
    const full: unknown[] = [];
    const count = (256 * 1024) / SECTOR;
    let acknowledged = 0;
    for (let first = 8; first + count < model.sectors.length; first += count) {
      await load.writeAt(first, count).then(
        () => acknowledged++,
        (error: unknown) => full.push(error),
      );
    }
    expect(acknowledged).toBeGreaterThanOrEqual(10);
    expect(full.length).toBeGreaterThan(10);
    for (const error of full) expect(error).toMatchObject({ code: 'volume-full', kind: 'io' });
    expect((full[0] as { hint?: string }).hint).toContain('Free space');
    for (let first = 0; first + count < model.sectors.length; first += count) await load.read(first, count);
    // What was acknowledged can still be made durable, and is there afterwards.
    await load.flush();
    const before = await wholeDisk(volume);
    await volume.close();
    const again = await Volume.open({ ...options, bootId: 'after a crash' });
    expect(differing(await wholeDisk(again), before, SECTOR)).toEqual([]);
    // Room again: writes go on.
    await again.trim(0, 12 * MIB);
    await again.write(0, disk.subarray(0, MIB));
    await again.close();
  });

  it('gives up nothing once the point is not needed any more', async () => {
    const mount = await smallFilesystem('tmpfs', 4 * MIB);
    const disk = Buffer.alloc(12 * MIB);
    disk.fill(7, 0, 2 * MIB);
    const content = new MemoryContent(disk);
    const volume = await Volume.open({
      folder: join(mount, 'volume'),
      disk: asDiskId('d0'),
      content,
      baseKey: 'p',
      writable: true,
      cacheBytesMax: null,
      clock: systemClock,
      log: silentLogger(),
    });
    expect(await volume.hydrate({ bytesPerSecond: null, signal: new AbortController().signal })).toBe('complete');
    content.onRead = () => {
      throw new Error('the point is gone');
    };
    await expect(volume.write(4 * MIB, Buffer.alloc(6 * MIB, 9))).rejects.toMatchObject({ code: 'volume-full' });
    expect(volume.isComplete).toBe(true);
    expect((await wholeDisk(volume)).subarray(0, 2 * MIB).every((b) => b === 7)).toBe(true);
    await volume.close();
  });
});
