/**
 * What a store could not delete, and why. The names that aren't in it are gone.
 */
import { AfterimageError, messageOf } from '../../shared/errors.js';

export interface KeptObject {
  readonly name: string;
  /** `locked`: the store refuses by its own rule until a time (object lock, legal hold). `failed`: anything else. */
  readonly reason: 'locked' | 'failed';
  /** Wall time from which a locked one can be deleted, where the store tells it. */
  readonly lockedUntilMs: number | null;
  readonly message: string;
}

/** Names whose deletion failed for the same cause. */
export const failedAll = (names: readonly string[], error: unknown): KeptObject[] =>
  names.map((name) => ({ name, reason: 'failed', lockedUntilMs: null, message: messageOf(error) }));

/** Names shown in the message; all of them are in `kept`. */
const NAMES_SHOWN = 3;

/** Code `object-locked` when nothing but locks stood in the way (no error of whoever deletes), else `delete-failed`. */
export class DeleteError extends AfterimageError {
  readonly kept: readonly KeptObject[];

  constructor(kept: readonly KeptObject[], cause?: unknown) {
    const locked = kept.every((object) => object.reason === 'locked');
    const first = kept.find((object) => object.reason === 'failed') ?? kept[0];
    const shown = kept.slice(0, NAMES_SHOWN).map((object) => object.name);
    const more = kept.length > shown.length ? ` and ${kept.length - shown.length} more` : '';
    super(`not deleted: ${shown.join(', ')}${more}: ${first?.message ?? 'unknown'}`, {
      code: locked ? 'object-locked' : 'delete-failed',
      kind: locked ? 'refused' : 'io',
      hint: locked
        ? 'The store keeps them until their lock ends; they are deleted later.'
        : 'They are tried again later. See that the credentials may delete.',
      cause,
    });
    this.kept = kept;
  }
}
