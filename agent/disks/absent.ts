/**
 * A protected disk that can't be opened now: why, and which errors mean that of one disk alone. Points go on without it and say so.
 */
import { AfterimageError } from '../../shared/errors.js';
import type { DiskId } from '../../shared/units.js';

export interface AbsentDisk {
  readonly id: DiskId;
  /** Where it was. */
  readonly path: string;
  readonly reason: string;
}

/** Away, without a medium, replaced, smaller than it was, one of two with the same number: nothing that another disk has to wait for. */
export const isOfOneDisk = (error: unknown): error is AfterimageError =>
  error instanceof AfterimageError && (error.kind === 'usage' || DISK_CODES.has(error.code));

const DISK_CODES: ReadonlySet<string> = new Set(['disk-missing', 'disk-open', 'disk-gone', 'disk-read', 'disk-shrank']);

/** For the reason of a point: which disks it doesn't hold. Null when there are none. */
export function withoutText(disks: readonly { readonly path: string; readonly reason: string }[]): string | null {
  if (disks.length === 0) return null;
  return disks.map(({ path, reason }) => `without ${path}: ${reason}`).join('; ');
}
