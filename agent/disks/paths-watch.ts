/**
 * Which paths lead to the protected disks, while the agent runs. A look reads the names and sizes of all devices; all that is known of each is read only
 * when those have changed, or after a while: a machine may have a thousand disks. Reads only.
 */
import type { Clock } from '../../shared/clock.js';
import { DISK_LOOK_MS, DISK_PATHS_LOOK_MS } from '../../shared/limits-disks.js';
import type { Source } from './footprint.js';
import { wholeDisks } from './locate.js';
import { pathsOf, type DiskPaths } from './multipath.js';
import type { BlockDevice, Sysfs } from './sysfs.js';

export class PathsWatch {
  readonly #sysfs: Sysfs;
  readonly #clock: Clock;
  #seen = '';
  #lookAtMs = -Infinity;
  #lookWellAtMs = -Infinity;

  constructor(sysfs: Sysfs, clock: Clock) {
    this.#sysfs = sysfs;
    this.#clock = clock;
  }

  /** All whole disks, when there may be something new about them; else null. */
  look(): readonly BlockDevice[] | null {
    const nowMs = this.#clock.monotonicMs();
    if (nowMs < this.#lookAtMs) return null;
    this.#lookAtMs = nowMs + DISK_LOOK_MS;
    const sizeOf = (name: string): string => this.#sysfs.text(`class/block/${name}/size`) ?? '';
    const seen = this.#sysfs.allNames().map((name) => `${name} ${sizeOf(name)}`);
    if (seen.join() === this.#seen && nowMs < this.#lookWellAtMs) return null;
    this.#seen = seen.join();
    this.#lookWellAtMs = nowMs + DISK_PATHS_LOOK_MS;
    return wholeDisks(this.#sysfs);
  }
}

/** Paths to what is read for a disk; null for what is no block device, or gone. `present`: all whole disks. */
export function pathsToSource(sysfs: Sysfs, source: Source, present: readonly BlockDevice[]): DiskPaths | null {
  const device = source.kind === 'block' ? sysfs.device(source.name) : null;
  const disk = device === null ? null : sysfs.device(device.disk);
  return disk === null ? null : pathsOf(disk, present);
}
