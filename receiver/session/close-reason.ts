/**
 * With which close code a session ends by an error. Pure.
 */
import { AfterimageError } from '../../shared/errors.js';
import { CLOSE, type CloseReason } from '../../shared/wire/close-codes.js';

export function closeReasonFor(error: unknown): CloseReason {
  if (!(error instanceof AfterimageError)) return CLOSE.internal;
  if (error.code === 'protocol') return CLOSE.protocol;
  if (error.code === 'store-full') return CLOSE.storeFull;
  if (error.code === 'key-missing' || error.code === 'key-provider') return CLOSE.keyMissing;
  if (error.kind === 'fenced') return CLOSE.fenced;
  if (error.code === 'chunk-checksum' || error.code === 'chunk-malformed') return CLOSE.corruptData;
  return CLOSE.internal;
}
