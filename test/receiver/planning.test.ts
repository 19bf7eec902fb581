/**
 * The pure parts: layer order, runs, selectors, assignment of targets, the index cache.
 */
import { describe, expect, it } from 'vitest';
import { parsePointSelector } from '../../receiver/catalog/point-selector.js';
import type { LayerRef } from '../../receiver/catalog/manifest.js';
import { IndexCache } from '../../receiver/volume/index-cache.js';
import { freeRuns, ReadPlanner } from '../../receiver/volume/read-plan.js';
import { spansOf } from '../../receiver/volume/layer-reader.js';
import { workOf } from '../../receiver/volume/unit-work.js';
import { BlockSet } from '../../shared/blocks/block-set.js';
import { geometryOf } from '../../shared/blocks/geometry.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import { KIB, MIB } from '../../shared/units.js';

const ref = (kind: LayerRef['kind'], lastPoint: number, sequence: number, segment: number | null = null): LayerRef => ({
  kind,
  firstPoint: lastPoint,
  lastPoint,
  segment,
  epoch: 1,
  sequence,
  sizeBytes: 100,
  indexChecksum: '0000000000000000',
});

/** An index of entries [first, count, zero]. */
function indexOf(entries: readonly (readonly [number, number, boolean?])[]): LayerIndex {
  const blocks = entries.reduce((sum, [, count, zero]) => sum + (zero === true ? 0 : count), 0);
  const hashAt: number[] = [];
  let at = 0;
  for (const [, count, zero] of entries) {
    hashAt.push(at);
    if (zero !== true) at += count;
  }
  return {
    chunks: [{ offset: 64, lengthBytes: 1000 }],
    first: Uint32Array.from(entries.map(([first]) => first)),
    count: Uint32Array.from(entries.map(([, count]) => count)),
    zero: Uint8Array.from(entries.map(([, , zero]) => (zero === true ? 1 : 0))),
    chunk: new Uint32Array(entries.length),
    position: Uint32Array.from(hashAt),
    hashAt: Uint32Array.from(hashAt),
    hashes: new BigUint64Array(blocks).fill(7n),
  };
}

describe('read plan', () => {
  const geometry = geometryOf(192 * MIB, 4 * KIB);

  it('gives each block to its newest layer, once', () => {
    const planner = new ReadPlanner(geometry, [ref('base', 1, 1, 0), ref('base', 3, 9, 1)]);
    const [d2, d3, d4] = [ref('delta', 2, 2), ref('delta', 3, 3), ref('delta', 4, 10)];
    expect(planner.relevant([d2, d4, d3])).toEqual([d4, d3, d2]);
    planner.addDelta(
      d4,
      indexOf([
        [10, 5],
        [16384, 2],
      ]),
    );
    planner.addDelta(
      d3,
      indexOf([
        [12, 10],
        [16384, 100],
      ]),
    );
    planner.addDelta(
      d2,
      indexOf([
        [8, 20],
        [40000, 3, true],
      ]),
    );
    const plan = planner.finish();
    expect(plan.units.map((u) => [u.kind, u.kind === 'delta' ? [...u.runs] : u.segment, u.blocks])).toEqual([
      ['delta', [10, 5, 16384, 2], 7],
      // The base of segment 1 is of point 3 and was written later: the delta of point 3 has no say there.
      ['delta', [15, 7], 7],
      ['delta', [8, 2, 22, 6, 40000, 3], 11],
      ['base', 0, 16384 - 20],
      ['base', 1, 16384 - 2],
      ['zero', 2, 16384 - 3],
    ]);
    expect(plan.units.reduce((sum, u) => sum + u.blocks, 0)).toBe(geometry.blockCount);
  });

  it('lets a catch-up delta of the same point win over an earlier base, and a later base over it', () => {
    const catchUp = ref('delta', 1, 5);
    const early = new ReadPlanner(geometry, [ref('base', 1, 4, 0)]);
    early.addDelta(catchUp, indexOf([[3, 1]]));
    expect(early.finish().units[0]).toMatchObject({ kind: 'delta', blocks: 1 });
    const late = new ReadPlanner(geometry, [ref('base', 1, 4, 0), ref('base', 1, 6, 0)]);
    late.addDelta(catchUp, indexOf([[3, 1]]));
    expect(late.finish().units[0]).toMatchObject({ kind: 'base', blocks: 16384 });
  });

  it('clips what lies beyond the end of a disk that was larger once', () => {
    const planner = new ReadPlanner(geometry, [ref('base', 1, 1, 7)]);
    planner.addDelta(
      ref('delta', 2, 2),
      indexOf([
        [geometry.blockCount - 2, 10],
        [geometry.blockCount + 50, 3],
      ]),
    );
    expect(planner.finish().units[0]).toMatchObject({ blocks: 2 });
  });

  it('leaves out deltas that all bases hide', () => {
    const bases = [0, 1, 2].map((s) => ref('base', 5 + s, 20 + s, s));
    const planner = new ReadPlanner(geometry, bases);
    const kept = planner.relevant([ref('delta', 4, 4), ref('delta', 6, 6), ref('delta', 6, 7, 2), ref('delta', 8, 30)]);
    expect(kept.map((d) => d.sequence)).toEqual([30, 6]);
  });

  it('refuses layers in a wrong order', () => {
    const planner = new ReadPlanner(geometry, []);
    planner.addDelta(ref('delta', 2, 2), indexOf([[1, 1]]));
    expect(() => planner.addDelta(ref('delta', 3, 3), indexOf([[1, 1]]))).toThrow(/newest first/);
  });

  it('splits runs around what is taken, over window borders', () => {
    const claimed = BlockSet.of([5, 6, 32767, 32768, 70000]);
    expect([...freeRuns(claimed, 0, 70001)]).toEqual([
      [0, 5],
      [7, 32760],
      [32769, 37231],
    ]);
    expect([...freeRuns(claimed, 5, 2)]).toEqual([]);
    expect([...freeRuns(claimed, 6, 2)]).toEqual([[7, 1]]);
  });

  it('finds the work of a unit within a range', () => {
    const planner = new ReadPlanner(geometry, []);
    const index = indexOf([
      [0, 10],
      [20, 10, true],
      [30, 10],
    ]);
    planner.addDelta(ref('delta', 1, 1), index);
    const plan = planner.finish();
    const unit = plan.units[0];
    if (unit === undefined) throw new Error('no unit');
    const work = workOf(plan, unit, index, { first: 5, count: 28 });
    expect(work.pieces.map((p) => [p.first, p.count, p.position, p.hashAt])).toEqual([
      [5, 5, 5, 5],
      [30, 3, 10, 10],
    ]);
    expect(work.zeroes).toEqual([[20, 10]]);
  });
});

describe('ranged reads', () => {
  it('are joined over small gaps up to a bound', () => {
    const refs = [0, 1, 2, 3, 4].map((i) => ({ offset: 64 + i * 300 * KIB, lengthBytes: 250 * KIB }));
    expect(spansOf(refs, [0, 1, 2, 3, 4]).map((s) => s.chunks)).toEqual([
      [0, 1, 2],
      [3, 4],
    ]);
    expect(spansOf(refs, [0, 2]).map((s) => s.chunks)).toEqual([[0], [2]]);
  });
});

describe('index cache', () => {
  it('keeps what fits, loads once for two at a time, forgets failures', async () => {
    let loads = 0;
    const load = (): Promise<LayerIndex> => {
      loads++;
      return Promise.resolve(indexOf([[0, 1000]]));
    };
    const cache = new IndexCache(20_000);
    await Promise.all([cache.get('a', load), cache.get('a', load)]);
    expect(loads).toBe(1);
    await cache.get('b', load);
    await cache.get('a', load);
    await cache.get('c', load);
    expect(loads).toBe(3);
    expect(cache.bytes).toBeLessThanOrEqual(20_000);
    await cache.get('a', load);
    expect(loads).toBe(3);
    await cache.get('b', load);
    expect(loads).toBe(4);
    await expect(cache.get('d', () => Promise.reject(new Error('once')))).rejects.toThrow('once');
    await cache.get('d', load);
    expect(loads).toBe(5);
  });
});

describe('point selectors', () => {
  it('are numbers, words and times', () => {
    expect(parsePointSelector('12')).toEqual({ by: 'number', number: 12 });
    expect(parsePointSelector('latest-app-consistent')).toEqual({ by: 'latest', levels: ['application'] });
    expect(parsePointSelector('2026-03-01T14:30Z')).toEqual({ by: 'time', atMs: Date.UTC(2026, 2, 1, 14, 30) });
    expect(parsePointSelector('2026-03-01 14:30')).toEqual({
      by: 'time',
      atMs: new Date(2026, 2, 1, 14, 30).getTime(),
    });
    expect(parsePointSelector('2026-03-01')).toEqual({ by: 'time', atMs: new Date(2026, 2, 1).getTime() });
    for (const bad of [
      '',
      '0',
      '-1',
      '1.5',
      'last',
      'toString',
      '2026-13-01',
      '2026-03-01T25:00',
      '1e9',
      '9'.repeat(20),
    ]) {
      expect(() => parsePointSelector(bad)).toThrow(/./);
    }
  });
});
