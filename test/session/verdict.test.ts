/**
 * Every verdict and every refusal at the beginning of a session, as a table.
 */
import { describe, expect, it } from 'vitest';
import type { DiskEntry, MachineIdentity, Manifest } from '../../receiver/catalog/manifest.js';
import { initialRecovery, type Job, type Recovery } from '../../receiver/catalog/recovery.js';
import { diskVerdict, type VerdictInput } from '../../receiver/session/verdict.js';
import { admit } from '../../receiver/session/welcome.js';
import { MIB, asDiskId, asMachineId, asSeriesId } from '../../shared/units.js';
import { PROTOCOL_VERSION, type Hello, type HelloDisk } from '../../shared/wire/messages.js';

const SERIES = asSeriesId('aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeee1');
const OTHER_SERIES = asSeriesId('aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeee2');
const MACHINE = asMachineId('11111111-2222-4333-8444-555555555555');
const OTHER_MACHINE = asMachineId('11111111-2222-4333-8444-555555555556');

const DISK: HelloDisk = {
  id: asDiskId('disk0'),
  device: '/dev/vdb',
  sizeBytes: 256 * MIB,
  blockBytes: 4096,
  series: SERIES,
  tracker: 'ebpf',
  committedPoint: 7,
  committedSeries: SERIES,
  changedBlocks: 12,
  hashStore: 'valid',
  sweep: null,
};
const ENTRY: DiskEntry = {
  id: asDiskId('disk0'),
  device: '/dev/vdb',
  sizeBytes: 256 * MIB,
  blockBytes: 4096,
  series: SERIES,
  bases: null,
  staged: null,
  lastPoint: 7,
};
const EMPTY: DiskEntry = { ...ENTRY, series: null, lastPoint: 0 };
const sweepOf = (
  kind: 'first-copy' | 'comparison' | 'bulk',
  nextSegment = 2,
  stagedLayers = 2,
): HelloDisk['sweep'] => ({
  kind,
  nextSegment,
  stagedLayers,
});

interface Row {
  readonly name: string;
  readonly disk?: Partial<HelloDisk>;
  readonly entry: DiskEntry | null;
  readonly stagedLayers?: number | null;
  readonly inDoubtCommitted?: boolean;
  readonly expect: string;
  readonly reason: RegExp;
}

const NEW = { committedPoint: 0, committedSeries: null };
const TABLE: readonly Row[] = [
  // A disk that the store doesn't know, or knows without a point.
  { name: 'unknown disk', disk: NEW, entry: null, expect: 'full', reason: /^first copy$/ },
  { name: 'known disk without a point', disk: NEW, entry: EMPTY, expect: 'full', reason: /^first copy$/ },
  {
    name: 'first copy half done',
    disk: { ...NEW, sweep: sweepOf('first-copy') },
    entry: EMPTY,
    stagedLayers: 2,
    expect: 'resume',
    reason: /first-copy goes on at segment 2/,
  },
  {
    name: 'first copy of zeroes half done: nothing is staged',
    disk: { ...NEW, sweep: sweepOf('first-copy', 3, 0) },
    entry: EMPTY,
    stagedLayers: 0,
    expect: 'resume',
    reason: /segment 3/,
  },
  {
    name: 'first copy half done, staged layers lost',
    disk: { ...NEW, sweep: sweepOf('first-copy') },
    entry: EMPTY,
    stagedLayers: null,
    expect: 'full',
    reason: /starts again: staged layers are missing/,
  },
  {
    name: 'first copy half done, another store',
    disk: { ...NEW, sweep: sweepOf('first-copy') },
    entry: null,
    stagedLayers: null,
    expect: 'full',
    reason: /starts again/,
  },
  {
    name: 'bulk before the first point',
    disk: { ...NEW, sweep: sweepOf('bulk') },
    entry: EMPTY,
    stagedLayers: 2,
    expect: 'resume',
    reason: /bulk goes on/,
  },
  { name: 'agent has points, store has nothing', entry: null, expect: 'unrelated', reason: /point 7 .* none of it/ },
  { name: 'agent has points, store knows the disk only', entry: EMPTY, expect: 'unrelated', reason: /none of it/ },
  // A disk with points.
  { name: 'changes', entry: ENTRY, expect: 'delta', reason: /changes since point 7/ },
  {
    name: 'no changes',
    disk: { changedBlocks: 0 },
    entry: ENTRY,
    expect: 'nothing',
    reason: /nothing changed since point 7/,
  },
  {
    name: 'other block size',
    disk: { blockBytes: 8192 },
    entry: ENTRY,
    expect: 'unrelated',
    reason: /blocks of 8192 bytes.* 4096/,
  },
  { name: 'shrunk', disk: { sizeBytes: 128 * MIB }, entry: ENTRY, expect: 'unrelated', reason: /shrank/ },
  { name: 'grown', disk: { sizeBytes: 512 * MIB }, entry: ENTRY, expect: 'compare', reason: /resized/ },
  {
    name: 'agent ahead of the store',
    disk: { committedPoint: 8 },
    entry: ENTRY,
    expect: 'unrelated',
    reason: /points up to 7/,
  },
  {
    name: 'agent behind the store',
    disk: { committedPoint: 6 },
    entry: ENTRY,
    expect: 'compare',
    reason: /its state is older/,
  },
  { name: 'agent lost its state', disk: NEW, entry: ENTRY, expect: 'compare', reason: /its state is older/ },
  {
    name: 'agent behind, but its commit in doubt is the last point',
    disk: { committedPoint: 6 },
    entry: ENTRY,
    inDoubtCommitted: true,
    expect: 'delta',
    reason: /since point 7/,
  },
  {
    name: 'commit in doubt succeeded, nothing changed since',
    disk: { committedPoint: 6, changedBlocks: 0 },
    entry: ENTRY,
    inDoubtCommitted: true,
    expect: 'nothing',
    reason: /point 7/,
  },
  { name: 'no tracking now', disk: { series: null }, entry: ENTRY, expect: 'compare', reason: /no change tracking/ },
  { name: 'new series', disk: { series: OTHER_SERIES }, entry: ENTRY, expect: 'compare', reason: /interrupted/ },
  {
    name: 'series of a disk that was scanned before',
    entry: { ...ENTRY, series: null },
    expect: 'compare',
    reason: /interrupted/,
  },
  {
    name: 'new series although the commit in doubt succeeded',
    disk: { series: OTHER_SERIES, committedPoint: 6 },
    entry: ENTRY,
    inDoubtCommitted: true,
    expect: 'compare',
    reason: /interrupted/,
  },
  {
    name: 'comparison half done',
    disk: { series: OTHER_SERIES, sweep: sweepOf('comparison', 5) },
    entry: ENTRY,
    stagedLayers: 2,
    expect: 'resume',
    reason: /comparison goes on at segment 5/,
  },
  {
    name: 'comparison half done by an agent whose state is older',
    disk: { series: OTHER_SERIES, committedPoint: 6, sweep: sweepOf('comparison', 5) },
    entry: ENTRY,
    stagedLayers: 2,
    expect: 'compare',
    reason: /interrupted/,
  },
  {
    name: 'comparison half done, staged layers lost',
    disk: { series: OTHER_SERIES, sweep: sweepOf('comparison', 5) },
    entry: ENTRY,
    stagedLayers: null,
    expect: 'compare',
    reason: /interrupted/,
  },
  {
    name: 'bulk half done, series ended',
    disk: { series: OTHER_SERIES, sweep: sweepOf('bulk') },
    entry: ENTRY,
    stagedLayers: 2,
    expect: 'compare',
    reason: /interrupted/,
  },
  {
    name: 'bulk half done',
    disk: { sweep: sweepOf('bulk', 4) },
    entry: ENTRY,
    stagedLayers: 2,
    expect: 'resume',
    reason: /sweep goes on at segment 4/,
  },
  {
    name: 'comparison that an operator asked for, half done',
    disk: { sweep: sweepOf('comparison', 4, 0) },
    entry: ENTRY,
    stagedLayers: 0,
    expect: 'resume',
    reason: /sweep goes on at segment 4|comparison goes on/,
  },
  {
    name: 'bulk half done, staged layers lost',
    disk: { sweep: sweepOf('bulk') },
    entry: ENTRY,
    stagedLayers: null,
    expect: 'compare',
    reason: /staged layers are missing/,
  },
];

describe('verdict about a disk', () => {
  it.each(TABLE)('$name: $expect', (row) => {
    const input: VerdictInput = {
      disk: { ...DISK, ...row.disk },
      entry: row.entry,
      stagedLayers: row.stagedLayers === undefined ? 0 : row.stagedLayers,
      inDoubtCommitted: row.inDoubtCommitted ?? false,
    };
    const verdict = diskVerdict(input);
    expect('refused' in verdict ? verdict.refused : verdict.verdict).toBe(row.expect);
    expect(verdict.reason).toMatch(row.reason);
  });

  it('never says nothing, delta or resume of a bulk without an unbroken series and the newest point', () => {
    // All combinations of what may be wrong: only the one without any may go on with marks alone.
    for (const series of [SERIES, OTHER_SERIES, null])
      for (const committedPoint of [0, 6, 7, 8])
        for (const sizeBytes of [128 * MIB, 256 * MIB, 512 * MIB])
          for (const stagedLayers of [0, 2, null])
            for (const changedBlocks of [0, 3])
              for (const sweep of [null, sweepOf('first-copy'), sweepOf('comparison'), sweepOf('bulk')])
                for (const inDoubtCommitted of [false, true]) {
                  const disk = { ...DISK, series, committedPoint, sizeBytes, changedBlocks, sweep };
                  const verdict = diskVerdict({ disk, entry: ENTRY, stagedLayers, inDoubtCommitted });
                  const sound =
                    series === SERIES &&
                    (committedPoint === 7 || inDoubtCommitted) &&
                    sizeBytes === 256 * MIB &&
                    stagedLayers !== null;
                  if ('refused' in verdict || verdict.verdict === 'compare') continue;
                  expect(verdict.verdict, JSON.stringify({ disk, stagedLayers })).not.toBe('full');
                  if (!sound)
                    expect([verdict.verdict, sweep?.kind, stagedLayers === null]).toEqual([
                      'resume',
                      'comparison',
                      false,
                    ]);
                }
  });
});

const IDENTITY: MachineIdentity = {
  version: 1,
  number: 1,
  machine: MACHINE,
  name: 'web1',
  certificate: 'a'.repeat(64),
  hardwareId: 'hardware-1',
  generation: 3,
  enrolledAtMs: 1,
};
const HELLO: Hello = {
  type: 'hello',
  protocol: PROTOCOL_VERSION,
  program: 'test',
  machine: MACHINE,
  generation: 3,
  hardwareId: 'hardware-1',
  session: '99999999-2222-4333-8444-555555555555',
  description: { hostname: 'web1', os: 'Linux', cpus: 1, memoryBytes: 1, firmware: 'bios', nics: [] },
  inDoubtCycle: null,
  disks: [],
};
const manifestOf = (generation: number): Manifest => ({
  version: 1,
  number: 5,
  writeId: 'w',
  writtenAtMs: 1,
  epoch: 2,
  epochStart: 0,
  generation,
  machine: { id: MACHINE, name: 'web1', description: null },
  owner: null,
  lastPoint: 0,
  disks: [],
  pages: [],
  tail: { points: [], deltas: [] },
});

describe('refusal of a machine', () => {
  const refusals: readonly [string, Partial<Hello>, number | null, string | null][] = [
    ['its own agent, new machine', {}, null, null],
    ['its own agent', {}, 3, null],
    ['older protocol', { protocol: PROTOCOL_VERSION - 1 }, 3, 'version mismatch'],
    ['newer protocol', { protocol: PROTOCOL_VERSION + 1 }, 3, 'version mismatch'],
    ['another machine’s hello', { machine: OTHER_MACHINE }, 3, 'bad certificate'],
    ['generation before the enrolment’s', { generation: 2 }, null, 'failed over'],
    ['generation before the manifest’s', {}, 4, 'failed over'],
    ['newer generation than both', { generation: 4 }, 3, null],
    ['other hardware', { hardwareId: 'hardware-2' }, 3, 'clone'],
    ['other hardware and an old generation: hardware counts', { hardwareId: 'hardware-2' }, 4, 'clone'],
  ];
  it.each(refusals)('%s', (_name, hello, manifestGeneration, refused) => {
    const manifest = manifestGeneration === null ? null : manifestOf(manifestGeneration);
    const admission = admit({ ...HELLO, ...hello }, IDENTITY, manifest, null);
    expect('refused' in admission ? admission.refused.name : null).toBe(refused);
    if ('refused' in admission) expect(admission.reason.length).toBeGreaterThan(10);
    else expect(admission).toEqual({ mode: 'replicate', generation: hello.generation ?? 3, holdWorkload: false });
  });

  const recoveryWith = (home: Recovery['home']): Recovery => ({
    version: 1,
    number: 1,
    writeId: 'w',
    writtenAtMs: 1,
    ...initialRecovery(MACHINE, 3),
    home,
  });
  const runsElsewhere = 'failed over to point 7';
  const decided: readonly [string, Recovery['home'], Partial<Hello>, number, string][] = [
    ['failed over', { mode: 'refused', reason: runsElsewhere }, {}, 3, 'failed over'],
    [
      'failed over, whatever its generation',
      { mode: 'refused', reason: runsElsewhere },
      { generation: 99 },
      4,
      'failed over',
    ],
    ['to be restored', { mode: 'restore', reason: '' }, {}, 4, 'restore 3'],
    [
      'to be restored, but on other hardware',
      { mode: 'restore', reason: '' },
      { hardwareId: 'hardware-2' },
      4,
      'clone',
    ],
    ['failed back: granted', { mode: 'replicate', generation: 5 }, {}, 5, 'replicate 5'],
    ['failed back, a clone of it', { mode: 'replicate', generation: 5 }, { hardwareId: 'hardware-2' }, 5, 'clone'],
    ['failed over, and only the manifest says so yet', { mode: 'replicate', generation: 3 }, {}, 4, 'failed over'],
    ['failed back, and only the decision says so yet', { mode: 'replicate', generation: 5 }, {}, 4, 'failed over'],
    ['never failed over', { mode: 'replicate', generation: 3 }, {}, 3, 'replicate 3'],
    ['granted already', { mode: 'replicate', generation: 5 }, { generation: 5 }, 5, 'replicate 5'],
  ];
  it.each(decided)('%s', (_name, home, hello, manifestGeneration, expected) => {
    const admission = admit({ ...HELLO, ...hello }, IDENTITY, manifestOf(manifestGeneration), recoveryWith(home));
    const said = 'refused' in admission ? admission.refused.name : `${admission.mode} ${admission.generation}`;
    expect(said).toBe(expected);
    if ('refused' in admission && home.mode === 'refused') expect(admission.reason).toBe(runsElsewhere);
  });

  const jobOf = (operation: Job['operation'], data: Job['data']): Job => ({
    id: MACHINE,
    operation,
    state: 'InProgress',
    receiver: MACHINE,
    startedAtMs: 1,
    endedAtMs: null,
    request: {},
    data,
    tasks: [],
    error: null,
  });
  it.each<[string, Job | null, boolean]>([
    ['no job runs', null, false],
    ['a planned failover', jobOf('planned-failover', {}), true],
    ['a planned failover that is being put back', jobOf('planned-failover', { phase: 'undo' }), false],
    ['a failover that has shut the source down', jobOf('failover', { sourceDown: true }), true],
    ['a failover that has not', jobOf('failover', { sourceDown: false }), false],
    ['a failback that has given the right back already', jobOf('failback', { noReturn: true }), false],
    ['a test', jobOf('test-failover', {}), false],
  ])('a workload that was shut down is held: %s', (_name, job, holdWorkload) => {
    // A failback begins in the state of a planned failover.
    const state = job === null ? 'Protected' : 'PlannedFailoverInitiated';
    const recovery: Recovery = { ...recoveryWith({ mode: 'replicate', generation: 3 }), state, job };
    expect(admit(HELLO, IDENTITY, manifestOf(3), recovery)).toMatchObject({ mode: 'replicate', holdWorkload });
  });
});

describe('a disk whose agent was away during a failover', () => {
  // The recovery site committed points 8 and 9 under another generation; its points end the series.
  it.each([
    ['points were added', 7, null],
    ['a restore was interrupted: no point is believed', 0, null],
    ['points were added and the series is the old one by mistake', 7, SERIES],
    ['nothing was added, but the generation ended the series', 9, null],
  ])('%s: compare', (_name, committedPoint, series) => {
    const disk: HelloDisk = { ...DISK, committedPoint, series: SERIES, committedSeries: SERIES, changedBlocks: 3 };
    const verdict = diskVerdict({
      disk,
      entry: { ...ENTRY, lastPoint: 9, series },
      stagedLayers: 0,
      inDoubtCommitted: false,
    });
    expect(verdict).toMatchObject({ verdict: 'compare' });
  });
});
