/**
 * A sync that fails: the kernel may drop what it could not write and call the pages clean. Nothing may count on them afterwards, also not a process that
 * opens the image anew in the same boot of the host.
 */
import { closeSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, vi } from 'vitest';
import { systemClock } from '../../shared/clock.js';
import { silentLogger } from '../../shared/log.js';
import { asDiskId, MIB } from '../../shared/units.js';
import { Volume, type VolumeOptions } from '../../receiver/volume/volume.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { MemoryContent } from '../helpers/memory-content.js';

removeTempFolders();

let failsOn = '';
vi.mock('node:fs', async (original) => {
  const fs = await original<typeof import('node:fs')>();
  const fdatasync = (fd: number, done: (error: Error | null) => void): void => {
    const path = fs.readlinkSync(`/proc/self/fd/${fd}`);
    if (failsOn !== '' && path.endsWith(failsOn)) done(Object.assign(new Error('EIO: i/o error'), { code: 'EIO' }));
    else fs.fdatasync(fd, done);
  };
  return { ...fs, fdatasync };
});

it('what a failed sync may have lost is not believed after reopening in the same boot', async () => {
  const folder = join(await tempFolder('sync-failed'), 'volume');
  const content = new MemoryContent(Buffer.alloc(MIB, 7));
  const options: VolumeOptions = {
    folder,
    disk: asDiskId('root'),
    content,
    baseKey: 'point 1',
    writable: true,
    cacheBytesMax: null,
    clock: systemClock,
    log: silentLogger(),
  };
  const volume = await Volume.open(options);
  await volume.write(0, Buffer.alloc(4096, 1));
  await volume.flush();
  await volume.write(8192, Buffer.alloc(4096, 2));
  failsOn = '/image';
  await expect(volume.flush()).rejects.toThrow();
  await expect(volume.write(0, Buffer.alloc(4096, 3))).rejects.toThrow();
  await volume.close().catch(() => undefined);
  failsOn = '';
  // The page is dropped: what was a hole is one again.
  const fd = openSync(join(folder, 'image'), 'r+');
  writeSync(fd, Buffer.alloc(4096), 0, 4096, 8192);
  closeSync(fd);
  const again = await Volume.open(options);
  const block = Buffer.alloc(4096);
  await again.read(8192, block);
  expect(block.equals(Buffer.alloc(4096, 7))).toBe(true);
  await again.read(0, block);
  expect(block.equals(Buffer.alloc(4096, 1))).toBe(true);
  await again.close();
});
