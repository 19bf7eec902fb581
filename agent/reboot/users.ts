/**
 * Who uses a disk that is to be closed: mounted filesystems, swap, and what is stacked on it, but for idle logical volumes, which write nothing by
 * themselves. (md arrays, for one, write to their members when the kernel goes down.) Reads /sys and /proc.
 */
import type { Source } from '../disks/footprint.js';
import type { Sysfs } from '../disks/sysfs.js';
import { swapsOn } from '../disks/warnings.js';
import { devicesAbove, freezePlanFor, readStack } from '../quiesce/mounts.js';

const isLogicalVolume = (sysfs: Sysfs, name: string): boolean =>
  sysfs.device(name)?.dmUuid?.startsWith('LVM-') === true;

/** In words that follow "it was"; null for nobody. */
export function diskUser(sysfs: Sysfs, source: Source & { kind: 'block' }, procRoot = '/proc'): string | null {
  const plan = freezePlanFor(sysfs, [source], procRoot);
  const mounts = [...plan.freeze.map((f) => f.mounts[0]?.path ?? f.source), ...plan.skipped.map((f) => f.path)];
  if (mounts.length > 0) return `mounted on ${mounts.join(', ')}`;
  const above = devicesAbove(readStack(sysfs), [source.name]);
  const [swap] = swapsOn(sysfs, above, procRoot);
  if (swap !== undefined) return `swap space (${swap})`;
  const device = sysfs.device(source.name);
  for (const name of above) {
    const isOwn = name === source.name || device?.partitions.includes(name) === true;
    if (!isOwn && !isLogicalVolume(sysfs, name)) return `held by ${name}`;
  }
  return null;
}
