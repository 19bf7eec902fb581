/**
 * Errors of a folder store: errno to what it means for the store, with what to do next.
 */
import { AfterimageError, errnoOf, messageOf } from '../../shared/errors.js';

const FULL = new Set(['ENOSPC', 'EDQUOT']);
const DENIED = new Set(['EACCES', 'EPERM', 'EROFS']);

export const storeFull = (what: string, cause?: unknown): AfterimageError =>
  new AfterimageError(`${what}: the store has no space left`, {
    code: 'store-full',
    kind: 'io',
    hint: 'Free space on the filesystem of the store, raise its quota, or shorten the retention.',
    cause,
  });

/** Wraps anything thrown by a system call on the store. Our own errors pass unchanged. */
export function storeError(what: string, cause: unknown): AfterimageError {
  if (cause instanceof AfterimageError) return cause;
  const errno = errnoOf(cause) ?? 'EIO';
  if (FULL.has(errno)) return storeFull(what, cause);
  if (DENIED.has(errno)) {
    return new AfterimageError(`${what}: ${messageOf(cause)}`, {
      code: 'store-denied',
      kind: 'io',
      hint: 'The store must be writable for the user that runs this program.',
      cause,
    });
  }
  return new AfterimageError(`${what}: ${messageOf(cause)}`, {
    code: 'store-io',
    kind: 'io',
    hint: 'See the kernel log for errors of the disk that holds the store.',
    cause,
  });
}
