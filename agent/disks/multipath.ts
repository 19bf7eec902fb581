/**
 * Several paths to one disk: what stands above them is the disk. Pure.
 *
 * A path alone is never followed: writes over the other paths would go unseen. Where nothing joins the paths, the disk is refused (identity.ts).
 */
import { leadToSameBytes } from './identity.js';
import type { BlockDevice } from './sysfs.js';

const MULTIPATH = 'mpath-';

const isMultipath = ({ dmUuid }: BlockDevice): boolean => dmUuid?.toLowerCase().startsWith(MULTIPATH) === true;

/** Names of devices that lead to one disk. */
export interface DiskPaths {
  /** Those that a multipath device joins; none where the disk is no such device. */
  readonly joined: readonly string[];
  /** Others that lead to the same bytes: what is written over them goes unseen. */
  readonly loose: readonly string[];
}

/** `disk`: a whole one, as it is protected; `present`: all whole disks. */
export function pathsOf(disk: BlockDevice, present: readonly BlockDevice[]): DiskPaths {
  const joined = isMultipath(disk) ? disk.slaves : [];
  const own = [disk, ...present.filter(({ name }) => joined.includes(name))];
  const isOwn = (device: BlockDevice): boolean => own.some(({ name }) => name === device.name);
  const loose = present.filter((other) => !isOwn(other) && own.some((mine) => leadToSameBytes(mine, other)));
  return { joined, loose: loose.map(({ name }) => name) };
}

/** All devices that are this whole disk in one way or another: itself, the multipath device above, the paths of both. */
export function waysTo(device: BlockDevice, present: readonly BlockDevice[]): BlockDevice[] {
  const above = multipathAbove(device, (name) => present.find((other) => other.name === name) ?? null);
  const disk = above ?? device;
  const { joined, loose } = pathsOf(disk, present);
  const names = new Set([...joined, ...loose].filter((name) => name !== disk.name));
  return [disk, ...present.filter(({ name }) => names.has(name))];
}

/** Why a disk with loose paths can't be followed. */
export const looseText = (disk: string, loose: readonly string[]): string =>
  `${loose.join(', ')} ${loose.length === 1 ? 'leads' : 'lead'} to the same bytes as ${disk} and nothing joins them: what is written there goes unseen`;

/** The multipath device of which this whole disk is a path; null when it is none. */
export function multipathAbove(
  device: BlockDevice,
  deviceOf: (name: string) => BlockDevice | null,
): BlockDevice | null {
  for (const name of device.holders) {
    const holder = deviceOf(name);
    if (holder !== null && isMultipath(holder)) return holder;
  }
  return null;
}

/** For people: which paths the disk has. */
export const pathsText = (path: string, above: BlockDevice): string =>
  `${path} is one of the paths of ${above.dmName ?? above.name} (${above.slaves.join(', ')}): that is protected, whichever path its I/O takes`;
