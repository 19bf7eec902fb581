import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BlockSet } from '../../shared/blocks/block-set.js';
import { MIB } from '../../shared/units.js';
import type { Take } from '../../agent/tracker/tracker.js';
import { Ground } from './support/ground.js';
import { canTrack, WHY_SKIPPED } from './support/loop.js';

const SIZE_BYTES = 64 * MIB;
const range = (first: number, count: number): number[] => Array.from({ length: count }, (_, i) => first + i);

describe.skipIf(!canTrack).each(['btf', 'tracepoint'] as const)(`marks, mode %s (${WHY_SKIPPED})`, (mode) => {
  let ground: Ground;
  beforeEach(() => {
    ground = new Ground();
  });
  afterEach(() => ground.cleanUp());

  const marked = (take: Take, id: string): number[] => {
    for (const [diskId, { marked: blocks }] of take.disks) if (diskId === id) return [...blocks.blocks()];
    throw new Error(`no disk ${id} in the take`);
  };

  it('marks writes, discards and write-zeroes, once', () => {
    const loop = ground.loop(SIZE_BYTES);
    const tracker = ground.tracker({ mode });
    const disk = loop.trackable('d1');
    const armed = tracker.arm(disk);
    expect(armed).toMatchObject({ resumed: false, reason: 'tracking of this disk begins' });
    tracker.take();
    loop.write(5);
    loop.write(62, 4);
    expect(tracker.markedCount(disk.id)).toBe(5);
    const take = tracker.take();
    expect(marked(take, 'd1')).toEqual([5, 62, 63, 64, 65]);
    const submitted = take.disks.get(disk.id)?.submitted;
    expect([4, 5, 6, 62, 65, 66].map((block) => submitted?.mayHold(block))).toEqual([
      false,
      true,
      false,
      true,
      true,
      false,
    ]);
    loop.discard(100 * 4096, 3 * 4096);
    loop.writeZeroes(200 * 4096, 70 * 4096);
    expect(marked(tracker.take(), 'd1')).toEqual([...range(100, 3), ...range(200, 70)]);
    expect(submitted?.mayHold(4)).toBe(true);
    expect(marked(tracker.take(), 'd1')).toEqual([]);
    const counters = tracker.counters(disk.id);
    expect(counters).toMatchObject({ discardedSectors: 24, opaqueWrites: 0, recursionMisses: 0, takes: 4 });
    // Write-zeroes may be tried and then done by writes.
    expect([(5 + 70) * 8, (5 + 70 + 70) * 8]).toContain(counters.submittedSectors);
  });

  it('marks huge ranges, up to the odd end of the disk', () => {
    const loop = ground.loop(SIZE_BYTES + 8 * 512);
    const tracker = ground.tracker({ mode });
    const disk = loop.trackable('huge');
    tracker.arm(disk);
    tracker.take();
    loop.discard(MIB, SIZE_BYTES - MIB + 8 * 512);
    const take = tracker.take();
    expect(marked(take, 'huge')).toEqual(range(256, disk.geometry.blockCount - 256));
    expect(take.disks.get(disk.id)?.submitted.mayHold(0)).toBe(true);
    loop.write(1);
    expect(marked(tracker.take(), 'huge')).toEqual([1]);
  });

  it('clips to the window of a partition and counts the whole disk', () => {
    const loop = ground.loop(SIZE_BYTES);
    const tracker = ground.tracker({ mode });
    // Starts in the middle of a block of the whole disk, as old partitions do.
    const disk = loop.trackable('part', { startSector: 63, sectorCount: 32 * 2048 });
    tracker.arm(disk);
    tracker.take();
    loop.write(0);
    loop.write(7);
    loop.write(8, 2);
    loop.write(32 * 256 + 8);
    // Absolute sectors 56..63 touch sector 0 of the window, 64..79 sectors 1..16.
    expect(marked(tracker.take(), 'part')).toEqual([0, 1, 2]);
    expect(tracker.counters(disk.id).submittedSectors).toBe(5 * 8);
  });

  it('can be told to break the filter of submissions, for tests of the cut', () => {
    const loop = ground.loop(SIZE_BYTES);
    const tracker = ground.tracker({ mode, testOnlyDisable: 'submission-filter' });
    const disk = loop.trackable('d1');
    tracker.arm(disk);
    tracker.take();
    loop.write(5);
    const take = tracker.take().disks.get(disk.id);
    expect([take?.marked.has(5), take?.submitted.mayHold(5)]).toEqual([true, false]);
  });

  it('tracks at 64 KiB', () => {
    const loop = ground.loop(SIZE_BYTES);
    const tracker = ground.tracker({ mode });
    tracker.arm(loop.trackable('coarse.disk', { blockBytes: 65536 }));
    tracker.take();
    loop.write(15, 2);
    loop.write(1600);
    expect(marked(tracker.take(), 'coarse.disk')).toEqual([0, 1, 100]);
  });

  it('takes all disks at one flip and leaves the others alone', () => {
    const loops = [ground.loop(SIZE_BYTES), ground.loop(SIZE_BYTES)];
    const tracker = ground.tracker({ mode });
    loops.forEach((loop, i) => tracker.arm(loop.trackable(`m${i}`)));
    tracker.take();
    loops[0]?.write(3);
    loops[1]?.write(4);
    const take = tracker.take();
    expect([marked(take, 'm0'), marked(take, 'm1')]).toEqual([[3], [4]]);
    expect(take.flipMonotonicMs).toBeGreaterThan(0);
  });

  it('balances its audit and keeps what was carried', () => {
    const loop = ground.loop(SIZE_BYTES);
    const tracker = ground.tracker({ mode });
    const disk = loop.trackable('d1');
    tracker.arm(disk);
    loop.write(10, 20);
    loop.discard(4 * MIB, MIB);
    tracker.take();
    // Completions may run on top of a thread for which this kernel runs no programs: then they must be asked for again.
    const verdict = tracker.audit(disk.id);
    expect(['balanced', 'recopy']).toContain(verdict.kind);
    if (verdict.kind === 'recopy') expect(verdict.blocks.has(10)).toBe(true);
    expect(tracker.audit(disk.id)).toEqual({ kind: 'balanced' });
    tracker.committed(disk.id, BlockSet.of([130]));
    ground.closeTracker(tracker);
    const again = ground.tracker({ mode }).arm(disk);
    expect(again.resumed).toBe(true);
    expect([...again.uncommitted.blocks()]).toEqual(range(128, 64));
  });
});
