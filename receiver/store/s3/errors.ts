/**
 * Errors of the SDK for S3 in our words. Only code, status and message are taken over: the rest holds the request.
 */
import { S3ServiceException } from '@aws-sdk/client-s3';
import { AfterimageError, messageOf } from '../../../shared/errors.js';
import type { Verdict } from '../requests.js';
import { judge, networkCode, noCredentials, type ServerError } from '../server-errors.js';

export function serverError(error: unknown): ServerError {
  if (error instanceof S3ServiceException) {
    const status = error.$metadata.httpStatusCode;
    // An answer without a body (HEAD) has no code of its own.
    const code = error.name === 'UnknownError' || error.name === 'Unknown' ? `HTTP ${status}` : error.name;
    return { code, status, message: error.message };
  }
  const metadata =
    error instanceof Error && '$metadata' in error ? (error.$metadata as { httpStatusCode?: number }) : {};
  return {
    code: networkCode(error) ?? (error instanceof Error ? error.name : 'error'),
    status: metadata.httpStatusCode,
    message: messageOf(error),
  };
}

export const statusOf = (error: unknown): number | undefined => serverError(error).status;
export const codeOf = (error: unknown): string => serverError(error).code;

export function classifyS3(what: string, error: unknown): Verdict {
  if (error instanceof AfterimageError) return { outcome: 'final', error };
  if (error instanceof Error && /Credentials|TokenProvider/.test(error.name)) return noCredentials(what, error);
  if (error instanceof Error && error.message === 'Region is missing') {
    const hint = 'Set region= in the store URL, or AWS_REGION.';
    return {
      outcome: 'final',
      error: new AfterimageError(`${what}: no region is given`, { code: 'usage', kind: 'usage', hint }),
    };
  }
  return judge(what, serverError(error));
}
