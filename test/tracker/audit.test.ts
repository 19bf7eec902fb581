import { describe, expect, it } from 'vitest';
import { AuditLedger, UNKNOWN_STATE, type Faults, type Reading } from '../../agent/tracker/ebpf/audit.js';
import type { DeviceKind } from '../../agent/tracker/ebpf/statistics.js';

/** Sectors of writes; discards stand still unless given. */
interface Numbers {
  readonly q: number;
  readonly c: number;
  readonly s: number;
  /** Bios that ended before they became requests. */
  readonly early?: number;
  readonly inFlight?: number;
  /** Completed while this was read. */
  readonly during?: number;
  readonly discards?: readonly [q: number, c: number, s: number];
}

let clockMs = 0;

function reading(kind: DeviceKind, n: Numbers): Reading {
  const [dq, dc, ds] = n.discards ?? [0, 0, 0];
  const counts = (c: number): Reading['before'] => ({
    submitted: { writes: n.q, discards: dq },
    requests: kind === 'request' ? { writes: c, discards: dc } : { writes: 0, discards: 0 },
    bios: kind === 'bio' ? { writes: c, discards: dc } : { writes: n.early ?? 0, discards: 0 },
  });
  return {
    atMs: clockMs++,
    before: counts(n.c),
    kernel: { writes: 1000 + n.s, discards: 500 + ds },
    after: counts(n.c + (n.during ?? 0)),
    inFlight: n.inFlight ?? 0,
  };
}

const FINE: Faults = { lost: undefined, opaqueWrites: 0, tooBig: 0, submissionMisses: 0, completionMisses: 0 };

/** Readings in turn; the last one repeats. */
function feed(kind: DeviceKind, ...numbers: Numbers[]): () => Reading {
  let i = 0;
  return () => reading(kind, numbers[Math.min(i++, numbers.length - 1)] ?? { q: 0, c: 0, s: 0 });
}

function started(kind: DeviceKind, ...numbers: Numbers[]): AuditLedger {
  const ledger = new AuditLedger(kind, UNKNOWN_STATE, 0);
  ledger.start(feed(kind, ...numbers), 100);
  return ledger;
}

const idle = { q: 0, c: 0, s: 0 };
const settled = (kind: DeviceKind): AuditLedger => {
  const ledger = started(kind, idle);
  expect(ledger.audit(feed(kind, idle), FINE, 1).kind).toBe('balanced');
  expect(ledger.state.settled).toBe(true);
  return ledger;
};

describe('audit of a settled disk', () => {
  const cases: readonly [string, DeviceKind, Numbers[], object][] = [
    ['idle', 'request', [idle], { kind: 'balanced', quiet: true }],
    ['all seen, quiet', 'request', [{ q: 80, c: 80, s: 80 }], { kind: 'balanced', quiet: true }],
    ['all seen, busy', 'request', [{ q: 96, c: 80, s: 80, inFlight: 2 }], { kind: 'balanced', quiet: false }],
    ['plugged requests are not in flight', 'request', [{ q: 88, c: 80, s: 80 }], { kind: 'balanced', quiet: false }],
    [
      'a completion between our program and the kernel',
      'request',
      [
        { q: 96, c: 88, s: 80, inFlight: 1 },
        { q: 96, c: 88, s: 88, inFlight: 1 },
      ],
      { kind: 'balanced', quiet: false },
    ],
    ['always in between', 'request', [{ q: 96, c: 88, s: 80, inFlight: 1 }], { kind: 'recopy', missedSectors: 0 }],
    [
      'a completion missed, quiet',
      'request',
      [{ q: 80, c: 72, s: 80 }],
      { kind: 'recopy', missedSectors: 8, quiet: true },
    ],
    [
      'a completion missed, busy',
      'request',
      [{ q: 96, c: 72, s: 80, inFlight: 1 }],
      { kind: 'recopy', missedSectors: 8, quiet: false },
    ],
    [
      'a completion missed, hidden in some readings',
      'request',
      [
        { q: 96, c: 80, s: 80, inFlight: 1 },
        { q: 96, c: 80, s: 88, inFlight: 1 },
      ],
      { kind: 'recopy', missedSectors: 8 },
    ],
    ['never a steady reading', 'request', [{ q: 96, c: 80, s: 80, inFlight: 1, during: 8 }], { kind: 'recopy' }],
    [
      'a write that was refused early',
      'request',
      [{ q: 88, c: 80, s: 80, early: 8 }],
      { kind: 'balanced', quiet: true },
    ],
    [
      'a missed discard',
      'request',
      [{ q: 80, c: 80, s: 80, discards: [64, 0, 64] }],
      { kind: 'recopy', missedSectors: 64 },
    ],
    ['bios: all seen', 'bio', [{ q: 80, c: 80, s: 80 }], { kind: 'balanced', quiet: true }],
    ['bios: the kernel counts first', 'bio', [{ q: 88, c: 80, s: 88, inFlight: 1 }], { kind: 'recopy' }],
    [
      'bios: it did once, then fitted',
      'bio',
      [
        { q: 88, c: 80, s: 88, inFlight: 1 },
        { q: 96, c: 88, s: 88, inFlight: 1 },
      ],
      { kind: 'balanced', quiet: false },
    ],
    [
      'a submission missed, quiet',
      'request',
      [{ q: 72, c: 80, s: 80 }],
      { kind: 'series-ended', reason: '8 written sectors were not seen at submission' },
    ],
    ['a submission missed, nearly hidden', 'request', [{ q: 79, c: 80, s: 80, inFlight: 1 }], { kind: 'series-ended' }],
  ];
  it.each(cases)('%s (%s)', (_, kind, numbers, expected) => {
    expect(settled(kind).audit(feed(kind, ...numbers), FINE, 2)).toMatchObject(expected);
  });

  const faults: readonly [string, Partial<Faults>, object][] = [
    ['a lost object', { lost: 'the pinned object x was lost' }, { reason: 'the pinned object x was lost' }],
    ['passthrough', { opaqueWrites: 2 }, { kind: 'series-ended' }],
    ['too big', { tooBig: 1 }, { kind: 'series-ended' }],
    ['submissions skipped', { submissionMisses: 3 }, { kind: 'series-ended' }],
    ['completions skipped', { completionMisses: 3 }, { kind: 'recopy', missedSectors: 0 }],
  ];
  it.each(faults)('%s', (_, fault, expected) => {
    const read = feed('request', { q: 80, c: 80, s: 80 });
    expect(settled('request').audit(read, { ...FINE, ...fault }, 2)).toMatchObject(expected);
  });

  it('rebases after a recopy, and only as far as is sure', () => {
    const ledger = settled('request');
    const missed = feed('request', { q: 80, c: 72, s: 80 });
    expect(ledger.audit(missed, FINE, 2).kind).toBe('recopy');
    expect(ledger.audit(missed, FINE, 3)).toEqual({ kind: 'balanced', quiet: true });
    const bios = settled('bio');
    const blurred = feed('bio', { q: 88, c: 80, s: 88, inFlight: 1 });
    expect(bios.audit(blurred, FINE, 2)).toMatchObject({ kind: 'recopy', missedSectors: 8 });
    expect(bios.audit(blurred, FINE, 3)).toMatchObject({ kind: 'recopy', missedSectors: 8 });
    expect(bios.audit(feed('bio', { q: 88, c: 88, s: 88 }), FINE, 4).kind).toBe('balanced');
  });

  it('takes what the kernel never counts into the baseline, but only after a minute', () => {
    const ledger = settled('request');
    const leaked = feed('request', { q: 88, c: 80, s: 80 });
    for (const nowMs of [10, 50_000]) expect(ledger.audit(leaked, FINE, nowMs)).toMatchObject({ quiet: false });
    expect(ledger.audit(leaked, FINE, 60_010)).toMatchObject({ kind: 'balanced', quiet: false });
    expect(ledger.audit(leaked, FINE, 60_020)).toEqual({ kind: 'balanced', quiet: true });
    const missed = feed('request', { q: 88, c: 88, s: 88 });
    expect(ledger.audit(missed, FINE, 60_030)).toMatchObject({ kind: 'series-ended' });
  });

  it('goes on from its persisted state', () => {
    const ledger = settled('request');
    ledger.audit(feed('request', { q: 80, c: 72, s: 80 }), FINE, 2);
    const resumed = new AuditLedger('request', ledger.state, 100);
    expect(resumed.audit(feed('request', { q: 80, c: 72, s: 80 }), FINE, 101).kind).toBe('balanced');
    const missedWhileAway = feed('request', { q: 160, c: 144, s: 160 });
    expect(resumed.audit(missedWhileAway, FINE, 102)).toMatchObject({ kind: 'recopy', missedSectors: 8 });
  });
});

describe('audit right after the start', () => {
  // 24 sectors were in flight when the programs came: submitted unseen.
  const busy = { q: 8, c: 0, s: 0, inFlight: 4 };

  it('ends the series when a completion is missed before those have landed', () => {
    const ledger = started('request', busy);
    const read = feed('request', { q: 80, c: 72, s: 80, inFlight: 3 });
    expect(ledger.audit(read, FINE, 10)).toMatchObject({ kind: 'series-ended' });
  });

  it('is settled after a minute, or once the disk was quiet', () => {
    const late = started('request', busy);
    const seen = feed('request', { q: 80, c: 80, s: 80, inFlight: 3 });
    late.audit(seen, FINE, 10);
    expect(late.state.settled).toBe(false);
    late.audit(seen, FINE, 60_000);
    expect(late.state.settled).toBe(true);
    const quiet = started('request', busy);
    // Still for a moment: not enough to call it idle, as completions may wait for their CPU.
    quiet.audit(feed('request', { q: 80, c: 104, s: 104 }), FINE, 10);
    expect(quiet.state.settled).toBe(false);
    quiet.audit(feed('request', { q: 80, c: 104, s: 104 }), FINE, 40);
    expect(quiet.state).toMatchObject({ settled: true, baseline: { writes: 80 - 104 - 1000 } });
  });

  it('asks for a recopy as long as nothing is known', () => {
    const ledger = started('request', { q: 8, c: 0, s: 0, inFlight: 4, during: 8 });
    expect(ledger.state.offset.writes).toBeNaN();
    const steady = feed('request', { q: 80, c: 80, s: 80, inFlight: 3 });
    expect(ledger.audit(steady, FINE, 10)).toMatchObject({ kind: 'recopy' });
    expect(ledger.audit(steady, FINE, 11)).toMatchObject({ kind: 'balanced' });
  });
});
