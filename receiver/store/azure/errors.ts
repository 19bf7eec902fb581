/**
 * Errors of the SDK for Azure Blob in our words. Only code, status and message are taken over: the rest holds the request, whose address may hold
 * a signature.
 */
import { RestError } from '@azure/storage-blob';
import { AfterimageError, messageOf } from '../../../shared/errors.js';
import type { Verdict } from '../requests.js';
import { judge, networkCode, noCredentials, type ServerError } from '../server-errors.js';

const withoutSignature = (text: string): string => (text.split('\n')[0] ?? '').replace(/sig=[^&\s"']+/g, 'sig=…');

export function serverError(error: unknown): ServerError {
  const message = withoutSignature(messageOf(error));
  if (error instanceof RestError) {
    const { statusCode: status, code } = error;
    // An answer without a body (HEAD) has its code in a header.
    const header = error.response?.headers.get('x-ms-error-code');
    return { code: header ?? code ?? `HTTP ${status ?? ''}`, status, message };
  }
  return { code: networkCode(error) ?? (error instanceof Error ? error.name : 'error'), status: undefined, message };
}

export const statusOf = (error: unknown): number | undefined => serverError(error).status;
export const codeOf = (error: unknown): string => serverError(error).code;

export function classifyAzure(what: string, error: unknown): Verdict {
  if (error instanceof AfterimageError) return { outcome: 'final', error };
  if (
    error instanceof Error &&
    /CredentialUnavailable|AuthenticationError|ChainedToken|AuthenticationRequired/.test(error.name)
  ) {
    return noCredentials(what, withoutSignature(error.message));
  }
  return judge(what, serverError(error));
}
