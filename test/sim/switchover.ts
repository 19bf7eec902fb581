/**
 * What an operator does next with a machine that is failed over, tested and brought home by plan: one step on its way through the states, mostly the
 * natural one. Pure but for the dice.
 */
import type { ProtectionState, Recovery } from '../../receiver/catalog/recovery.js';
import {
  operationRequestSchema,
  type OperationInput,
  type OperationRequest,
} from '../../receiver/failover/operations.js';
import { afterLostJob } from '../../receiver/failover/states.js';
import type { Rng } from './rng.js';

const CHANCE_OF_A_CANCEL_AMID_A_JOB = 0.15;

const request = (input: OperationInput): OperationRequest => operationRequestSchema.parse(input);

const FAILOVER: OperationInput = { operation: 'failover' };
const SHUT_DOWN: OperationInput = { operation: 'failover', shutdown: true };
const PLANNED: OperationInput = { operation: 'planned-failover', hookTimeoutMs: 20_000 };
const PLANNED_FOR_GOOD: OperationInput = { operation: 'planned-failover', hookTimeoutMs: 20_000, commit: true };
const COMMIT: OperationInput = { operation: 'commit' };
const CANCEL: OperationInput = { operation: 'cancel' };
const REPROTECT: OperationInput = { operation: 'reprotect' };
const FAILBACK: OperationInput = { operation: 'failback' };

/** There, and home again. Null: it is left alone. */
export function nextStep(recovery: Recovery | null, rng: Rng): OperationRequest | null {
  if (recovery?.job != null) return rng.chance(CHANCE_OF_A_CANCEL_AMID_A_JOB) ? request(CANCEL) : null;
  return request(rng.pick(stepsFrom(recovery)));
}

function stepsFrom(recovery: Recovery | null): readonly OperationInput[] {
  if (recovery === null || (recovery.state === 'Protected' && recovery.activeLocation === 'Primary'))
    return [PLANNED, PLANNED, PLANNED_FOR_GOOD, FAILOVER, SHUT_DOWN];
  switch (recovery.state) {
    case 'UnplannedFailoverCompleted':
      return [COMMIT, COMMIT, COMMIT, CANCEL];
    case 'PlannedFailoverCompleted':
      return [COMMIT, COMMIT, FAILBACK, CANCEL];
    case 'UnplannedFailoverFailed':
      return [FAILOVER, CANCEL];
    case 'PlannedFailoverFailed':
      return [PLANNED, PLANNED, CANCEL];
    case 'CommitFailoverFailedOnRecovery':
      return [COMMIT];
    case 'CommitFailoverCompleted':
      return [REPROTECT, FAILBACK];
    case 'CancelFailoverFailedOnRecovery':
      return [CANCEL];
    default:
      return [FAILBACK];
  }
}

/** A test beside all that, one at a time; `points`: those that are listed. */
export function nextTest(recovery: Recovery | null, points: readonly number[], rng: Rng): OperationRequest {
  const isOpen = recovery !== null && recovery.testFailover.state !== 'None';
  if (isOpen && rng.chance(0.7)) return request({ operation: 'cleanup' });
  const point = rng.chance(0.5) || points.length === 0 ? 'latest' : `${rng.pick(points)}`;
  return request({ operation: 'test-failover', point });
}

/** States of a failover that can be given up, or is being given up. */
const MAY_BE_GIVEN_UP: readonly ProtectionState[] = [
  'UnplannedFailoverInitiated',
  'UnplannedFailoverCompleted',
  'UnplannedFailoverFailed',
  'PlannedFailoverCompleted',
  'PlannedFailoverFailed',
  'CommitFailoverFailedOnRecovery',
  'CancelFailoverInProgressOnRecovery',
  'CancelFailoverFailedOnRecovery',
];

/**
 * What brings a machine home; `byCancel`: by giving the failover up, where that can be done. Null: it is there. `isUp`: whether a receiver runs; a job that
 * had changed nothing when its receiver was lost may have shut home's workload down, and is cancelled for that.
 */
export function wayHome(
  recovery: Recovery | null,
  byCancel: boolean,
  isUp: (receiver: string) => boolean,
): OperationRequest | 'wait' | null {
  if (recovery === null) return null;
  const { home, failover, job } = recovery;
  const isUnderWay = job !== null && isUp(job.receiver);
  // A job that was lost with its receiver counts as failed, whoever is asked.
  const { state, testFailover } = isUnderWay ? recovery : afterLostJob(recovery);
  if (isUnderWay && ['test-failover', 'cleanup', 'failback'].includes(job.operation)) return 'wait';
  if (testFailover.state !== 'None') return request({ operation: 'cleanup' });
  if (home.mode === 'replicate' && failover === null) return job === null ? null : request(CANCEL);
  // Begun since the host of the copy is lost: to cancel it would bring back what can't be given up, and the same would begin again.
  if (isUnderWay && failover !== null && !isUp(failover.receiver)) return 'wait';
  if (home.mode === 'refused' && byCancel && MAY_BE_GIVEN_UP.includes(state)) return request(CANCEL);
  if (isUnderWay) return 'wait';
  // The host is lost with what was not replicated.
  if (failover === null || !isUp(failover.receiver)) return request(FAILOVER);
  if (state === 'UnplannedFailoverCompleted' || state === 'CommitFailoverFailedOnRecovery') return request(COMMIT);
  if (state === 'UnplannedFailoverFailed' || state === 'PlannedFailoverFailed') return request(FAILOVER);
  return request(state === 'CancelFailoverFailedOnRecovery' ? CANCEL : FAILBACK);
}
