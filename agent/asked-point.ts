/**
 * A point that was asked for by an operator, for a group, or by schedule: made of the consistency that was meant, or weaker with the reason; either is remembered.
 */
import type { Logger } from 'pino';
import type { Clock } from '../shared/clock.js';
import { messageOf } from '../shared/errors.js';
import type { AgentConfig } from './config.js';
import type { AskedPoint, CycleResult } from './cycle/machine-cycle.js';
import type { MachineFreeze } from './machine-quiesce.js';
import type { AskedFor } from './point-requests.js';
import { askedPoint } from './quiesce/machine-asked.js';
import type { ApplicationPoints, Outcome } from './quiesce/points/application-points.js';

export interface AskedPointDeps {
  readonly config: AgentConfig;
  readonly clock: Clock;
  readonly log: Logger;
  readonly randomId: () => string;
  readonly applicationPoints: ApplicationPoints;
  /** Resolves when no application is held back any more by what an earlier agent began. */
  readonly undone: Promise<void>;
}

/** `make` commits a point with what it is given. */
export async function makeAsked(
  asked: AskedFor,
  deps: AskedPointDeps,
  freeze: () => MachineFreeze,
  make: (point: AskedPoint) => Promise<CycleResult>,
): Promise<CycleResult> {
  await deps.undone;
  const { quiesce, filesystems } = freeze();
  const point = askedPoint(asked, quiesce, filesystems, deps);
  const ended = async (result: CycleResult | null, failure: string): Promise<void> => {
    if (asked.consistency !== 'application') return;
    const stuck = point.quiesce?.stuck.map(({ hook }) => hook) ?? [];
    const made = result?.cut.consistency === 'application' ? result : null;
    const number = made === null ? null : { number: made.point, cutAtMs: made.cut.cutAtMs };
    await remember({ by: asked.by, point: number, failure, stuck }, deps);
  };
  try {
    const result = await make(point);
    await ended(result, result.cut.weaker);
    asked.answer(result);
    return result;
  } catch (error) {
    // Applications run again before anything else is tried.
    await point.quiesce?.settled();
    await ended(null, messageOf(error));
    throw error;
  }
}

async function remember(outcome: Outcome, { applicationPoints, log }: AskedPointDeps): Promise<void> {
  const { failure, by } = outcome;
  if (failure !== '') log.warn({ reason: failure, by }, 'no application-consistent point');
  for (const { code, reason, hint } of await applicationPoints.ended(outcome)) log.error({ alert: code, hint }, reason);
}
