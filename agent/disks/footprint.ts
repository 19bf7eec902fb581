/**
 * Which bytes of which disks lie under a device, to see that no byte is protected twice. Reads sysfs, owns no state.
 *
 * Two sources overlap when the own region of one is part of what the other stands on. Two logical volumes on the same disk share
 * that disk below them and yet no byte, so what both merely stand on doesn't count.
 */
import { statSync } from 'node:fs';
import type { BlockDevice, Sysfs } from './sysfs.js';

/** What is read for a protected disk. */
export type Source =
  | { readonly kind: 'block'; readonly name: string; readonly path: string }
  | { readonly kind: 'file'; readonly path: string; readonly inode: string };

export type Region =
  | { readonly kind: 'window'; readonly disk: string; readonly startSector: number; readonly endSector: number }
  | { readonly kind: 'file'; readonly inode: string };

export interface Footprint {
  readonly own: Region;
  /** Everything that the own region stands on, itself included. */
  readonly all: readonly Region[];
}

const windowOf = (device: BlockDevice): Region => ({
  kind: 'window',
  disk: device.disk,
  startSector: device.startSector,
  endSector: device.startSector + device.sectorCount,
});

export const inodeOf = (stat: { dev: number | bigint; ino: number | bigint }): string => `${stat.dev}:${stat.ino}`;

/** Device numbers of a path: Linux packs 12 bits of major and 20 of minor into st_rdev. */
export function deviceNumbers(rdev: number): readonly [number, number] {
  const value = BigInt(rdev);
  const major = Number((value >> 8n) & 0xfffn) | Number((value >> 32n) & 0xfffff000n);
  const minor = Number(value & 0xffn) | Number((value >> 12n) & 0xffffff00n);
  return [major, minor];
}

/** Name of the block device that a path leads to; null for anything else. */
export function blockNameOf(sysfs: Sysfs, path: string): string | null {
  try {
    const stat = statSync(path);
    return stat.isBlockDevice() ? sysfs.nameOf(...deviceNumbers(stat.rdev)) : null;
  } catch {
    return null;
  }
}

function addBelow(sysfs: Sysfs, name: string, seen: Set<string>, regions: Region[]): void {
  if (seen.has(name)) return;
  seen.add(name);
  const device = sysfs.device(name);
  if (device === null) return;
  regions.push(windowOf(device));
  const whole = device.partition === null ? device : sysfs.device(device.disk);
  for (const slave of whole?.slaves ?? []) addBelow(sysfs, slave, seen, regions);
  const backing = whole?.loop;
  if (backing === null || backing === undefined || backing.deleted) return;
  const below = blockNameOf(sysfs, backing.backingFile);
  if (below !== null) addBelow(sysfs, below, seen, regions);
  else regions.push(...fileRegion(backing.backingFile));
}

function fileRegion(path: string): Region[] {
  try {
    return [{ kind: 'file', inode: inodeOf(statSync(path, { bigint: true })) }];
  } catch {
    return [];
  }
}

export function footprintOf(sysfs: Sysfs, source: Source): Footprint | null {
  if (source.kind === 'file') {
    const own: Region = { kind: 'file', inode: source.inode };
    return { own, all: [own] };
  }
  const regions: Region[] = [];
  addBelow(sysfs, source.name, new Set(), regions);
  const own = regions[0];
  return own === undefined ? null : { own, all: regions };
}

/** Loop devices whose backing file is this one, by any path. */
export function loopsOnFile(sysfs: Sysfs, inode: string): string[] {
  return sysfs.allNames().filter((name) => {
    const backing = sysfs.text(`class/block/${name}/loop/backing_file`);
    const region = backing === null ? undefined : fileRegion(backing)[0];
    return region?.kind === 'file' && region.inode === inode;
  });
}

function meet(a: Region, b: Region): boolean {
  if (a.kind === 'file' || b.kind === 'file') return a.kind === 'file' && b.kind === 'file' && a.inode === b.inode;
  return a.disk === b.disk && a.startSector < b.endSector && b.startSector < a.endSector;
}

export const overlaps = (a: Footprint, b: Footprint): boolean =>
  a.all.some((region) => meet(region, b.own)) || b.all.some((region) => meet(region, a.own));
