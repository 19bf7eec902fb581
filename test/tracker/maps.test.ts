import { closeSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DiskMaps } from '../../agent/tracker/ebpf/maps/disk-maps.js';
import { mapSizes, mapShape, MAP_NAMES, type MapName, type MapSizes } from '../../agent/tracker/ebpf/maps/layout.js';
import { createMaps } from '../../agent/tracker/ebpf/objects.js';
import { BlockSet } from '../../shared/blocks/block-set.js';
import { geometryOf } from '../../shared/blocks/geometry.js';
import { mmapShared, type Mapping } from '../../shared/native/libc.js';
import { MIB, TIB } from '../../shared/units.js';
import { isRoot } from './support/loop.js';

const shapes = (sizes: MapSizes): Record<string, number> =>
  Object.fromEntries(MAP_NAMES.map((name) => [name, mapShape(name, sizes).entries * mapShape(name, sizes).valueBytes]));

describe('sizes of maps', () => {
  it('are 34 MiB for 1 TiB at 4 KiB', () => {
    const sizes = mapSizes(geometryOf(TIB, 4096), 2);
    expect(shapes(sizes)).toMatchObject({ marks: 32 * MIB, summary: MIB / 2, filter: MIB / 4 + 16, slots: 384 });
    expect(Object.values(shapes(sizes)).reduce((a, b) => a + b, 0)).toBeLessThan(34.5 * MIB);
  });

  it('follow the smallest and the largest disk', () => {
    expect(mapSizes(geometryOf(MIB, 4096), 3)).toEqual({ markWords: 4, groupWords: 1, filterWords: 64, cpuSlots: 4 });
    const largest = mapSizes(geometryOf(2 * TIB, 4096), 200);
    expect(largest).toEqual({ markWords: 2 ** 23, groupWords: 2 ** 17, filterWords: 2 ** 14, cpuSlots: 256 });
    // Other than `marks`, no value is larger than old kernels allow.
    for (const name of MAP_NAMES) expect(mapShape(name, largest).valueBytes).toBeLessThan(4 * MIB);
  });
});

describe.skipIf(!isRoot)('maps of a disk (needs root)', () => {
  const geometry = geometryOf(64 * MIB, 4096);
  const sizes = mapSizes(geometry, 2);
  let fds: Record<MapName, number>;
  let maps: DiskMaps;
  let raw: Partial<Record<MapName, Mapping>>;
  const words = (name: MapName): Int32Array => {
    const mapping = (raw[name] ??= mmapShared(fds[name], 4096));
    return new Int32Array(mapping.bytes);
  };
  /** What a program does for a block. */
  const mark = (block: number, summary = true): void => {
    const [marks, sums] = [words('marks'), words('summary')];
    marks[block >>> 5] = (marks[block >>> 5] ?? 0) | (1 << (block & 31));
    if (summary) sums[block >>> 11] = (sums[block >>> 11] ?? 0) | (1 << ((block >>> 6) & 31));
  };
  beforeEach(() => {
    fds = createMaps(sizes);
    maps = new DiskMaps(fds, sizes, geometry.blockCount);
    raw = {};
  });
  afterEach(() => {
    for (const mapping of Object.values(raw)) mapping.unmap();
    maps.unmap();
    for (const fd of Object.values(fds)) closeSync(fd);
  });

  const pending = (): number[] => {
    const blocks = new BlockSet();
    maps.pending.addTo(blocks, geometry.blockCount);
    return [...blocks.extents()].map(({ first }) => first);
  };

  it('drains what is marked, makes it pending, and is empty then', () => {
    for (const block of [0, 31, 32, 63, 64, 16383]) mark(block);
    expect(maps.markedCount()).toBe(6);
    expect([...maps.drain().marked.blocks()]).toEqual([0, 31, 32, 63, 64, 16383]);
    expect(maps.drain().marked.isEmpty).toBe(true);
    expect(pending()).toEqual([0, 16320]);
    maps.pending.replace(Buffer.alloc(maps.pending.lengthBytes));
    expect(pending()).toEqual([]);
  });

  it('finds marks whose summary bit a crash has cleared', () => {
    mark(70);
    mark(9000, false);
    expect([...maps.drain().marked.blocks()]).toEqual([70]);
    maps.repairSummary();
    expect([...maps.drain().marked.blocks()]).toEqual([9000]);
  });

  it('finds huge ranges whose flag a crash has cleared', () => {
    words('coarse')[0] = 0b101;
    expect(maps.drain().marked.isEmpty).toBe(true);
    maps.repairSummary();
    expect([...maps.drain().marked.extents()]).toEqual([
      { first: 0, count: 64 },
      { first: 128, count: 64 },
    ]);
    expect(words('coarse')[0]).toBe(0);
  });

  it('hands out a filter that says yes to everything after its time', () => {
    const filter = words('filter');
    filter[1] = 1 << 3;
    const first = maps.submittedFilter(0);
    expect([34, 35, 36].map((block) => first.mayHold(block))).toEqual([false, true, false]);
    maps.expireFilter();
    expect(first.mayHold(34)).toBe(true);
    maps.clearFilter(0);
    expect(maps.submittedFilter(0).mayHold(35)).toBe(false);
  });

  it('sees a submission in the works, and only then', () => {
    const slots = words('slots');
    expect(maps.counters.isQuiescent(0)).toBe(true);
    slots[32] = 8;
    expect(maps.counters.isQuiescent(0)).toBe(false);
    // A nested program has come and gone: the outer one is still there.
    slots[32] += 16;
    slots[34] = 16;
    expect([maps.counters.isQuiescent(0), maps.counters.isQuiescent(1)]).toEqual([false, true]);
    slots[34] += 8;
    expect(maps.counters.isQuiescent(0)).toBe(true);
  });

  it('adds 64-bit counters over all CPUs', () => {
    const slots = words('slots');
    slots[32 + 2] = -1;
    slots[32 + 3] = 1;
    slots[64 + 2] = 5;
    expect(maps.counters.read().submitted).toEqual({ writes: 2 ** 33 - 1 + 5, discards: 0 });
  });
});
