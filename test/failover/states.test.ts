/** Every state × every operation has an expectation: who may do what, and what becomes of it. */
import { describe, expect, it } from 'vitest';
import {
  initialRecovery,
  OPERATIONS,
  PROTECTION_STATES,
  type Instance,
  type Operation,
  type ProtectionState,
  type Recovery,
} from '../../receiver/catalog/recovery.js';
import { allowedOperations, placeAfter, type Facts, type Outcome } from '../../receiver/failover/states.js';
import { MACHINE } from './fakes.js';

const HERE = '99999999-2222-4333-8444-000000000001';
const THERE = '99999999-2222-4333-8444-000000000002';
const facts: Facts = {
  receiver: HERE,
  hasPoint: true,
  homeAgent: 'replicating',
  homeAt: null,
  others: [],
  answering: [],
  silent: [],
  lost: [],
};
/** The receiver of THERE, as it may be found. */
const dr2 = { receiver: THERE, name: 'dr2', address: 'dr2.example.com:7443' };

const instance = (receiver: string): Instance => ({
  id: '99999999-2222-4333-8444-00000000000a',
  kind: 'failover',
  receiver,
  receiverName: receiver === HERE ? 'dr1' : 'dr2',
  provider: 'none',
  point: 1,
  generation: 2,
  createdAtMs: 0,
  settings: {},
  disks: [],
  bootCheck: null,
  rtoMs: null,
});

function recovery(state: ProtectionState, change: Partial<Recovery> = {}): Recovery {
  const isAtHome = state === 'Protected';
  return {
    ...initialRecovery(MACHINE, 1),
    version: 1,
    number: 1,
    writeId: 'w',
    writtenAtMs: 0,
    state,
    activeLocation: isAtHome ? 'Primary' : 'Recovery',
    home: isAtHome ? { mode: 'replicate', generation: 1 } : { mode: 'refused', reason: '' },
    failover: isAtHome ? null : instance(HERE),
    ...change,
  };
}

const allowed = (r: Recovery | null, f: Partial<Facts> = {}): Operation[] =>
  allowedOperations(r, { ...facts, ...f })
    .filter((a) => a.allowed)
    .map((a) => a.operation)
    .sort();

const list = (text: string): string[] => text.split(' ').filter(Boolean).sort();

/** With the copy here; with no copy; with the copy at a receiver that is gone; at one that lives. Always with `test-failover`. */
const TABLE: Readonly<Record<ProtectionState, readonly [string, string, string, string]>> = {
  Protected: [
    'failover planned-failover',
    'failover planned-failover',
    'failover planned-failover',
    'failover planned-failover',
  ],
  UnplannedFailoverInitiated: ['', '', 'failover', ''],
  UnplannedFailoverCompleted: ['commit change-point cancel', 'cancel', 'commit failover cancel', 'commit'],
  UnplannedFailoverFailed: ['failover cancel', 'failover cancel', 'failover cancel', ''],
  PlannedFailoverInitiated: ['', '', 'failover', ''],
  PlannedFailoverCompleted: ['commit change-point cancel failback', 'cancel', 'commit failover cancel', 'commit'],
  PlannedFailoverFailed: ['failover cancel', 'failover planned-failover cancel', 'failover cancel', ''],
  ChangeRecoveryPointInitiated: ['', '', 'failover', ''],
  ChangeRecoveryPointFailed: ['failover change-point cancel', 'failover change-point cancel', 'failover cancel', ''],
  CommitFailoverInProgressOnRecovery: ['', '', 'failover', ''],
  CommitFailoverCompleted: ['reprotect failback', '', 'failover', ''],
  CommitFailoverFailedOnRecovery: ['commit cancel', 'cancel', 'commit failover cancel', 'commit'],
  CancelFailoverInProgressOnRecovery: ['', '', 'failover', ''],
  CancelFailoverFailedOnRecovery: ['cancel', 'cancel', 'failover cancel', ''],
  ReprotectInitiated: ['', '', 'failover', ''],
  ReprotectFailed: ['reprotect failback', '', 'failover', ''],
};

describe('what is allowed', () => {
  it('nothing without a point', () => {
    expect(allowed(null, { hasPoint: false })).toEqual([]);
  });

  it('a machine that nothing was ever done with', () => {
    expect(allowed(null)).toEqual(list('failover planned-failover test-failover'));
    expect(allowed(null, { homeAgent: null })).toEqual(list('failover test-failover'));
  });

  it('a planned failover whose agent is at another receiver, which is said', () => {
    const elsewhere = { homeAgent: null, homeAt: dr2 };
    expect(allowed(null, elsewhere)).toEqual(list('failover planned-failover test-failover'));
    const planned = allowedOperations(null, { ...facts, ...elsewhere }).find((a) => a.operation === 'planned-failover');
    expect(planned?.reason).toMatch(/at receiver dr2 \(dr2\.example\.com:7443\), and is called over/);
    expect(allowed(null, { homeAgent: 'restoring' })).not.toContain('planned-failover');
  });

  it('what only the host of the copy can do is said to be done there, with its address', () => {
    const r = recovery('CommitFailoverCompleted', { failover: instance(THERE) });
    const reasons = allowedOperations(r, { ...facts, others: [dr2], answering: [THERE] });
    for (const operation of ['reprotect', 'failback', 'failover'] as const) {
      const found = reasons.find((a) => a.operation === operation);
      expect([found?.allowed, found?.reason]).toEqual([false, expect.stringContaining('dr2 (dr2.example.com:7443)')]);
    }
  });

  it.each(PROTECTION_STATES)('%s', (state) => {
    const isAtHome = state === 'Protected';
    const copy = (receiver: string | null) =>
      recovery(state, { failover: isAtHome || receiver === null ? null : instance(receiver) });
    const got = [
      allowed(copy(HERE)),
      allowed(copy(null)),
      allowed(copy(THERE), { silent: [THERE] }),
      allowed(copy(THERE), { answering: [THERE] }),
    ];
    expect(got).toEqual(TABLE[state].map((operations) => list(`${operations} test-failover`)));
    for (const one of allowedOperations(copy(THERE), facts)) expect(one.allowed || one.reason !== '').toBe(true);
  });

  it('reprotected: home follows, only the way home is open', () => {
    const r = recovery('Protected', {
      activeLocation: 'Recovery',
      home: { mode: 'restore', reason: '' },
      failover: instance(HERE),
    });
    expect(allowed(r)).toEqual(list('failback test-failover'));
    const gone = { ...r, failover: instance(THERE) };
    expect(allowed(gone, { silent: [THERE] })).toEqual(list('failover test-failover'));
  });

  it('home whose disks were written by a restore can not go on with them', () => {
    for (const state of PROTECTION_STATES) {
      expect(allowed(recovery(state, { home: { mode: 'restore', reason: '' } }))).not.toContain(
        state === 'Protected' ? 'never' : 'cancel',
      );
    }
  });

  it('a copy of ours whose volumes are gone counts as gone', () => {
    const r = recovery('CommitFailoverCompleted');
    expect(allowed(r, { lost: [r.failover?.id ?? ''] })).toEqual(list('failover test-failover'));
  });

  it('an open test is cleaned up first', () => {
    for (const state of ['TestFailoverCompleted', 'TestFailoverFailed'] as const) {
      const r = recovery('Protected', { testFailover: { state, instance: { ...instance(HERE), kind: 'test' } } });
      expect(allowed(r)).toEqual(list('cleanup failover planned-failover'));
    }
    const failed = recovery('Protected', { testFailover: { state: 'TestFailoverFailed', instance: null } });
    expect(allowed(failed)).toEqual(list('cleanup failover planned-failover test-failover'));
  });

  describe('while a job runs', () => {
    const job = (operation: Operation, receiver: string, data = {}): Recovery => {
      const r = recovery('Protected');
      return {
        ...r,
        state: 'UnplannedFailoverInitiated',
        job: {
          id: instance(HERE).id,
          operation,
          state: 'InProgress',
          receiver,
          startedAtMs: 0,
          endedAtMs: null,
          request: {},
          data: { originState: 'Protected', originLocation: 'Primary', ...data },
          tasks: [],
          error: null,
        },
      };
    };

    it('only its cancel, up to its point of no return', () => {
      expect(allowed(job('failover', HERE))).toEqual(['cancel']);
      expect(allowed(job('failback', HERE, { noReturn: true }))).toEqual([]);
      expect(allowed(job('failover', HERE, { phase: 'undo' }))).toEqual([]);
      expect(allowed(job('cancel', HERE))).toEqual([]);
    });

    it('another receiver’s job counts until that receiver is gone', () => {
      expect(allowed(job('failover', THERE), { answering: [THERE] })).toEqual([]);
      // Not asked yet: what would be allowed then is offered, cancel too.
      expect(allowed(job('failover', THERE))).toEqual(list('cancel failover planned-failover test-failover'));
      expect(allowed(job('failover', THERE), { silent: [THERE] })).toEqual(
        list('cancel failover planned-failover test-failover'),
      );
      for (const test of ['test-failover', 'cleanup'] as const)
        expect(allowed(job(test, THERE), { silent: [THERE] })).toEqual(
          list('cleanup failover planned-failover test-failover'),
        );
      expect(allowed(job('failover', THERE, { passed: true }), { silent: [THERE] })).toEqual(
        list('failover cancel test-failover'),
      );
    });
  });
});

describe('what becomes of it', () => {
  const EXPECTED: Readonly<Record<Operation, readonly [begun: string, succeeded: string, failed: string]>> = {
    'test-failover': ['same', 'same', 'same'],
    cleanup: ['same', 'same', 'same'],
    failover: ['UnplannedFailoverInitiated', 'Recovery UnplannedFailoverCompleted', 'Recovery UnplannedFailoverFailed'],
    'planned-failover': [
      'PlannedFailoverInitiated',
      'Recovery PlannedFailoverCompleted',
      'Recovery PlannedFailoverFailed',
    ],
    commit: [
      'CommitFailoverInProgressOnRecovery',
      'Recovery CommitFailoverCompleted',
      'Recovery CommitFailoverFailedOnRecovery',
    ],
    'change-point': [
      'ChangeRecoveryPointInitiated',
      'Recovery UnplannedFailoverCompleted',
      'Recovery ChangeRecoveryPointFailed',
    ],
    cancel: ['CancelFailoverInProgressOnRecovery', 'Primary Protected', 'Recovery CancelFailoverFailedOnRecovery'],
    reprotect: ['ReprotectInitiated', 'Recovery Protected', 'Recovery ReprotectFailed'],
    failback: ['PlannedFailoverInitiated', 'Primary Protected', 'Recovery CommitFailoverCompleted'],
  };
  const cases = PROTECTION_STATES.flatMap((state) => OPERATIONS.map((operation) => [state, operation] as const));

  it.each(cases)('%s × %s', (state, operation) => {
    const since = { state, activeLocation: 'Recovery' as const, passed: false };
    const same = `Recovery ${state}`;
    const after = (outcome: Outcome, passed: boolean): string => {
      const place = placeAfter(operation, outcome, { ...since, passed });
      return `${place.activeLocation} ${place.state}`;
    };
    const [begun, succeeded, failed] = EXPECTED[operation].map((text) => (text === 'same' ? same : text));
    expect(after('begun', false)).toBe(begun === same ? same : `Recovery ${begun ?? ''}`);
    const isPlanned = operation === 'change-point' && state === 'PlannedFailoverCompleted';
    expect(after('succeeded', true)).toBe(isPlanned ? same : succeeded);
    const isProtected = operation === 'failback' && state === 'Protected';
    expect(after('failed', true)).toBe(isProtected ? same : failed);
    expect(after('cancelled', true)).toBe(after('failed', true));
    // Before anything was changed that can't be changed back, a job leaves what it came from.
    expect(after('failed', false)).toBe(same);
    expect(after('cancelled', false)).toBe(same);
  });
});
