/**
 * Points that were asked for and not made yet: by operators and by the receiver for groups of machines, one after the other since each has its own label,
 * and by the schedule of application-consistent points. Bounded: who asks for one too many is told so. Lives as long as a session; who waits is told when it ends.
 */
import { AfterimageError } from '../shared/errors.js';
import { POINT_REQUESTS_MAX } from '../shared/limits-quiesce.js';
import type { CycleResult } from './cycle/machine-cycle.js';
import type { ApplicationPoints } from './quiesce/points/application-points.js';
import type { PointRequest } from './quiesce/machine-asked.js';

export interface AskedFor extends PointRequest {
  readonly by: 'operator' | 'group' | 'schedule';
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
    if (this.#waiting.length >= POINT_REQUESTS_MAX) {
      return Promise.reject(
        new AfterimageError(`${POINT_REQUESTS_MAX} points that were asked for wait to be made already`, {
          code: 'points-waiting',
          kind: 'refused',
          hint: 'Wait for one of them; `afterimage-agent status` shows what the agent is at. One `afterimage-agent point` at a time is enough.',
        }),
      );
    }
    return new Promise((resolve, reject) => {
      const answer = (result: CycleResult | Error): void =>
        result instanceof Error ? reject(result) : resolve(result);
      this.#waiting.push({ ...request, by: request.group === undefined ? 'operator' : 'group', answer });
    });
  }

  /** How long until one is to be made; 0: now. */
  waitMs(): number {
    return this.#waiting.length > 0 ? 0 : this.#scheduled.waitMs();
  }

  /** The one to be made now; null when none is. */
  take(): AskedFor | null {
    for (let first = this.#waiting.shift(); first !== undefined; first = this.#waiting.shift()) {
      const over = first.group?.gate.whyOver ?? null;
      if (over === null) return first;
      first.answer(new AfterimageError(over, { code: 'group-over', kind: 'refused' }));
    }
    if (this.#scheduled.waitMs() > 0) return null;
    return { consistency: 'application', label: null, by: 'schedule', answer: () => undefined };
  }

  rejectAll(error: Error): void {
    for (const { answer } of this.#waiting.splice(0)) answer(error);
  }
}
