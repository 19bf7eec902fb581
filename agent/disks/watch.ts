/**
 * Is a protected disk still the one that was inspected? A reader of facts and a pure comparison.
 * Tracking of a disk that was replaced or resized has no meaning any more: the caller ends the series on anything but `unchanged`.
 */
import { statSync } from 'node:fs';
import { errnoOf } from '../../shared/errors.js';
import { formatBytes, SECTOR_BYTES } from '../../shared/units.js';
import { inodeOf, type Source } from './footprint.js';
import type { Sysfs } from './sysfs.js';

export interface DiskState {
  readonly source: Source;
  readonly sizeBytes: number;
  /** What tells this disk from another one of the same name: each part is compared where both sides know it. */
  readonly marks: {
    readonly diskseq: string | null;
    readonly number: string | null;
    readonly startSector: number | null;
    readonly backingFile: string | null;
    readonly inode: string | null;
  };
}

export type DiskVerdict =
  | { readonly is: 'unchanged' }
  | { readonly is: 'vanished'; readonly reason: string }
  | { readonly is: 'resized'; readonly reason: string; readonly sizeBytes: number }
  | { readonly is: 'replaced'; readonly reason: string };

/** Null when there is no such disk now. */
export function readDiskState(sysfs: Sysfs, source: Source): DiskState | null {
  if (source.kind === 'file') return readFileState(source);
  const device = sysfs.device(source.name);
  if (device === null || device.sectorCount === 0) return null;
  return {
    source,
    sizeBytes: device.sectorCount * SECTOR_BYTES,
    marks: {
      diskseq: device.diskseq,
      number: `${device.major}:${device.minor}`,
      startSector: device.startSector,
      backingFile: device.loop === null ? null : `${device.loop.backingFile}+${device.loop.offsetBytes}`,
      inode: null,
    },
  };
}

function readFileState(source: Source & { kind: 'file' }): DiskState | null {
  try {
    const stat = statSync(source.path, { bigint: true });
    const marks = { diskseq: null, number: null, startSector: null, backingFile: null, inode: inodeOf(stat) };
    return { source, sizeBytes: Number(stat.size), marks };
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    throw error;
  }
}

const MARK_NAMES = {
  diskseq: 'the kernel counts it as another disk',
  number: 'its device number changed',
  startSector: 'the partition begins elsewhere',
  backingFile: 'the loop device has another file',
  inode: 'another file is in its place',
} as const;

export function compareDisk(known: DiskState, now: DiskState | null): DiskVerdict {
  const path = known.source.path;
  if (now === null) return { is: 'vanished', reason: `${path} is gone` };
  for (const mark of Object.keys(MARK_NAMES) as (keyof typeof MARK_NAMES)[]) {
    const before = known.marks[mark];
    const after = now.marks[mark];
    if (before !== null && after !== null && before !== after) {
      return { is: 'replaced', reason: `${path} was replaced: ${MARK_NAMES[mark]}` };
    }
  }
  if (now.sizeBytes !== known.sizeBytes) {
    const change = `from ${formatBytes(known.sizeBytes)} to ${formatBytes(now.sizeBytes)}`;
    return { is: 'resized', reason: `${path} was resized ${change}`, sizeBytes: now.sizeBytes };
  }
  return { is: 'unchanged' };
}

export const checkDisk = (sysfs: Sysfs, known: DiskState): DiskVerdict =>
  compareDisk(known, readDiskState(sysfs, known.source));

/** For DiskReader: whether a failed read is the disk's end or only an error on it. */
export const isPresent = (sysfs: Sysfs, known: DiskState): boolean => {
  const { is } = checkDisk(sysfs, known);
  return is === 'unchanged' || is === 'resized';
};
