/**
 * How long each step of somebody else's work took, from the messages that end them. Downtime is told step by step, so the steps of a last cut, which
 * run at home, are recorded in the job as its own tasks are. Pure but for the clock that it is given.
 */
import type { Clock } from '../../shared/clock.js';
import { formatDuration } from '../../shared/units.js';
import type { Job } from '../catalog/recovery.js';

/** Keys in a job's data: `stepMs.<step>`. */
export const STEP_KEY = 'stepMs.';

export class StepTimes {
  readonly #clock: Clock;
  readonly #tookMs = new Map<string, number>();
  #sinceMs: number;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#sinceMs = clock.monotonicMs();
  }

  /** A message of a step: what has passed since the last message was this step's. Steps that are repeated add up. */
  note(step: string): void {
    const nowMs = this.#clock.monotonicMs();
    this.#tookMs.set(step, (this.#tookMs.get(step) ?? 0) + Math.max(0, nowMs - this.#sinceMs));
    this.#sinceMs = nowMs;
  }

  /** For people: `pre-shutdown hook 1.2 s, last cut 0.3 s`. Empty without steps. */
  text(): string {
    return [...this.#tookMs].map(([step, ms]) => `${step} ${formatDuration(ms)}`).join(', ');
  }

  data(): Job['data'] {
    return Object.fromEntries([...this.#tookMs].map(([step, ms]) => [`${STEP_KEY}${step}`, Math.round(ms)]));
  }
}
