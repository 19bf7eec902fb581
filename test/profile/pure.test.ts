/** What a profile makes of its numbers: windows, percentiles, hot places, recommendations, chart. */
import { describe, expect, test } from 'vitest';
import { sparkline } from '../../agent/profile/chart.js';
import { HotCounter } from '../../agent/profile/hot.js';
import { recommend } from '../../agent/profile/recommend.js';
import { spreadOf, type Profile } from '../../agent/profile/report.js';
import { profileText } from '../../agent/profile/text.js';
import { DistinctWindows, samplesOf } from '../../agent/profile/windows.js';
import { BlockSet } from '../../shared/blocks/block-set.js';
import { bytesAfter, slotCosts } from '../../shared/retention-cost.js';
import { GIB, MIB } from '../../shared/units.js';

const sample = (...blocks: number[]) => ({ blocks: BlockSet.of(blocks), uncountedBytes: 0 });

describe('windows', () => {
  test('a block that is written again counts once in a window, and again in the next', () => {
    const windows = new DistinctWindows(2, [4096]);
    for (const blocks of [[1, 2], [2, 3], [2], [2], [9]]) windows.add([sample(...blocks)]);
    expect(windows.wholeBytes).toEqual([3 * 4096, 4096]);
  });

  test('disks add up, each with its blocks; what can’t be told counts in full', () => {
    const windows = new DistinctWindows(2, [4096, 65_536]);
    windows.add([sample(1), { blocks: BlockSet.of([1]), uncountedBytes: 500 }]);
    windows.add([sample(1), { blocks: BlockSet.of([1]), uncountedBytes: 500 }]);
    expect(windows.wholeBytes).toEqual([4096 + 65_536 + 1000]);
  });

  test.each([
    [5_000, 5_000, 1],
    [5_000, 1_000, 5],
    [60_000, 7_000, 9],
    [5_000, 10_000, null],
  ])('%i ms of samples every %i ms', (lengthMs, everyMs, expected) => {
    expect(samplesOf(lengthMs, everyMs)).toBe(expected);
  });
});

test('percentiles by the nearest rank', () => {
  const values = Array.from({ length: 100 }, (_, i) => 100 - i);
  expect(spreadOf(values)).toEqual({ mean: 50.5, p50: 50, p95: 95, p99: 99, peak: 100 });
  expect(spreadOf([7])).toEqual({ mean: 7, p50: 7, p95: 7, p99: 7, peak: 7 });
  expect(spreadOf([])).toEqual({ mean: 0, p50: 0, p95: 0, p99: 0, peak: 0 });
});

test('hot places', () => {
  const hot = new HotCounter(GIB, 4096);
  // Nine of ten changes fall on one MiB.
  for (let i = 0; i < 90; i++) hot.add(BlockSet.of([i % 2]));
  for (let i = 1; i <= 10; i++) hot.add(BlockSet.of([i * 256]));
  expect(hot.places()).toEqual({ overwrittenShare: 0.88, hotBytes: MIB, distinctBytes: 12 * 4096 });
  expect(new HotCounter(GIB, 4096).places()).toEqual({ overwrittenShare: 0, hotBytes: 0, distinctBytes: 0 });
});

test.each([
  ['nothing', [], 5, ''],
  ['all zero', [0, 0], 5, '  '],
  ['every height', [0, 1, 2, 3, 4, 5, 6, 7, 8], 9, ' ▂▃▄▅▆▇██'],
  ['peaks stay visible', [0, 0, 0, 8, 0, 1, 0, 0], 4, ' █▂ '],
])('chart of %s', (_what, values, width, expected) => {
  expect(sparkline(values, width)).toBe(expected);
});

const flat = (bytes: number) => ({ mean: bytes, p50: bytes, p95: bytes, p99: bytes, peak: bytes });

function profileOf(overrides: Partial<Profile> = {}): Profile {
  return {
    startedAt: '2026-03-02T12:00:00.000Z',
    measuredMs: 600_000,
    everyMs: 5_000,
    isInterrupted: false,
    disks: [
      {
        device: '/dev/sda',
        id: 'a',
        sizeBytes: 100 * GIB,
        method: 'ebpf',
        methodReason: '',
        writeRate: flat(20 * MIB),
        writtenBytes: 12_000 * MIB,
        hot: { overwrittenShare: 0.5, hotBytes: GIB, distinctBytes: GIB },
        compressedShare: 0.5,
        doubts: [],
      },
    ],
    windows: [
      { lengthMs: 5_000, windows: 120, bytes: { ...flat(50 * MIB), p95: 100 * MIB, peak: 400 * MIB } },
      { lengthMs: 60_000, windows: 10, bytes: { ...flat(150 * MIB), peak: 240 * MIB } },
    ],
    notMeasuredMs: [900_000, 3_600_000],
    compressedShare: 0.5,
    samples: [{ atMs: 5_000, writtenBytes: 100 * MIB, changedBytes: 50 * MIB }],
    ...overrides,
  };
}

describe('recommendation', () => {
  test('the default interval, its bandwidth with headroom and at peak', () => {
    const { interval, bandwidth, needs, notes } = recommend(profileOf(), { bandwidth: null });
    expect(interval).toEqual({
      ms: 5_000,
      reason: 'the default; 1 min 00 s would send 75 % less, as blocks are overwritten meanwhile',
    });
    // 95 %: 100 MiB in 5 s, half of it compressed, a quarter to spare; peak: 400 MiB.
    expect(bandwidth).toMatchObject({ bytesPerSecond: 12.5 * MIB, atPeak: 40 * MIB });
    expect(bandwidth?.reason).toContain('the largest point seen needs 40.0 MiB/s');
    expect(needs.map((n) => n.intervalMs)).toEqual([5_000, 60_000]);
    expect(needs[0]?.bytesPerDay).toBe(17_280 * 25 * MIB);
    expect(notes.join('\n')).toMatch(/measured for 10 min/);
    expect(notes.filter((n) => n.includes('measure for longer'))).toHaveLength(2);
  });

  test('for a link: the shortest interval that it carries, or none', () => {
    const at = (bandwidth: number) => recommend(profileOf(), { bandwidth }).interval;
    expect(at(20 * MIB)?.ms).toBe(5_000);
    expect(at(2 * MIB)).toMatchObject({ ms: 60_000 });
    expect(at(2 * MIB)?.reason).toBe('the shortest that 2.00 MiB/s carry: 5.0 s would need 12.5 MiB/s');
    expect(at(MIB)).toBeNull();
    expect(profileText(profileOf(), recommend(profileOf(), { bandwidth: MIB }))).toMatch(/no interval: even points of/);
  });

  test('storage: the disks, and the history as it is kept', () => {
    const tiers = [
      { everyMs: 0, upToMs: 60_000 },
      { everyMs: 60_000, upToMs: 600_000 },
    ];
    const { storage } = recommend(profileOf(), { bandwidth: null, tiers });
    // 12 points of 25 MiB, then 9 of 75 MiB.
    expect(storage?.imageBytes).toBe(50 * GIB);
    expect(storage?.historyBytes).toBe((12 * 25 + 9 * 75) * MIB);
    expect(storage?.bytes).toBe(50 * GIB + (12 * 25 + 9 * 75) * MIB);
  });

  test('no more than the disks themselves between two points', () => {
    const tiers = [{ everyMs: 86_400_000, upToMs: 10 * 86_400_000 }];
    const small = profileOf();
    const disks = small.disks.map((d) => ({ ...d, sizeBytes: GIB }));
    expect(recommend({ ...small, disks }, { bandwidth: null, tiers }).storage?.historyBytes).toBe(10 * (GIB / 2));
  });

  test('not compressible unless it was seen', () => {
    const { bandwidth, notes } = recommend(profileOf({ compressedShare: null }), { bandwidth: null });
    expect(bandwidth?.atPeak).toBe(80 * MIB);
    expect(notes.join()).toContain('nothing is taken to be compressible');
  });

  test('nothing measured, nothing recommended', () => {
    const none = profileOf({ windows: [] });
    const recommendation = recommend(none, { bandwidth: null });
    expect(recommendation).toMatchObject({ interval: null, bandwidth: null, storage: null });
    expect(profileText(none, recommendation)).toContain('nothing: not even one window was measured');
  });
});

test('change over time: a power between two measures, in proportion outside', () => {
  const anchors = [
    { spanMs: 1_000, bytes: 100 },
    { spanMs: 100_000, bytes: 1_000 },
  ];
  expect(bytesAfter(anchors, 1_000)).toBeCloseTo(100);
  expect(bytesAfter(anchors, 10_000)).toBeCloseTo(100 * Math.sqrt(10));
  expect(bytesAfter(anchors, 200_000)).toBeCloseTo(2_000);
  expect(bytesAfter(anchors, 500)).toBeCloseTo(50);
  expect(bytesAfter([], 500)).toBe(0);
  expect(slotCosts([{ everyMs: 0, upToMs: 10_000 }], (ms) => ms, 3_000)).toEqual([
    { tier: { everyMs: 0, upToMs: 10_000 }, points: 4, bytes: 12_000 },
  ]);
});
