/**
 * What can go wrong in the hash store, by stable code. Two families: answers that leave the store as it was (`isAnswer`), and
 * failures of the local disk, after which the store refuses everything until it is opened again.
 */
import { AfterimageError, corrupt, errnoOf, messageOf } from '../../../shared/errors.js';
import type { SegmentNumber } from '../../../shared/units.js';

/** The local hashes of these segments can't be believed. Ask the receiver for them (`replaceSegment`) and try again. */
export class UntrustedSegmentsError extends AfterimageError {
  readonly segments: readonly SegmentNumber[];

  constructor(segments: readonly SegmentNumber[]) {
    super(`the local hashes of ${segments.length} segment(s), the first ${segments[0]}, can't be believed`, {
      code: 'hash-segment-untrusted',
      kind: 'corrupt',
      hint: 'Happens after a power cut. The agent asks the receiver for these hashes.',
    });
    this.segments = segments;
  }
}

/** The receiver's hashes of a segment aren't those that this store recorded. */
export class DisputedSegmentError extends AfterimageError {
  constructor(segment: SegmentNumber) {
    super(`the receiver's hashes of segment ${segment} differ from what was committed by this agent`, {
      code: 'hash-segment-disputed',
      kind: 'corrupt',
      hint: 'The disk has to be compared with the receiver from end to end.',
    });
  }
}

/** Some segments were never known, so there is no digest of the disk yet. */
export const incomplete = (unknown: number): AfterimageError =>
  new AfterimageError(`the hashes of ${unknown} segment(s) are not known yet, so the disk has no digest`, {
    code: 'hash-store-incomplete',
    kind: 'refused',
    hint: 'A comparison of the whole disk fills them in.',
  });

/** The caller broke the order of calls: a bug, never an operator's doing. */
export const misuse = (what: string): AfterimageError =>
  new AfterimageError(`hash store: ${what}`, { code: 'hash-store-misuse', kind: 'internal' });

/** A file of the store isn't what was written. Opening turns this into the state `invalid`. */
export const invalid = (what: string): AfterimageError => corrupt('hash-store-invalid', what);

/** Errors of the local file system, told apart by what an operator can do about them. */
export function fileError(action: string, cause: unknown): AfterimageError {
  const errno = errnoOf(cause);
  if (errno === 'ENOSPC' || errno === 'EDQUOT' || errno === 'EFBIG') {
    return new AfterimageError(`no space left to ${action} the hash store`, {
      code: 'hash-store-full',
      kind: 'io',
      hint: 'Make room on the file system of the agent’s state directory (8 bytes per block of the disk); the agent goes on by itself.',
      cause,
    });
  }
  return new AfterimageError(`can't ${action} the hash store: ${messageOf(cause)}`, {
    code: 'hash-store-io',
    kind: 'io',
    hint: 'Check the disk and the permissions of the agent’s state directory.',
    cause,
  });
}

const ANSWERS = new Set([
  'hash-segment-untrusted',
  'hash-segment-disputed',
  'hash-store-incomplete',
  'hash-store-misuse',
]);

/** Thrown before anything was changed; the store stays usable. */
export const isAnswer = (error: unknown): boolean => error instanceof AfterimageError && ANSWERS.has(error.code);
