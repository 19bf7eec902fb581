/**
 * Finds a protected disk again by its id, whatever its path is now: after a reboot, in another slot, renamed. Reads only.
 */
import { realpathSync, statSync } from 'node:fs';
import { AfterimageError } from '../../shared/errors.js';
import type { DiskId } from '../../shared/units.js';
import { inodeOf } from './footprint.js';
import { identityOf, naturalIdOf, type FileFacts, type KeptIdentity } from './identity.js';
import type { BlockDevice, Sysfs } from './sysfs.js';

/** Path of a device by its name: the kernel writes '!' for a slash. */
export const devicePath = (name: string): string => `/dev/${name.replaceAll('!', '/')}`;

export function fileFactsOf(path: string): FileFacts | null {
  try {
    const real = realpathSync(path);
    const stat = statSync(real, { bigint: true });
    return { path: real, inode: inodeOf(stat), sizeBytes: Number(stat.size) };
  } catch {
    return null;
  }
}

/** All whole disks with a medium. */
export const wholeDisks = (sysfs: Sysfs): BlockDevice[] =>
  sysfs.allNames().flatMap((name) => {
    const device = sysfs.device(name);
    return device?.partition === null && device.sectorCount > 0 ? [device] : [];
  });

/** The file under a loop device; null for other devices and for a deleted file. */
export const backingFacts = (disk: BlockDevice): FileFacts | null =>
  disk.loop === null || disk.loop.deleted ? null : fileFactsOf(disk.loop.backingFile);

/** A new UUID for a device means: not the one that is looked for. */
const NO_MATCH = '';

/** Path of the disk with this id; null when it isn't connected. */
export function locateDisk(sysfs: Sysfs, id: DiskId, kept: readonly KeptIdentity[]): string | null {
  const natural = naturalIdOf(id, kept);
  const image = kept.find((record) => record.id === natural && record.key.startsWith('file:'));
  if (image !== undefined) return fileFactsOf(image.key.slice('file:'.length))?.path ?? null;
  const disks = wholeDisks(sysfs);
  for (const parent of disks) {
    const partitions = parent.partitions.flatMap((name) => sysfs.device(name) ?? []);
    for (const device of [parent, ...partitions]) {
      try {
        const subject = { kind: 'block', device, parent, backing: backingFacts(parent) } as const;
        if (identityOf(subject, disks, kept, () => NO_MATCH).id === id) return devicePath(device.name);
      } catch (error) {
        // Two disks with one number: neither can be told to be the one.
        if (!(error instanceof AfterimageError)) throw error;
      }
    }
  }
  return null;
}
