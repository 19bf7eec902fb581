/**
 * The recovery object of one machine while a job runs: each change is written as its next step before anything follows from it.
 *
 * Promises: a step that was written by another makes every later call throw kind `fenced`; a store that fails is asked again until it answers or the
 * process stops, so that a job never ends half recorded. On a crash the newest step is the truth.
 */
import { AfterimageError } from '../../shared/errors.js';
import { TASK_BACKOFF_MAX_MS, TASK_BACKOFF_MIN_MS } from '../../shared/limits.js';
import type { Recovery } from '../catalog/recovery.js';
import { writeRecovery, type RecoveryDeps } from '../catalog/recovery-io.js';
import { contentOf, type RecoveryContent } from './jobs.js';

/** Errors after which trying again makes sense: the store or a connection failed, nothing was decided. */
export const isTransient = (error: unknown): boolean =>
  error instanceof AfterimageError && (error.kind === 'io' || error.kind === 'disconnected');

/** An operator waits for it. */
const BEGIN_TRIES = 3;

export class Steps {
  readonly #deps: RecoveryDeps;
  /** Aborted when the process stops. */
  readonly #stopped: AbortSignal;
  #current: Recovery;

  constructor(deps: RecoveryDeps, current: Recovery, stopped: AbortSignal) {
    this.#deps = deps;
    this.#current = current;
    this.#stopped = stopped;
  }

  /** Writes the step with which a job begins: after `previous`, or as the first. Throws kind `fenced` when another came first. */
  static async begin(
    deps: RecoveryDeps,
    previous: Recovery | null,
    content: RecoveryContent,
    stopped: AbortSignal,
  ): Promise<Steps> {
    const writeId = deps.randomId();
    for (let attempt = 1; ; attempt++) {
      try {
        return new Steps(deps, await writeRecovery({ ...deps, randomId: () => writeId }, previous, content), stopped);
      } catch (error) {
        if (!isTransient(error) || attempt >= BEGIN_TRIES || stopped.aborted) throw error;
        await deps.clock.sleep(TASK_BACKOFF_MIN_MS, stopped);
      }
    }
  }

  get current(): Recovery {
    return this.#current;
  }

  async update(change: (content: RecoveryContent) => RecoveryContent): Promise<void> {
    const next = change(contentOf(this.#current));
    // One id for all tries: one whose answer was lost is recognised as ours.
    const writeId = this.#deps.randomId();
    const deps = { ...this.#deps, randomId: () => writeId };
    for (let waitMs = TASK_BACKOFF_MIN_MS; ; waitMs = Math.min(waitMs * 2, TASK_BACKOFF_MAX_MS)) {
      try {
        this.#current = await writeRecovery(deps, this.#current, next);
        return;
      } catch (error) {
        if (!isTransient(error) || this.#stopped.aborted) throw error;
        await this.#deps.clock.sleep(waitMs, this.#stopped);
      }
    }
  }
}
