/**
 * What can go wrong with a local image, in words.
 */
import { AfterimageError, errnoOf, messageOf } from '../../../shared/errors.js';

const FULL = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);

/** Whether a system call failed for want of space. */
export const isFull = (error: unknown): boolean => FULL.has(errnoOf(error) ?? '') || errnoOf(error) === 'volume-full';

/** An error of the files of a local image, as callers get to see it. */
export function localError(what: string, error: unknown): AfterimageError {
  if (error instanceof AfterimageError && error.code.startsWith('volume-')) return error;
  if (isFull(error)) {
    return new AfterimageError(`${what}: no space left for the local image`, {
      code: 'volume-full',
      kind: 'io',
      hint: 'Free space on the filesystem that holds the local images, then try again. Nothing that was acknowledged is lost.',
      cause: error,
    });
  }
  return new AfterimageError(`${what}: ${messageOf(error)}`, {
    code: 'volume-io',
    kind: 'io',
    hint: 'See the kernel log for errors of the disk that holds the local images.',
    cause: error,
  });
}

/** After a failed sync the kernel may have dropped what it could not write: no later sync can be believed. */
export const syncFailed = (what: string, error: unknown): AfterimageError =>
  new AfterimageError(`${what}: the local image could not be made durable: ${messageOf(error)}`, {
    code: 'volume-sync-failed',
    kind: 'io',
    hint: 'Writes since the last flush may be lost, so no more are taken. Repair the disk that holds the local images, then start from a recovery point.',
    cause: error,
  });

export const readOnlyError = (disk: string): AfterimageError =>
  new AfterimageError(`the volume of disk ${disk} is read-only`, { code: 'volume-read-only', kind: 'refused' });

export const closedError = (disk: string): AfterimageError =>
  new AfterimageError(`the volume of disk ${disk} is closed`, { code: 'volume-closed', kind: 'cancelled' });

export const contentMissing = (disk: string): AfterimageError =>
  new AfterimageError(`the local image of disk ${disk} is not complete, and it was opened without its recovery point`, {
    code: 'volume-incomplete',
    kind: 'refused',
    hint: 'Open it with the recovery point that it shows.',
  });
