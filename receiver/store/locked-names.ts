/**
 * Objects that a store refused to delete because it locks them, and until when: so that whoever deletes doesn't ask again before. In memory alone, of one
 * process: the next asks once more.
 */
import { LOCK_ASKED_AGAIN_MS } from '../../shared/limits-store.js';
import type { KeptObject } from './delete-error.js';

export class LockedNames {
  /** Wall time from which it is worth asking again. */
  readonly #untilMs = new Map<string, number>();

  isLocked(name: string, nowMs: number): boolean {
    const untilMs = this.#untilMs.get(name);
    return untilMs !== undefined && untilMs > nowMs;
  }

  /** Whether it was refused and isn't known to be gone, whatever the time. */
  has(name: string): boolean {
    return this.#untilMs.has(name);
  }

  /** What a deletion of these names left. */
  note(names: readonly string[], kept: readonly KeptObject[], nowMs: number): void {
    for (const name of names) this.#untilMs.delete(name);
    for (const { name, reason, lockedUntilMs } of kept)
      if (reason === 'locked') this.#untilMs.set(name, lockedUntilMs ?? nowMs + LOCK_ASKED_AGAIN_MS);
  }

  /** Forgets all others: somebody else may have deleted them. */
  retain(wanted: (name: string) => boolean): void {
    for (const name of [...this.#untilMs.keys()]) if (!wanted(name)) this.#untilMs.delete(name);
  }
}
