/**
 * An error as a fact.
 */
import { AfterimageError, messageOf } from '../../../shared/errors.js';
import type { Problem } from '../facts.js';

export const problemOf = (error: unknown): Problem => ({
  message: messageOf(error),
  hint: error instanceof AfterimageError ? (error.hint ?? null) : null,
});
