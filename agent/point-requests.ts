/**
 * Points that were asked for and not made yet: by operators, one after the other since each has its own label, and by the schedule of application-consistent
 * points. Lives as long as a session; who waits is told when it ends.
 */
import type { CycleResult } from './cycle/machine-cycle.js';
import type { ApplicationPoints } from './quiesce/points/application-points.js';
import type { PointRequest } from './quiesce/machine-asked.js';

export interface AskedFor extends PointRequest {
  readonly by: 'operator' | 'schedule';
  /** Tells who asked. */
  readonly answer: (result: CycleResult | Error) => void;
}

export class PointRequests {
  readonly #scheduled: ApplicationPoints;
  readonly #waiting: AskedFor[] = [];

  constructor(scheduled: ApplicationPoints) {
    this.#scheduled = scheduled;
  }

  ask(request: PointRequest): Promise<CycleResult> {
    return new Promise((resolve, reject) => {
      const answer = (result: CycleResult | Error): void =>
        result instanceof Error ? reject(result) : resolve(result);
      this.#waiting.push({ ...request, by: 'operator', answer });
    });
  }

  /** How long until one is to be made; 0: now. */
  waitMs(): number {
    return this.#waiting.length > 0 ? 0 : this.#scheduled.waitMs();
  }

  /** The one to be made now; null when none is. */
  take(): AskedFor | null {
    const first = this.#waiting.shift();
    if (first !== undefined) return first;
    if (this.#scheduled.waitMs() > 0) return null;
    return { consistency: 'application', label: null, by: 'schedule', answer: () => undefined };
  }

  rejectAll(error: Error): void {
    for (const { answer } of this.#waiting.splice(0)) answer(error);
  }
}
