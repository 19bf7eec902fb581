/**
 * Several paths to one disk: what stands above them is the disk. Pure.
 *
 * A path alone is never followed: writes over the other paths would go unseen. Where nothing joins the paths, the disk is refused (identity.ts).
 */
import type { BlockDevice } from './sysfs.js';

const MULTIPATH = 'mpath-';

/** The multipath device of which this whole disk is a path; null when it is none. */
export function multipathAbove(
  device: BlockDevice,
  deviceOf: (name: string) => BlockDevice | null,
): BlockDevice | null {
  for (const name of device.holders) {
    const holder = deviceOf(name);
    if (holder?.dmUuid?.toLowerCase().startsWith(MULTIPATH) === true) return holder;
  }
  return null;
}

/** For people: which paths the disk has. */
export const pathsText = (path: string, above: BlockDevice): string =>
  `${path} is one of the paths of ${above.dmName ?? above.name} (${above.slaves.join(', ')}): that is protected, whichever path its I/O takes`;
