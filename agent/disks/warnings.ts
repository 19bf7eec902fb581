/**
 * What an operator should know about a device that can be protected, but perhaps not as meant. Reads only.
 */
import { readFileSync, statSync } from 'node:fs';
import { devicesAbove, namesOf, readStack } from '../quiesce/mounts.js';
import { deviceNumbers, type Source } from './footprint.js';
import type { MountedHere } from './inspect.js';
import type { Sysfs } from './sysfs.js';

/** Paths of swap spaces on these devices. */
export function swapsOn(sysfs: Sysfs, within: ReadonlySet<string>, procRoot: string): string[] {
  let lines: string[];
  try {
    lines = readFileSync(`${procRoot}/swaps`, 'utf8').split('\n').slice(1);
  } catch {
    return [];
  }
  return lines
    .map((line) => line.split(/\s/)[0] ?? '')
    .filter((path) => {
      try {
        const stat = statSync(path);
        const name = sysfs.nameOf(...deviceNumbers(stat.isBlockDevice() ? stat.rdev : stat.dev));
        return name !== null && within.has(name);
      } catch {
        return false;
      }
    });
}

/** Volumes above this source that also lie on disks which aren't protected: such a volume can't be restored from this source alone. */
function halves(sysfs: Sysfs, within: ReadonlySet<string>, known: ReadonlySet<string>): string[] {
  return [...within].flatMap((name) => {
    const device = sysfs.device(name);
    const missing = (device?.slaves ?? []).filter((slave) => !known.has(slave));
    if (device === null || missing.length === 0) return [];
    return [
      `${device.dmName ?? name} also lies on ${missing.join(', ')}: protect that disk too, or this copy holds only a part of it`,
    ];
  });
}

export function usageWarnings(
  sysfs: Sysfs,
  source: Source,
  others: readonly Source[],
  mounted: readonly MountedHere[],
  procRoot: string,
): string[] {
  const stack = readStack(sysfs);
  const within = devicesAbove(stack, namesOf(sysfs, source));
  const known = devicesAbove(
    stack,
    [source, ...others].flatMap((other) => namesOf(sysfs, other)),
  );
  // What a device itself lies on is not missing: only what lies beside it, under the same volume.
  const own = source.kind === 'block' ? (sysfs.device(source.name)?.slaves ?? []) : [];
  return [
    ...swapsOn(sysfs, within, procRoot).map(
      (path) => `swap ${path} lies on it: its pages are copied along, whatever they hold`,
    ),
    ...halves(sysfs, within, new Set([...known, ...own])),
    ...mounted
      .filter(({ notFrozen }) => notFrozen === 'cannot-freeze')
      .map(
        ({ path, fsType }) => `${fsType} at ${path} can't be frozen: in stronger points it is only crash-consistent`,
      ),
  ];
}
