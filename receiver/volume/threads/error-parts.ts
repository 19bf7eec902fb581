/** Errors on their way between threads: a structured clone keeps the text of one and loses what kind it is. */
import { AfterimageError, messageOf, type ErrorKind } from '../../../shared/errors.js';
import type { ErrorParts } from './span-job.js';

export function partsOf(error: unknown): ErrorParts {
  if (error instanceof AfterimageError) {
    return { message: error.message, code: error.code, kind: error.kind, hint: error.hint };
  }
  return { message: messageOf(error), code: 'thread-failed', kind: 'internal', hint: undefined };
}

export const errorOf = ({ message, code, kind, hint }: ErrorParts): AfterimageError =>
  new AfterimageError(message, { code, kind: kind as ErrorKind, ...(hint === undefined ? {} : { hint }) });
