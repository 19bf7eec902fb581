/**
 * What a failed connection to the receiver means, in words that lead on. Pure.
 */
import { AfterimageError, errnoOf, messageOf } from '../../shared/errors.js';

/** OpenSSL's and Node's words for a peer that is not who we trust. */
const UNTRUSTED = new Set([
  'SELF_SIGNED_CERT_IN_CHAIN',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'CERT_SIGNATURE_FAILURE',
  'INVALID_PURPOSE',
  'ERR_TLS_CERT_ALTNAME_INVALID',
]);
const CLOCK = new Set(['CERT_NOT_YET_VALID', 'CERT_HAS_EXPIRED']);

export function connectError(address: string, error: unknown): AfterimageError {
  if (error instanceof AfterimageError) return error;
  const code = errnoOf(error) ?? '';
  if (UNTRUSTED.has(code)) {
    return new AfterimageError(
      `what answers at ${address} is not the receiver that this machine was enrolled with (${code})`,
      {
        code: 'receiver-not-trusted',
        kind: 'refused',
        hint: 'Check the address and what stands between. If the receiver was set up anew: enrol this machine again.',
        cause: error,
      },
    );
  }
  if (CLOCK.has(code)) {
    return new AfterimageError(
      `the certificate of the receiver at ${address} is not valid at this machine's time (${code})`,
      {
        code: 'receiver-not-trusted',
        kind: 'refused',
        hint: 'Set the clocks of both machines.',
        cause: error,
      },
    );
  }
  return new AfterimageError(`can't connect to the receiver at ${address}: ${messageOf(error) || code}`, {
    code: 'connect-failed',
    kind: 'disconnected',
    hint: 'Check that the receiver runs, that its address is right and that its port is open; the agent keeps trying.',
    cause: error,
  });
}
