/**
 * Which filesystems must be frozen to quiesce a set of protected disks, and in which order. Reads /sys and /proc, owns no state.
 *
 * A filesystem counts when any device that it lies on is a source, a partition of it, stacked above it (device mapper, md, loop), or a loop
 * device whose file lies on such a filesystem. Each superblock counts once, whatever its bind mounts. Innermost first: freezing the
 * filesystem that holds a loop file before the one inside it would block the inner one's flush until the deadline.
 */
import { closeSync, constants, openSync, readFileSync } from 'node:fs';
import { AfterimageError } from '../../shared/errors.js';
import { blockNameOf, loopsOnFile, type Source } from '../disks/footprint.js';
import type { Sysfs } from '../disks/sysfs.js';
import { readMounts, type MountEntry } from './mountinfo.js';

export interface MountedFilesystem {
  readonly device: string;
  readonly fsType: string;
  readonly source: string;
  /** Where it is mounted, best place first. */
  readonly mounts: readonly { readonly path: string; readonly mountId: number }[];
  /** 0 for a filesystem that lies on no file of another; higher is further inside. */
  readonly depth: number;
}

export interface SkippedFilesystem {
  readonly path: string;
  readonly fsType: string;
  readonly why: 'read-only' | 'cannot-freeze';
}

export interface FreezePlan {
  /** In the order in which they are frozen. */
  readonly freeze: readonly MountedFilesystem[];
  readonly skipped: readonly SkippedFilesystem[];
}

/** Filesystems of Linux that implement freezing. */
const CAN_FREEZE = new Set([
  'ext2',
  'ext3',
  'ext4',
  'xfs',
  'btrfs',
  'f2fs',
  'jfs',
  'nilfs2',
  'reiserfs',
  'gfs2',
  'bcachefs',
]);

/** What is stacked on what, as far as the decision needs it; given by a test or read by `readStack`. */
export interface DeviceStack {
  /** Names of devices directly above: partitions, holders, loop devices on a block device. */
  above(name: string): readonly string[];
  /** Names of the devices that a mount lies on. */
  devicesOf(mount: MountEntry): readonly string[];
  /** Loop devices on files. */
  readonly loops: readonly { readonly name: string; readonly backingFile: string }[];
}

/** The same, seen from above as well: for people who ask why a filesystem is frozen. */
export interface DeviceGraph extends DeviceStack {
  /** Names of devices directly below: the disk of a partition, what a volume is made of, the device of a loop. */
  below(name: string): readonly string[];
  /** What people call a device: the name of a volume beside that of the kernel. */
  title(name: string): string;
}

interface Superblock {
  readonly entries: MountEntry[];
  readonly devices: ReadonlySet<string>;
  depth: number;
}

/** These devices and all that is stacked on them. */
export function devicesAbove(stack: DeviceStack, names: Iterable<string>): Set<string> {
  const all = new Set<string>();
  const open = [...names];
  for (let name = open.pop(); name !== undefined; name = open.pop()) {
    if (all.has(name)) continue;
    all.add(name);
    open.push(...stack.above(name));
  }
  return all;
}

const isWithin = (path: string, folder: string): boolean =>
  folder === '/' || path === folder || path.startsWith(`${folder}/`);

/** Key of the superblock that a file lies on: the mount with the longest path over it, the later one of two. */
export function superblockOfFile(mounts: readonly MountEntry[], path: string): string | undefined {
  let best: MountEntry | undefined;
  for (const mount of mounts) {
    if (isWithin(path, mount.path) && (best === undefined || mount.path.length >= best.path.length)) best = mount;
  }
  return best?.device;
}

function superblocks(mounts: readonly MountEntry[], stack: DeviceStack): Map<string, Superblock> {
  const found = new Map<string, Superblock>();
  for (const mount of mounts) {
    const known = found.get(mount.device);
    if (known !== undefined) {
      known.entries.push(mount);
      continue;
    }
    const devices = new Set(stack.devicesOf(mount));
    if (devices.size > 0) found.set(mount.device, { entries: [mount], devices, depth: 0 });
  }
  return found;
}

const touches = (devices: ReadonlySet<string>, within: ReadonlySet<string>): boolean =>
  [...devices].some((name) => within.has(name));

/** `sources`: names of the protected devices (for an image file: of the loop devices on it). Pure. */
export function planFreeze(mounts: readonly MountEntry[], stack: DeviceStack, sources: Iterable<string>): FreezePlan {
  const all = superblocks(mounts, stack);
  const loops = stack.loops.map((loop) => ({
    above: devicesAbove(stack, [loop.name]),
    name: loop.name,
    host: superblockOfFile(mounts, loop.backingFile),
  }));
  const within = devicesAbove(stack, sources);
  // Each round finds what lies one loop file further inside; there can't be more rounds than superblocks.
  for (let round = 0; round <= all.size; round++) {
    for (const loop of loops) {
      const host = loop.host === undefined ? undefined : all.get(loop.host);
      if (host === undefined) continue;
      if (touches(host.devices, within)) for (const name of loop.above) within.add(name);
      for (const inner of all.values()) {
        if (inner !== host && touches(inner.devices, loop.above)) inner.depth = Math.max(inner.depth, host.depth + 1);
      }
    }
  }
  const chosen = [...all].filter(([, superblock]) => touches(superblock.devices, within));
  return split(chosen.map(([device, superblock], order) => ({ device, superblock, order })));
}

function split(chosen: { device: string; superblock: Superblock; order: number }[]): FreezePlan {
  const steps = (path: string): number => path.split('/').length;
  const freeze: (MountedFilesystem & { order: number })[] = [];
  const skipped: SkippedFilesystem[] = [];
  for (const { device, superblock, order } of chosen) {
    // A mount of the whole filesystem at a short path is the least likely to be hidden or to go away.
    const entries = superblock.entries.toSorted(
      (a, b) => Number(b.root === '/') - Number(a.root === '/') || steps(a.path) - steps(b.path),
    );
    const [first] = entries;
    if (first === undefined) continue;
    const { fsType, source, path } = first;
    if (first.readOnly) skipped.push({ path, fsType, why: 'read-only' });
    else if (!CAN_FREEZE.has(fsType)) skipped.push({ path, fsType, why: 'cannot-freeze' });
    else freeze.push({ device, fsType, source, mounts: entries, depth: superblock.depth, order });
  }
  const place = (filesystem: MountedFilesystem): number => steps(filesystem.mounts[0]?.path ?? '');
  freeze.sort((a, b) => b.depth - a.depth || place(b) - place(a) || b.order - a.order);
  return {
    freeze: freeze.map(({ device, fsType, source, mounts, depth }) => ({
      device,
      fsType,
      source,
      mounts: mounts.map(({ path, mountId }) => ({ path, mountId })),
      depth,
    })),
    skipped,
  };
}

/** Devices of a btrfs filesystem by any one of its devices: its mounts show a number that no device has. */
function btrfsGroups(sysfs: Sysfs): string[][] {
  return sysfs
    .names('fs/btrfs')
    .map((uuid) => sysfs.names(`fs/btrfs/${uuid}/devices`))
    .filter((names) => names.length > 0);
}

export function readStack(sysfs: Sysfs): DeviceGraph {
  const loops: { name: string; backingFile: string }[] = [];
  const loopsOnDevices = new Map<string, string[]>();
  const devicesOfLoops = new Map<string, string>();
  for (const name of sysfs.allNames()) {
    const file = sysfs.text(`class/block/${name}/loop/backing_file`);
    if (file === null) continue;
    const below = file.startsWith('/dev/') ? blockNameOf(sysfs, file) : null;
    if (below === null) loops.push({ name, backingFile: file });
    else {
      loopsOnDevices.set(below, [...(loopsOnDevices.get(below) ?? []), name]);
      devicesOfLoops.set(name, below);
    }
  }
  const groups = btrfsGroups(sysfs);
  return {
    loops,
    above: (name) => {
      const device = sysfs.device(name);
      if (device === null) return [];
      return [...device.partitions, ...device.holders, ...(loopsOnDevices.get(name) ?? [])];
    },
    below: (name) => {
      const device = sysfs.device(name);
      if (device === null) return [];
      const ofLoop = devicesOfLoops.get(name);
      return [
        ...(device.partition === null ? [] : [device.disk]),
        ...device.slaves,
        ...(ofLoop === undefined ? [] : [ofLoop]),
      ];
    },
    title: (name) => {
      const volume = sysfs.device(name)?.dmName ?? null;
      return volume === null ? name : `${name} (${volume})`;
    },
    devicesOf: (mount) => {
      const [major, minor] = mount.device.split(':').map(Number);
      if (major !== undefined && major !== 0 && minor !== undefined) {
        const name = sysfs.nameOf(major, minor);
        return name === null ? [] : [name];
      }
      if (!mount.source.startsWith('/dev/')) return [];
      // bcachefs lists its devices with colons; btrfs names one of them.
      const named = mount.source.split(':').flatMap((path) => blockNameOf(sysfs, path) ?? []);
      return [...new Set(named.flatMap((name) => [name, ...(groups.find((group) => group.includes(name)) ?? [])]))];
    },
  };
}

/** Names of the devices through which a source can be mounted. */
export function namesOf(sysfs: Sysfs, source: Source): string[] {
  if (source.kind === 'block') return [source.name];
  return loopsOnFile(sysfs, source.inode);
}

/** What to freeze for these protected sources now. */
export function freezePlanFor(sysfs: Sysfs, sources: readonly Source[], procRoot = '/proc'): FreezePlan {
  const names = sources.flatMap((source) => namesOf(sysfs, source));
  return planFreeze(readMounts(procRoot), readStack(sysfs), names);
}

/**
 * Opens the filesystem's folder at the first of its mounts that isn't hidden beneath another mount. The number of the mount is
 * checked on the open folder itself: a path alone may lead to another filesystem by now.
 */
export function openMount(filesystem: MountedFilesystem): number {
  for (const { path, mountId } of filesystem.mounts) {
    let fd: number;
    try {
      fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
    } catch {
      continue;
    }
    const info = readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8');
    if (new RegExp(`^mnt_id:\\s+${mountId}$`, 'm').test(info)) return fd;
    closeSync(fd);
  }
  const where = filesystem.mounts.map(({ path }) => path).join(', ');
  throw new AfterimageError(`${filesystem.fsType} of ${filesystem.source} can't be opened at ${where}`, {
    code: 'mount-hidden',
    kind: 'io',
    hint: 'It was unmounted meanwhile, or each of its mount points is covered by another mount.',
  });
}
