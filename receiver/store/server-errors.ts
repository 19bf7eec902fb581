/**
 * What errors of a store's server mean, for all kinds of servers: which are worth another try, and what to do about the others. Messages are made
 * of the server's own code and text, never of a request, which holds credentials.
 */
import { AfterimageError, errnoOf, messageOf } from '../../shared/errors.js';
import type { Verdict } from './requests.js';

export interface ServerError {
  /** The server's own word: `SlowDown`, `BlobAlreadyExists`. */
  readonly code: string;
  /** HTTP status; undefined when there was no answer. */
  readonly status: number | undefined;
  readonly message: string;
}

const BUSY_STATUS = new Set([429, 503]);
const BUSY_CODES = new Set(['SlowDown', 'ServerBusy', 'TooManyRequests', 'Throttling', 'RequestLimitExceeded']);
const AGAIN_STATUS = new Set([408, 500, 502, 504]);
/** Of the server: these don't tell by their status that another try helps. The client sets its signatures by the server's clock after the last. */
const AGAIN_CODES = new Set([
  'RequestTimeout',
  'ConditionalRequestConflict',
  'OperationAborted',
  'OperationTimedOut',
  'InternalError',
  'IncompleteBody',
  'RequestTimeTooSkewed',
]);
const TLS_CODES = /^(CERT_|ERR_TLS_|ERR_SSL_|UNABLE_TO_|SELF_SIGNED_|DEPTH_ZERO_)/;

const HINTS: Readonly<Record<string, string>> = {
  NoSuchBucket: 'Make the bucket, or correct its name in the store URL.',
  ContainerNotFound: 'Make the container, or correct its name in the store URL.',
  PermanentRedirect: 'The bucket is in another region: set region= in the store URL.',
  AuthorizationHeaderMalformed: 'The bucket is in another region: set region= in the store URL.',
  InvalidAccessKeyId: 'The server does not know these credentials.',
  SignatureDoesNotMatch: 'The secret key is wrong.',
  AuthenticationFailed: 'The account’s key is wrong, or this host’s clock.',
  RequestTimeTooSkewed: 'This host’s clock is wrong.',
  InvalidObjectState:
    'Objects that were moved to an archive can’t be read: take them back, and keep the store out of such rules.',
  QuotaExceeded: 'Raise the quota, or shorten the retention.',
};

const fault = (
  what: string,
  error: ServerError,
  code: string,
  hint: string,
  kind: AfterimageError['kind'] = 'io',
): AfterimageError => new AfterimageError(`${what}: ${error.code}: ${error.message}`, { code, kind, hint });

/** Judges what an adapter could not answer by itself. */
export function judge(what: string, error: ServerError): Verdict {
  const { code, status } = error;
  const unavailable = (): AfterimageError =>
    fault(what, error, 'store-unavailable', 'See that the store’s server runs and can be reached from here.');
  if (TLS_CODES.test(code)) {
    const hint = 'Name the authority that signed the server’s certificate: ca=/path.pem in the store URL.';
    return { outcome: 'final', error: fault(what, error, 'store-certificate', hint) };
  }
  if (BUSY_CODES.has(code) || BUSY_STATUS.has(status ?? 0)) return { outcome: 'busy', error: unavailable() };
  // No answer at all: the connection was refused, reset or cut.
  if (status === undefined || AGAIN_STATUS.has(status) || AGAIN_CODES.has(code)) {
    return { outcome: 'again', error: unavailable() };
  }
  if (code === 'QuotaExceeded' || status === 507) {
    return { outcome: 'final', error: fault(what, error, 'store-full', HINTS['QuotaExceeded'] ?? '') };
  }
  if (status === 401 || status === 403) {
    const hint = HINTS[code] ?? 'These credentials may not do that: `afterimage store probe` shows what they may.';
    return { outcome: 'final', error: fault(what, error, 'store-denied', hint) };
  }
  const hint = HINTS[code] ?? 'Run `afterimage store probe` with the URL of the store.';
  const missing = code === 'NoSuchBucket' || code === 'ContainerNotFound';
  return {
    outcome: 'final',
    error: missing ? fault(what, error, 'store-missing', hint, 'usage') : fault(what, error, 'store-io', hint),
  };
}

/** Code of a system call or of TLS, also from inside of what wraps it. */
export function networkCode(error: unknown): string | undefined {
  for (let at = error, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth++) {
    const code = errnoOf(at);
    if (code !== undefined && /^E[A-Z]|_/.test(code)) return code;
  }
  return undefined;
}

export const noCredentials = (what: string, error: unknown): Verdict => ({
  outcome: 'final',
  error: new AfterimageError(`${what}: no credentials: ${messageOf(error)}`, {
    code: 'store-credentials',
    kind: 'io',
    hint: 'Set them in the environment, or name a file in the store URL: credentials=/path.',
  }),
});
