/** What a preview estimates: from changes as they were measured, never less than they say, and bounded by the image. */
import { describe, expect, test } from 'vitest';
import type { DiskDelta, LayerRef, RecoveryPoint } from '../../receiver/catalog/manifest.js';
import { DEFAULT_POLICY, type MachinePolicy } from '../../receiver/catalog/policy.js';
import { changeCurve } from '../../receiver/upkeep/retention-cost.js';
import { previewRetention, type MachineContent } from '../../receiver/upkeep/retention-preview.js';
import { PREVIEW_SUPERSEDED_SHARE } from '../../shared/limits-retention.js';
import { asDiskId, MIB } from '../../shared/units.js';

const SECOND = 1_000;
const HOUR = 3_600_000;
const DAY = 24 * HOUR;
const START = Date.parse('2026-03-02T00:00:00Z');
const DISK = asDiskId('disk0');

const layer = (kind: LayerRef['kind'], firstPoint: number, lastPoint: number, sizeBytes: number): LayerRef => ({
  kind,
  firstPoint,
  lastPoint,
  segment: kind === 'base' ? 0 : null,
  epoch: 1,
  sequence: 1,
  sizeBytes,
  indexChecksum: '0'.repeat(16),
});
const pointAt = (number: number, atMs: number): RecoveryPoint =>
  ({ number, cutAtMs: atMs, committedAtMs: atMs, consistency: 'crash' }) as RecoveryPoint;
const delta = (firstPoint: number, lastPoint: number, sizeBytes: number): DiskDelta => ({
  disk: DISK,
  layer: layer('delta', firstPoint, lastPoint, sizeBytes),
});

/** Points every 5 s with 1 MiB each; before them hours that were merged to 60 MiB. */
function machine(): MachineContent {
  const hours = Array.from({ length: 22 }, (_, i) => ({ number: (i + 1) * 720, atMs: START + i * HOUR }));
  const fine = Array.from({ length: 1440 }, (_, i) => ({
    number: 22 * 720 + 1 + i,
    atMs: START + 21 * HOUR + (i + 1) * 5 * SECOND,
  }));
  return {
    points: [...hours, ...fine].map(({ number, atMs }) => pointAt(number, atMs)),
    deltas: [
      ...hours.map(({ number }) => delta(number - 719, number, 60 * MIB)),
      ...fine.map(({ number }) => delta(number, number, MIB)),
    ],
    bases: [layer('base', 1, 1, 1_000 * MIB)],
    disks: 1,
  };
}

describe('how much changes in a time', () => {
  const { points, deltas } = machine();

  test('measured where it can be, straight between, with time beyond, never above the image', () => {
    const curve = changeCurve(points, deltas, 1_000 * MIB);
    expect(curve.bytes(5 * SECOND)).toBeCloseTo(MIB, -3);
    expect(curve.bytes(HOUR) / MIB).toBeCloseTo(60, 3);
    expect(curve.bytes(2 * HOUR) / MIB).toBeCloseTo(120, 3);
    expect(curve.bytes(DAY)).toBe(1_000 * MIB);
    expect(curve.bytes(5 * 60 * SECOND)).toBeGreaterThan(MIB);
    expect(curve.bytes(5 * 60 * SECOND)).toBeLessThan(60 * MIB);
    expect(curve.measuredMs).toBe(HOUR);
    expect(curve.pointEveryMs).toBe(5 * SECOND);
  });

  test('it never falls with time, and a pause in which nothing was written is not taken for a rate', () => {
    const idle = [...points, pointAt(99_999, (points.at(-1)?.cutAtMs ?? 0) + 6 * HOUR)].map((p, i) => ({
      ...p,
      number: i + 1,
    }));
    const renumbered = idle.slice(1).map(({ number }) => delta(number, number, number < idle.length ? MIB : 0));
    const curve = changeCurve(idle, renumbered, 0);
    let before = 0;
    for (let ms = SECOND; ms < 30 * DAY; ms *= 1.5) {
      expect(curve.bytes(ms)).toBeGreaterThanOrEqual(before);
      before = curve.bytes(ms);
    }
    expect(curve.bytes(6 * HOUR)).toBeGreaterThan(MIB);
  });

  test('nothing to measure by: nothing, and said', () => {
    expect(changeCurve([], [], 0)).toMatchObject({ measuredMs: null, pointEveryMs: null });
    const preview = previewRetention({ points: [], deltas: [], bases: [], disks: 0 }, DEFAULT_POLICY, START, new Map());
    expect(preview.now).toMatchObject({ oldest: null, storedBytes: 0, afterBytes: 0 });
    expect(preview.steady.notes.join()).toContain('no two points to measure the change by');
  });
});

describe('what a policy keeps and costs', () => {
  test('in the long run: points per tier, bytes per tier, image and what is superseded, requests', () => {
    const { steady } = previewRetention(machine(), DEFAULT_POLICY, START + DAY, new Map());
    expect(steady.tiers.map((t) => t.points)).toEqual([1440, 22, 72, 48]);
    expect(steady.points).toBe(1440 + 22 + 72 + 48 + 1);
    expect(steady.oldestMs).toBe(15 * DAY);
    expect(steady.tiers.map((t) => Math.round(t.bytes / MIB))).toEqual([1440, 22 * 60, 72 * 120, 48 * 240]);
    const deltas = steady.tiers.reduce((sum, t) => sum + t.bytes, 0);
    expect(steady.totalBytes).toBeCloseTo(deltas + 1_000 * MIB * (1 + PREVIEW_SUPERSEDED_SHARE), 0);
    expect(steady.perDay).toMatchObject({ points: 17_280, deletedObjects: 2 * 17_280 });
    expect(steady.perDay.puts).toBe(2 * 17_280 + 24 + 12 + 6);
    expect(steady.perDay.ingestedBytes / MIB).toBeCloseTo(17_280, 0);
  });

  test('a policy with another interval, and application-consistent points of its own', () => {
    const policy: MachinePolicy = {
      intervalMs: 60 * SECOND,
      applicationIntervalMs: HOUR,
      retention: { tiers: [{ everyMs: 0, upToMs: DAY }], applicationTiers: [{ everyMs: DAY, upToMs: 364 * DAY }] },
    };
    const { steady } = previewRetention(machine(), policy, START + DAY, new Map());
    expect(steady.tiers.map((t) => [t.application, t.points])).toEqual([
      [false, 1440],
      [true, 364],
    ]);
    expect(steady.oldestMs).toBe(364 * DAY);
    expect(steady.perDay.points).toBe(1440);
  });

  test('now: what goes is not more than what is there, and merging makes nothing larger', () => {
    const content = machine();
    const held = new Map([[720, ['held as LEGAL-17']]]);
    const { now } = previewRetention(content, DEFAULT_POLICY, START + 400 * DAY, held);
    expect(now.plan.keep.length + now.plan.drop.length).toBe(content.points.length);
    expect(now.kept.reduce((sum, k) => sum + k.points, 0)).toBe(now.plan.keep.length);
    expect(now.kept).toContainEqual({ why: 'held or in use', points: 1 });
    expect(now.afterBytes).toBeLessThanOrEqual(now.storedBytes);
    expect(now.oldest?.number).toBe(720);
  });
});
