/**
 * What may be done with a machine, and what it becomes by it. Pure: two tables, tested exhaustively.
 * A copy (an instance) belongs to the receiver whose host has its volumes; only that one can end it, unless it is gone (ownership.ts).
 */
import type { ManifestOwner } from '../catalog/manifest.js';
import type { Instance, Operation, ProtectionState, Recovery } from '../catalog/recovery.js';
import { OPERATIONS } from '../catalog/recovery.js';

export interface Facts {
  /** Id of the receiver that is asked. */
  readonly receiver: string;
  readonly hasPoint: boolean;
  readonly homeAgent: 'replicating' | 'restoring' | null;
  /** The other receiver that has the machine, as its manifest says, and that may live. */
  readonly homeAt: ManifestOwner | null;
  /** Other receivers that may live: operators are told where to go. */
  readonly others: readonly ManifestOwner[];
  /** Other receivers that were asked whether they live, and what came of it. */
  readonly answering: readonly string[];
  readonly silent: readonly string[];
  /** Copies that are recorded as ours and can't be served any more: their volumes are gone from this host. */
  readonly lost: readonly string[];
}

export interface Allowed {
  readonly operation: Operation;
  readonly allowed: boolean;
  /** Why not; or what has to be known when it is. */
  readonly reason: string;
}

type Owner = 'nobody' | 'here' | 'gone' | 'alive' | 'unknown';
type Verdict = Omit<Allowed, 'operation'>;

const yes = (reason = ''): Verdict => ({ allowed: true, reason });
const no = (reason: string): Verdict => ({ allowed: false, reason });

function ownerOf(receiver: string | undefined, facts: Facts): Owner {
  if (receiver === undefined) return 'nobody';
  if (receiver === facts.receiver) return 'here';
  if (facts.answering.includes(receiver)) return 'alive';
  return facts.silent.includes(receiver) ? 'gone' : 'unknown';
}

const ownerOfCopy = (instance: Instance | null | undefined, facts: Facts): Owner =>
  instance != null && facts.lost.includes(instance.id) ? 'gone' : ownerOf(instance?.receiver, facts);

/** A receiver as an operator finds it. */
export const receiverText = ({ name, address }: Pick<ManifestOwner, 'name' | 'address'>): string =>
  `receiver ${name} (${address})`;

function nameOf(instance: Instance | null, { others }: Facts): string {
  if (instance === null) return '';
  const known = others.find(({ receiver }) => receiver === instance.receiver);
  return known === undefined ? `receiver ${instance.receiverName}` : receiverText(known);
}

function hostOf(job: NonNullable<Recovery['job']>, { others }: Facts): string {
  const known = others.find(({ receiver }) => receiver === job.receiver);
  return known === undefined ? 'another receiver' : receiverText(known);
}

/** States of a failover that can still be given up: home has everything that it ever had. */
const UNCOMMITTED: readonly ProtectionState[] = [
  'UnplannedFailoverCompleted',
  'UnplannedFailoverFailed',
  'PlannedFailoverCompleted',
  'PlannedFailoverFailed',
  'ChangeRecoveryPointFailed',
  'CommitFailoverFailedOnRecovery',
  'CancelFailoverFailedOnRecovery',
];
const FAILED: readonly ProtectionState[] = [
  'UnplannedFailoverFailed',
  'PlannedFailoverFailed',
  'ChangeRecoveryPointFailed',
];
const atHome = (r: Recovery | null): boolean =>
  r === null || (r.state === 'Protected' && r.activeLocation === 'Primary');

function failover(r: Recovery | null, facts: Facts): Verdict {
  if (!facts.hasPoint) return no('there is no recovery point yet');
  if (r === null || atHome(r)) return yes();
  const owner = ownerOfCopy(r.failover, facts);
  if (FAILED.includes(r.state) && (owner === 'nobody' || owner === 'here')) return yes('the failover before failed');
  if (owner === 'unknown')
    return yes(`the machine runs at ${nameOf(r.failover, facts)}, which is asked first whether it lives`);
  if (owner === 'gone') return yes(`${nameOf(r.failover, facts)}, where the machine ran, does not answer`);
  if (owner === 'alive') return no(`the machine runs at ${nameOf(r.failover, facts)}, which lives`);
  if (r.state === 'CancelFailoverFailedOnRecovery') return no('a failover is being given up: cancel again');
  return no('the machine is failed over already: change its point, commit, or cancel');
}

function planned(r: Recovery | null, facts: Facts): Verdict {
  if (!facts.hasPoint) return no('there is no recovery point yet');
  if (r?.state === 'PlannedFailoverFailed' && r.failover === null) return yes('its source was shut down before');
  if (!atHome(r)) return no('the machine does not run at home');
  if (facts.homeAgent === 'replicating') return yes();
  if (facts.homeAt !== null) return yes(`its agent is at ${receiverText(facts.homeAt)}, and is called over first`);
  return no('the agent at home is connected to no receiver that is known to live');
}

function cancelFailover(r: Recovery | null, facts: Facts): Verdict {
  if (r === null || atHome(r)) return no('there is nothing to cancel');
  if (!UNCOMMITTED.includes(r.state)) return no('the failover is committed: fail back instead');
  if (r.home.mode === 'restore') return no('the disks at home were written by a restore: fail back instead');
  const owner = ownerOfCopy(r.failover, facts);
  if (owner === 'alive') return no(`the machine runs at ${nameOf(r.failover, facts)}: cancel it there`);
  if (owner === 'unknown')
    return yes(`the machine runs at ${nameOf(r.failover, facts)}, which is asked first whether it lives`);
  return yes();
}

/** Operations that need the copy that runs here. */
function onCopy(r: Recovery | null, facts: Facts, states: readonly ProtectionState[], otherwise: string): Verdict {
  if (r === null || !states.includes(r.state) || atHome(r)) return no(otherwise);
  const owner = ownerOfCopy(r.failover, facts);
  if (owner === 'here' || (owner === 'nobody' && r.state === 'ChangeRecoveryPointFailed')) return yes();
  if (owner === 'nobody') return no('no copy of the machine runs');
  return no(`the machine runs at ${nameOf(r.failover, facts)}: ask there, or fail over here if that receiver is gone`);
}

function testFailover(r: Recovery | null, facts: Facts): Verdict {
  if (!facts.hasPoint) return no('there is no recovery point yet');
  const state = r?.testFailover.state ?? 'None';
  const isOpen = (r?.testFailover.instance ?? null) !== null;
  return state === 'None' || (state === 'TestFailoverFailed' && !isOpen)
    ? yes()
    : no('a test failover is open: clean it up');
}

function cleanup(r: Recovery | null, facts: Facts): Verdict {
  if (r === null || r.testFailover.state === 'None') return no('no test failover is open');
  const instance = r.testFailover.instance;
  const owner = ownerOfCopy(instance, facts);
  if (owner === 'alive') return no(`the test runs at ${nameOf(instance, facts)}: clean it up there`);
  return owner === 'unknown'
    ? yes(`the test runs at ${nameOf(instance, facts)}, which is asked first whether it lives`)
    : yes();
}

const RULES: Readonly<Record<Operation, (r: Recovery | null, facts: Facts) => Verdict>> = {
  'test-failover': testFailover,
  cleanup,
  failover,
  'planned-failover': planned,
  commit: (r) =>
    r?.failover !== undefined &&
    r.failover !== null &&
    ['UnplannedFailoverCompleted', 'PlannedFailoverCompleted', 'CommitFailoverFailedOnRecovery'].includes(r.state)
      ? yes()
      : no('no failover waits for its commit'),
  'change-point': (r, facts) =>
    onCopy(
      r,
      facts,
      ['UnplannedFailoverCompleted', 'PlannedFailoverCompleted', 'ChangeRecoveryPointFailed'],
      'no failover waits for its commit',
    ),
  cancel: cancelFailover,
  reprotect: (r, facts) =>
    onCopy(
      r,
      facts,
      ['CommitFailoverCompleted', 'ReprotectFailed'],
      'the machine has no committed failover to reprotect',
    ),
  failback: (r, facts) =>
    onCopy(
      r,
      facts,
      ['CommitFailoverCompleted', 'PlannedFailoverCompleted', 'Protected', 'ReprotectFailed'],
      'the machine has no committed failover to come back from',
    ),
};

type RunningJob = NonNullable<Recovery['job']>;

/** A job whose receiver is gone is as good as failed; giving it up is what lets home go on when the job had shut its workload down. */
function afterLoss(recovery: Recovery, job: RunningJob, operation: Operation, facts: Facts): Verdict {
  const effective = afterLostJob(recovery);
  if (operation !== 'cancel' || !atHome(effective)) return RULES[operation](effective, facts);
  if (job.operation === 'test-failover' || job.operation === 'cleanup')
    return no('a test failover was lost with its receiver: clean it up');
  return yes(`job ${job.operation} was lost with its receiver: it is ended, and home goes on`);
}

/** While a job runs nothing but its cancel is allowed. */
function duringJob(job: RunningJob, operation: Operation, facts: Facts): Verdict {
  const owner = ownerOf(job.receiver, facts);
  if (owner === 'unknown')
    return yes(`job ${job.operation} runs at ${hostOf(job, facts)}, which is asked first whether it lives`);
  if (operation !== 'cancel') return no(`job ${job.operation} is running`);
  if (owner !== 'here') return no(`job ${job.operation} runs at ${hostOf(job, facts)}: cancel it there`);
  if (job.data['phase'] === 'undo') return no(`job ${job.operation} is being undone already`);
  if (job.operation === 'cancel') return no('a cancel can not be cancelled');
  return job.data['noReturn'] === true ? no(`job ${job.operation} has passed its point of no return`) : yes();
}

export function allowedOperations(recovery: Recovery | null, facts: Facts): Allowed[] {
  const job = recovery?.job ?? null;
  return OPERATIONS.map((operation) => {
    if (recovery === null || job === null) return { operation, ...RULES[operation](recovery, facts) };
    const lost = afterLoss(recovery, job, operation, facts);
    if (ownerOf(job.receiver, facts) === 'gone') return { operation, ...lost };
    const during = duringJob(job, operation, facts);
    // Asking pays only where the operation would be allowed once the job's receiver turns out to be gone.
    const isAsked = ownerOf(job.receiver, facts) === 'unknown';
    return { operation, ...(isAsked && !lost.allowed ? lost : during) };
  });
}

export type Outcome = 'begun' | 'succeeded' | 'failed' | 'cancelled';

/** What a job's operation came from, and whether it has changed what can't be changed back (see `passed` in jobs.ts). */
export interface Since {
  readonly state: ProtectionState;
  readonly activeLocation: Recovery['activeLocation'];
  readonly passed: boolean;
}

export type Place = Pick<Recovery, 'state' | 'activeLocation'>;

const at = (activeLocation: Place['activeLocation'], state: ProtectionState): Place => ({ state, activeLocation });

interface Row {
  readonly begun: ProtectionState;
  readonly succeeded: (since: Since) => Place;
  /** Failed after it had `passed`; before, a job leaves what it came from. */
  readonly failed: (since: Since) => Place;
}

const kindOfFailover = (since: Since): ProtectionState =>
  since.state === 'PlannedFailoverCompleted' ? 'PlannedFailoverCompleted' : 'UnplannedFailoverCompleted';

const ROWS: Readonly<Record<Exclude<Operation, 'test-failover' | 'cleanup'>, Row>> = {
  failover: {
    begun: 'UnplannedFailoverInitiated',
    succeeded: () => at('Recovery', 'UnplannedFailoverCompleted'),
    failed: () => at('Recovery', 'UnplannedFailoverFailed'),
  },
  'planned-failover': {
    begun: 'PlannedFailoverInitiated',
    succeeded: () => at('Recovery', 'PlannedFailoverCompleted'),
    failed: () => at('Recovery', 'PlannedFailoverFailed'),
  },
  'change-point': {
    begun: 'ChangeRecoveryPointInitiated',
    succeeded: (since) => at('Recovery', kindOfFailover(since)),
    failed: () => at('Recovery', 'ChangeRecoveryPointFailed'),
  },
  commit: {
    begun: 'CommitFailoverInProgressOnRecovery',
    succeeded: () => at('Recovery', 'CommitFailoverCompleted'),
    failed: () => at('Recovery', 'CommitFailoverFailedOnRecovery'),
  },
  cancel: {
    begun: 'CancelFailoverInProgressOnRecovery',
    succeeded: () => at('Primary', 'Protected'),
    failed: () => at('Recovery', 'CancelFailoverFailedOnRecovery'),
  },
  reprotect: {
    begun: 'ReprotectInitiated',
    succeeded: () => at('Recovery', 'Protected'),
    failed: () => at('Recovery', 'ReprotectFailed'),
  },
  failback: {
    // A failback is a planned failover in the other direction.
    begun: 'PlannedFailoverInitiated',
    succeeded: () => at('Primary', 'Protected'),
    // Home's disks were written: what came before can't be given up for them any more, so the failover counts as committed.
    failed: (since) => at('Recovery', since.state === 'Protected' ? 'Protected' : 'CommitFailoverCompleted'),
  },
};

/** Where the machine stands after a step of an operation. Tests of a copy leave it where it is. */
export function placeAfter(operation: Operation, outcome: Outcome, since: Since): Place {
  const before = at(since.activeLocation, since.state);
  if (operation === 'test-failover' || operation === 'cleanup') return before;
  const row = ROWS[operation];
  if (outcome === 'begun') return at(since.activeLocation, row.begun);
  if (outcome === 'succeeded') return row.succeeded(since);
  return since.passed ? row.failed(since) : before;
}

/** What a job had come from, as it recorded it. */
export function sinceOf(job: NonNullable<Recovery['job']>): Since {
  return {
    state: job.data['originState'] as ProtectionState,
    activeLocation: job.data['originLocation'] as Recovery['activeLocation'],
    passed: job.data['passed'] === true,
  };
}

/** What is left of a machine when the receiver that ran its job is gone: as if the job had failed there (its record is `endJob`'s). */
export function afterLostJob(recovery: Recovery): Recovery {
  const { job, testFailover: test } = recovery;
  if (job === null) return recovery;
  return {
    ...recovery,
    ...placeAfter(job.operation, 'failed', sinceOf(job)),
    testFailover:
      job.operation === 'test-failover' || job.operation === 'cleanup'
        ? { ...test, state: 'TestFailoverFailed' }
        : test,
    job: null,
  };
}
