/**
 * Who uses a disk that is to be written over: mounts, what is stacked on it, swap. Reads /proc and /sys only; the exclusive open that follows is the
 * kernel's own word, this gives the names.
 */
import { readFileSync } from 'node:fs';
import { blockNameOf, loopsOnFile, type Source } from '../disks/footprint.js';
import type { Sysfs } from '../disks/sysfs.js';
import { freezePlanFor } from '../quiesce/mounts.js';

/** Names of the device, its partitions and its whole disk: in use when one of them is. */
function relatives(sysfs: Sysfs, name: string): string[] {
  const device = sysfs.device(name);
  if (device === null) return [name];
  return device.partition === null ? [name, ...device.partitions] : [name, device.disk];
}

function swapOn(sysfs: Sysfs, source: Source, names: readonly string[], procRoot: string): string | null {
  let swaps: string;
  try {
    swaps = readFileSync(`${procRoot}/swaps`, 'utf8');
  } catch {
    // A kernel without swap has no such file.
    return null;
  }
  for (const line of swaps.split('\n').slice(1)) {
    const path = line.split(/\s/)[0] ?? '';
    if (path === '') continue;
    const name = blockNameOf(sysfs, path);
    if (path === source.path || (name !== null && names.includes(name))) return `swap space (${path})`;
  }
  return null;
}

/** Null when nobody is found. */
export function userOf(sysfs: Sysfs, source: Source, procRoot = '/proc'): string | null {
  const plan = freezePlanFor(sysfs, [source], procRoot);
  const mounts = [...plan.freeze.map((f) => f.mounts[0]?.path ?? f.source), ...plan.skipped.map((f) => f.path)];
  if (mounts.length > 0) return `mounted on ${mounts.join(', ')}`;
  const names = source.kind === 'block' ? relatives(sysfs, source.name) : [];
  const holders =
    source.kind === 'file'
      ? loopsOnFile(sysfs, source.inode)
      : names.flatMap((name) => sysfs.device(name)?.holders ?? []);
  if (holders.length > 0) return `held by ${[...new Set(holders)].join(', ')}`;
  return swapOn(sysfs, source, names, procRoot);
}
