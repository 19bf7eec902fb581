/**
 * Where a restore writes: a block device, a raw file, a sparse file, a qcow2 image. Opening checks everything that must hold and changes nothing;
 * `prepare` is the first change. The target's identity ties a journal of an interrupted restore to the very thing that it wrote to.
 */
import { stat } from 'node:fs/promises';
import { dirname, isAbsolute, resolve } from 'node:path';
import { AfterimageError, errnoOf, messageOf, usageError } from '../../shared/errors.js';
import type { LayOutContext } from './data-clusters.js';
import { openDeviceTarget } from './device-target.js';
import { openFileTarget } from './file-target.js';
import { Qcow2Target } from './qcow2-target.js';
import type { TargetFormat } from './target-format.js';
import type { Outlet } from './threads/span-job.js';

export interface RestoreTarget {
  /** Absolute path, links resolved as far as they exist. */
  readonly path: string;
  readonly kind: 'device' | 'file';
  /** Same text: same disk or file as before. */
  readonly identity: string;
  /** Whether bytes that nobody has written since prepare() read as zero. */
  readonly knownZero: boolean;
  /** Refuses a target that holds data: before a restore begins anew, not when one is continued. */
  checkEmpty(): Promise<void>;
  /** Before anything else, also when a restore is continued: learns from the plan where things stand. Changes nothing. */
  layOut(context: LayOutContext): Promise<void>;
  /** First change: makes the target ready for a restore from the start, durably. */
  prepare(): Promise<void>;
  /** `bytes` lie in aligned memory; offset and length are multiples of 512. `isReserved`: there is room for them already (threads/reservation.ts). */
  write(offset: number, bytes: Buffer, isReserved?: boolean): Promise<void>;
  zero(offset: number, lengthBytes: number): Promise<void>;
  /** Makes all that was written durable. */
  sync(): Promise<void>;
  /** The disk was proven: from now on the target may be used. Durable. */
  finish(): Promise<void>;
  /** Before reading back: what is read comes from the disk. */
  forgetCached(): Promise<void>;
  /** Reads into aligned memory; returns bytes got. */
  read(offset: number, into: Buffer): Promise<number>;
  /** Next [start, end) of data at or after `offset`; null when the rest is a hole; undefined when not known. */
  nextData(offset: number): readonly [number, number] | null | undefined;
  /** For writing from other threads; null where only write() does. Fetched anew for each unit: what it says may change. */
  outlet(): TargetOutlet | null;
  close(): Promise<void>;
}

export interface TargetOutlet {
  readonly outlet: Outlet;
  /** Where a range of the disk lies in it. */
  places(offset: number, lengthBytes: number): Iterable<{ readonly offset: number; readonly lengthBytes: number }>;
}

/** A disk that lies in its target as it is. */
export const asItIs = (outlet: Outlet): TargetOutlet => ({
  outlet,
  places: (offset, lengthBytes) => [{ offset, lengthBytes }],
});

export interface TargetOptions {
  /** Bytes of the disk to be restored. */
  readonly sizeBytes: number;
  /** For a file: leave zeroes out, whatever the filesystem. */
  readonly sparse: boolean;
  /** `raw` unless given. */
  readonly format?: TargetFormat;
}

const TARGET_HINT = 'Give a block device, or the path of a file in a folder that exists.';

/** A mistyped device must not become a file in the kernel's own filesystem of devices: that is memory, and gone at the next boot. */
async function isAmongDevices(path: string): Promise<boolean> {
  const [folder, devices] = await Promise.all([dirname(path), '/dev'].map((p) => stat(p).catch(() => undefined)));
  return folder !== undefined && folder.dev === devices?.dev && path.startsWith('/dev/');
}

/** Opens a target by path. Throws kind `usage` or `refused`, with nothing changed, when it can't be one. */
export async function openTarget(path: string, options: TargetOptions): Promise<RestoreTarget> {
  if (path === '' || path.includes('\0')) throw usageError('the target has no path', TARGET_HINT);
  const absolute = isAbsolute(path) ? path : resolve(path);
  const found = await stat(absolute).catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw usageError(`target ${absolute}: ${messageOf(error)}`, TARGET_HINT);
  });
  if (found?.isBlockDevice()) {
    if (options.format === 'qcow2') {
      throw usageError(`target ${absolute} is a block device, and those hold raw disks`, 'Leave --format out.');
    }
    return openDeviceTarget(absolute, found.rdev, options);
  }
  if (found !== undefined && !found.isFile()) {
    throw usageError(`target ${absolute} is neither a file nor a block device`, TARGET_HINT);
  }
  if (found === undefined && (await isAmongDevices(absolute))) {
    throw usageError(`there is no device ${absolute}`, 'See `lsblk` for the devices of this machine.');
  }
  const file = await openFileTarget(absolute, options);
  return options.format === 'qcow2' ? new Qcow2Target(file, options.sizeBytes) : file;
}

export const refused = (code: string, message: string, hint: string): AfterimageError =>
  new AfterimageError(message, { code, kind: 'refused', hint });
