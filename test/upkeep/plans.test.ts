/** Upkeep's plans as tables: history pages, merges, bases, what may be deleted. Pure. */
import { describe, expect, it } from 'vitest';
import { asDiskId } from '../../shared/units.js';
import type { DiskDelta, History, LayerRef, PageRef, RecoveryPoint } from '../../receiver/catalog/manifest.js';
import { layerName } from '../../receiver/catalog/names.js';
import { BASE_LIMITS, basePlan, type BaseInput, type SegmentLoad } from '../../receiver/upkeep/base-plan.js';
import { editPages, editTail, isPageRef } from '../../receiver/upkeep/edit-history.js';
import { deletableManifests, gcPlan, nextBoundary, type GcInput } from '../../receiver/upkeep/gc-plan.js';
import { mergePlan, type MergeInput } from '../../receiver/upkeep/merge-plan.js';
import { DISK, MACHINE } from '../helpers/layers.js';

const layer = (lastPoint: number, more: Partial<LayerRef> = {}): LayerRef => ({
  kind: 'delta',
  firstPoint: lastPoint,
  lastPoint,
  segment: null,
  epoch: 1,
  sequence: lastPoint,
  sizeBytes: 1000,
  indexChecksum: '0'.repeat(16),
  ...more,
});
const base = (segment: number, lastPoint: number, more: Partial<LayerRef> = {}): LayerRef =>
  layer(lastPoint, { kind: 'base', segment, ...more });
const deltaOf = (one: LayerRef): DiskDelta => ({ disk: DISK, layer: one });
const point = (number: number): RecoveryPoint => ({ number, disks: [] }) as unknown as RecoveryPoint;
const page = (first: number, last: number): { ref: PageRef; history: History } => {
  const numbers = Array.from({ length: last - first + 1 }, (_, i) => first + i);
  return {
    ref: { name: `page-${first}-${last}`, firstPoint: first, lastPoint: last, checksum: '0'.repeat(16) },
    history: { points: numbers.map(point), deltas: numbers.map((n) => deltaOf(layer(n))) },
  };
};
const lastPoints = (deltas: readonly DiskDelta[]): number[] => deltas.map((d) => d.layer.lastPoint);

describe('history pages', () => {
  it('layers of a page that loses all its points move on to the next, and into the tail after the last', () => {
    const pages = [page(1, 3), page(4, 6)];
    const edit = { drop: new Set([1, 2, 3, 5]), replace: [] };
    const edited = editPages(pages, edit);
    const [only] = edited.pages;
    if (only === undefined || isPageRef(only) || edited.pages.length !== 1)
      throw new Error('one new page was expected');
    expect(only.points.map((p) => p.number)).toEqual([4, 6]);
    expect(lastPoints(only.deltas)).toEqual([1, 2, 3, 4, 5, 6]);
    const all = { drop: new Set([1, 2, 3, 4, 5, 6]), replace: [] };
    const gone = editPages(pages, all);
    expect(gone.pages).toEqual([]);
    const tail = editTail({ points: [point(7)], deltas: [deltaOf(layer(7))] }, all, gone);
    expect(lastPoints(tail?.deltas ?? [])).toEqual([1, 2, 3, 4, 5, 6, 7]);
  });

  it('what isn’t touched stays the same object', () => {
    const pages = [page(1, 3), page(4, 6)];
    const edited = editPages(pages, { drop: new Set([5]), replace: [] });
    expect(edited.pages[0]).toBe(pages[0]?.ref);
    expect(editPages(pages, { drop: new Set([9]), replace: [] }).changed).toBe(false);
  });

  it('an input that stands nowhere any more is noticed', () => {
    const replace = [
      { disk: DISK, inputs: [layer(2), layer(9)], outputs: [layer(9, { firstPoint: 2, sequence: 99 })] },
    ];
    const edited = editPages([page(1, 3)], { drop: new Set(), replace });
    expect(edited.missing).toHaveLength(1);
    expect(editTail({ points: [point(9)], deltas: [] }, { drop: new Set(), replace }, edited)).toBeNull();
    const tail = editTail({ points: [point(9)], deltas: [deltaOf(layer(9))] }, { drop: new Set(), replace }, edited);
    expect(tail?.deltas.map((d) => d.layer.sequence)).toEqual([99]);
  });

  it('many small pages in a row become few', () => {
    const pages = Array.from({ length: 20 }, (_, i) => page(i * 3 + 1, i * 3 + 3));
    const edited = editPages(pages, { drop: new Set(), replace: [] });
    expect(edited.pages.length).toBeLessThan(5);
    const numbers = edited.pages.flatMap((p) => (isPageRef(p) ? [] : p.points.map((one) => one.number)));
    expect(numbers).toEqual(Array.from({ length: 60 }, (_, i) => i + 1));
  });
});

describe('merges', () => {
  const plan = (points: readonly number[], deltas: readonly LayerRef[], more: Partial<MergeInput> = {}) =>
    mergePlan({ disk: DISK, points, deltas, hiddenBytes: () => 0, storedBytes: 1, ...more }).steps.map(
      ({ inputs, firstPoint, lastPoint, bottom }) => ({
        of: inputs.map((l) => l.lastPoint),
        firstPoint,
        lastPoint,
        bottom,
      }),
    );
  const points = (from: number, to: number): LayerRef[] =>
    Array.from({ length: to - from + 1 }, (_, i) => layer(from + i));

  it('exactly between listed points, never across one', () => {
    expect(plan([1, 4, 6], points(1, 6))).toEqual([
      { of: [2, 3, 4], firstPoint: 2, lastPoint: 4, bottom: false },
      { of: [5, 6], firstPoint: 5, lastPoint: 6, bottom: false },
    ]);
    expect(plan([1, 2, 3], points(1, 3))).toEqual([]);
  });

  it('all parts of a point go together', () => {
    const parts = [layer(2), layer(3, { sequence: 3 }), layer(3, { sequence: 4 }), layer(4)];
    expect(plan([1, 4], parts)).toEqual([{ of: [2, 3, 3, 4], firstPoint: 2, lastPoint: 4, bottom: false }]);
  });

  it('below the oldest point by size: a large layer waits until the younger ones are a quarter of it', () => {
    const large = layer(1, { sizeBytes: 1000 });
    expect(plan([5], [large, layer(2, { sizeBytes: 100 }), layer(5, { sizeBytes: 100 })])).toEqual([
      { of: [2, 5], firstPoint: 2, lastPoint: 5, bottom: true },
    ]);
    expect(plan([5], [large, layer(2, { sizeBytes: 150 }), layer(5, { sizeBytes: 100 })])[0]?.of).toEqual([1, 2, 5]);
  });

  it('the gap before the points that are not thinned yet waits while it is small', () => {
    expect(plan([1, 4, 5, 6], points(1, 6), { storedBytes: 1e9 })).toEqual([]);
    expect(plan([1, 4, 5, 6], points(1, 6), { storedBytes: 10_000 })).toHaveLength(1);
    // Closed as soon as the next one has begun.
    expect(plan([1, 4, 6], points(1, 6), { storedBytes: 1e9 }).map((s) => s.lastPoint)).toEqual([4]);
  });

  it('is bounded work', () => {
    const many = plan([1, 5000], points(2, 5000));
    expect(many).toHaveLength(1);
    expect(many[0]?.of.length).toBeLessThanOrEqual(1024);
    const huge = [2, 3, 4, 5].map((n) => layer(n, { sizeBytes: 2 ** 30 * (n === 4 ? 3 : 1) }));
    expect(plan([1, 5], huge)[0]?.of).toEqual([2, 3]);
  });
});

describe('bases', () => {
  const MB = 2 ** 20;
  /** A segment of which a restore reads `times` what a fresh base of 10 MiB has. */
  const load = (segment: number, times: number, more: Partial<SegmentLoad> = {}): SegmentLoad => ({
    segment,
    belowBytes: 0,
    overBytes: (times - 1) * 10 * MB,
    read: { readBytes: times * 10 * MB, freshBytes: 10 * MB },
    ...more,
  });
  const planned = (bases: readonly LayerRef[], loads: readonly SegmentLoad[], more: Partial<BaseInput> = {}) =>
    basePlan({
      ...{ disk: DISK, points: [5, 9], bases, loads, deltaBytes: 1000 * MB, stepsMax: 64 },
      limits: { ...BASE_LIMITS, readAmplification: 1.25 },
      bytesBetween: () => 0,
      ...more,
    });
  const built = (...args: Parameters<typeof planned>): [number, number][] =>
    planned(...args).steps.map(({ segment, point: at }) => [segment, at]);
  const large = (segment: number, lastPoint = 0): LayerRef => base(segment, lastPoint, { sizeBytes: 10 * MB });

  it('is built at the oldest point when a fifth of it is superseded, at the newest when too much is read', () => {
    const below = (bytes: number): SegmentLoad => load(0, 1, { belowBytes: bytes, read: null });
    expect(built([large(0), large(1)], [below(2.1 * MB), load(1, 1.3)])).toEqual([
      [0, 5],
      [1, 9],
    ]);
    expect(built([large(0), large(1)], [below(1.9 * MB), load(1, 1.2)])).toEqual([]);
  });

  it('not at the newest point before enough lies over the one before, whatever is read', () => {
    expect(built([large(0)], [load(0, 3, { overBytes: 2.4 * MB })])).toEqual([]);
    expect(built([large(0)], [load(0, 3, { overBytes: 2.6 * MB })])).toEqual([[0, 9]]);
    expect(built([base(0, 9, { sizeBytes: 10 * MB })], [load(0, 3)])).toEqual([]);
    // With little in it a segment is read quickly as it is.
    expect(built([base(0, 0)], [load(0, 3, { overBytes: 0.9 * MB })])).toEqual([]);
  });

  it('at the newest point as far as there is room, the most spared reading first', () => {
    const bases = [0, 1, 2, 3].map((segment) => large(segment));
    const loads = [load(0, 1.5), load(1, 4), load(2, 2), load(3, 3)];
    // 140 MiB in all: three bases of 10 MiB have room, and what is superseded below or built before takes of it.
    const tight = { deltaBytes: 100 * MB };
    expect(built(bases, loads, tight).map(([segment]) => segment)).toEqual([1, 3, 2]);
    const superseded = loads.map((one) => ({ ...one, belowBytes: 1.5 * MB }));
    expect(built(bases, superseded, tight).map(([segment]) => segment)).toEqual([1, 3]);
    expect(built([...bases, large(7, 6)], loads, tight).map(([segment]) => segment)).toEqual([1, 3]);
  });

  it('a base after the oldest point goes when a newer takes its place, unless very much lies below it', () => {
    const bases = [large(0), large(0, 6)];
    const points = [5, 6, 9];
    const retired = (bytes: number): number[] =>
      planned(bases, [load(0, 2)], { points, bytesBetween: () => bytes }).retired.map((b) => b.lastPoint);
    expect(retired(79 * MB)).toEqual([6]);
    expect(retired(81 * MB)).toEqual([]);
    expect(planned(bases, [], { points }).retired).toEqual([]);
    // What it gives back counts for the new one.
    expect(built(bases, [load(0, 2)], { points, deltaBytes: 0 })).toEqual([]);
    expect(built(bases, [load(0, 2)], { points, deltaBytes: 40 * MB })).toEqual([[0, 9]]);
  });

  it('one is given up when no listed point has it as its latest, not before', () => {
    const bases = [base(0, 0), base(0, 5), base(0, 9)];
    const retired = (points: number[]): number[] => planned(bases, [], { points }).retired.map((b) => b.lastPoint);
    expect(retired([3, 6, 9])).toEqual([]);
    expect(retired([5, 9])).toEqual([0]);
    expect(retired([9, 12])).toEqual([0, 5]);
  });
});

describe('garbage', () => {
  const ref = layer(7, { epoch: 3, sequence: 8 });
  const name = layerName(MACHINE, DISK, ref);
  const input = (more: Partial<GcInput> = {}): GcInput => ({
    machine: MACHINE,
    epoch: 3,
    manifest: 50,
    named: new Set(),
    objects: [{ name, sizeBytes: 10 }],
    isInFlight: () => false,
    pins: [],
    seen: new Map([[name, { manifest: 40, atMonotonicMs: 0 }]]),
    nowMonotonicMs: 1000,
    delayMs: 1000,
    ...more,
  });
  const deletes = (more: Partial<GcInput> = {}): boolean => gcPlan(input(more)).deletable.length > 0;

  it('is deleted when all conditions hold, and by none less', () => {
    expect(deletes()).toBe(true);
    expect(deletes({ named: new Set([name]) })).toBe(false);
    expect(deletes({ seen: new Map() })).toBe(false);
    expect(deletes({ seen: new Map(), delayMs: 0 })).toBe(false);
    expect(deletes({ nowMonotonicMs: 999 })).toBe(false);
    expect(deletes({ isInFlight: (sequence) => sequence === 8 })).toBe(false);
    expect(deletes({ epoch: 2 })).toBe(false);
    // Of an older epoch nothing is in flight.
    expect(deletes({ epoch: 4, isInFlight: () => true })).toBe(true);
  });

  it('a pin of before it was unnamed keeps what its point reaches back to', () => {
    expect(deletes({ pins: [{ point: 7, manifest: 39 }] })).toBe(false);
    expect(deletes({ pins: [{ point: 6, manifest: 39 }] })).toBe(true);
    expect(deletes({ pins: [{ point: 7, manifest: 40 }] })).toBe(true);
  });

  it('unknown names are kept and told, also what is named and not there', () => {
    const strange = `machines/${MACHINE}/disks/disk0/delta/what`;
    const plan = gcPlan(input({ objects: [{ name: strange, sizeBytes: 1 }], named: new Set([name]) }));
    expect(plan).toMatchObject({ deletable: [], unknown: [strange], missing: [name] });
  });
});

describe('manifests', () => {
  it('the boundary moves in steps, and leaves the newest', () => {
    const at = (number: number, boundary: number) =>
      nextBoundary({ head: { number, epochStart: 1 }, boundary, keep: 100, step: 100 });
    expect(at(150, 0)).toBeNull();
    expect(at(200, 0)).toBe(100);
    expect(at(299, 100)).toBeNull();
    expect(at(300, 100)).toBe(200);
  });

  it('those that begin an epoch stay, and what nobody knows of', async () => {
    const starts: Record<number, number | null> = { 1: 1, 4: 4, 3: 1, 6: 4, 2: 1, 5: 4 };
    const asked: number[] = [];
    const startOf = (number: number): Promise<number | null> => {
      asked.push(number);
      return Promise.resolve(starts[number] ?? null);
    };
    const numbers = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    expect(await deletableManifests({ head: { number: 20, epochStart: 7 }, numbers, boundary: 8 }, startOf)).toEqual([
      2, 3, 5, 6, 8,
    ]);
    expect(asked).toEqual([6, 3]);
    expect(
      await deletableManifests({ head: { number: 20, epochStart: 7 }, numbers, boundary: 8 }, () =>
        Promise.resolve(null),
      ),
    ).toEqual([8]);
  });
});

it('disks do not mix', () => {
  const other = asDiskId('disk1');
  const replace = [{ disk: other, inputs: [layer(2)], outputs: [] }];
  expect(editPages([page(1, 3)], { drop: new Set(), replace }).missing).toHaveLength(1);
});
