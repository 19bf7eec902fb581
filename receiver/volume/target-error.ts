/** What a failed system call on a restore's target means to a person. */
import { AfterimageError, errnoOf, messageOf } from '../../shared/errors.js';
import { SysError } from '../../shared/native/libc.js';

/** Wraps a failed system call on a target. */
export function targetError(what: string, cause: unknown): AfterimageError {
  if (cause instanceof AfterimageError && !(cause instanceof SysError)) return cause;
  const full = errnoOf(cause) === 'ENOSPC' || errnoOf(cause) === 'EDQUOT';
  return new AfterimageError(`${what}: ${messageOf(cause)}`, {
    code: full ? 'target-full' : 'target-io',
    kind: 'io',
    hint: full
      ? 'Free space there and run the same command again: it continues.'
      : 'See the kernel log; once the target works, run the same command again: it continues.',
    cause,
  });
}
