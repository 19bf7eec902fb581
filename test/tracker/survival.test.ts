import { execFileSync } from 'node:child_process';
import { existsSync, rmSync, unlinkSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { MIB } from '../../shared/units.js';
import { bundle, killChild, startChild } from './support/child.js';
import { Ground } from './support/ground.js';
import { canTrack, WHY_SKIPPED } from './support/loop.js';
import type { ChildTask } from './support/tracking-child.js';

const SIZE_BYTES = 64 * MIB;

describe.skipIf(!canTrack)(`survival (${WHY_SKIPPED})`, () => {
  let ground: Ground;
  let built: Awaited<ReturnType<typeof bundle>>;
  beforeAll(async () => {
    built = await bundle('tracking-child');
  });
  afterAll(() => rmSync(built.directory, { recursive: true }));
  beforeEach(() => {
    ground = new Ground();
  });
  afterEach(() => ground.cleanUp());

  it.each(['btf', 'tracepoint'] as const)('kill -9 loses no mark (%s)', async (mode) => {
    const loop = ground.loop(SIZE_BYTES);
    const disk = loop.trackable('d1');
    const { pinDirectory } = ground;
    const task: ChildTask = { pinDirectory, mode, disk, takenBlock: 700, device: loop.device };
    const { child, line } = await startChild(built.file, task);
    loop.write(77, 2);
    await killChild(child);
    loop.write(1000);
    loop.discard(512 * 4096, 2 * 4096);
    const tracker = ground.tracker({ mode });
    const armed = tracker.arm(disk);
    expect(armed).toMatchObject({ series: line, resumed: true, reason: '' });
    // The group of 64 that holds block 700, which was taken and not committed.
    expect([...armed.uncommitted.blocks()]).toEqual(Array.from({ length: 64 }, (_, i) => 640 + i));
    const take = tracker.take().disks.get(disk.id);
    expect([...(take?.marked.blocks() ?? [])]).toEqual([77, 78, 512, 513, 1000]);
    expect(take?.submitted.mayHold(1)).toBe(true);
  });

  it.each(['link-submission', 'marks', 'program-bio-completion'])('a lost pin (%s) ends the series', (pin) => {
    const loop = ground.loop(SIZE_BYTES);
    const disk = loop.trackable('d1');
    const tracker = ground.tracker();
    const { series } = tracker.arm(disk);
    unlinkSync(`${ground.pinDirectory}/disks/d1/${pin}`);
    expect(tracker.audit(disk.id)).toEqual({ kind: 'series-ended', reason: `the pinned object ${pin} was lost` });
    ground.closeTracker(tracker);
    const again = ground.tracker().arm(disk);
    expect(again).toMatchObject({ resumed: false, reason: `the pinned object ${pin} was lost` });
    expect(again.series).not.toBe(series);
  });

  it('a set-up that was cut short is built anew', () => {
    const loop = ground.loop(SIZE_BYTES);
    const disk = loop.trackable('d1');
    const tracker = ground.tracker();
    tracker.arm(disk);
    ground.closeTracker(tracker);
    unlinkSync(`${ground.pinDirectory}/disks/d1/identity`);
    const again = ground.tracker().arm(disk);
    expect(again).toMatchObject({ resumed: false, reason: 'the set-up of tracking was cut short' });
  });

  it('a lost control map begins new series for all', () => {
    const loop = ground.loop(SIZE_BYTES);
    const disk = loop.trackable('d1');
    const tracker = ground.tracker();
    tracker.arm(disk);
    ground.closeTracker(tracker);
    rmSync(`${ground.pinDirectory}/control`);
    expect(ground.tracker().arm(disk).resumed).toBe(false);
  });

  it('a resize ends the series, with both sizes', () => {
    const loop = ground.loop(SIZE_BYTES);
    const disk = loop.trackable('d1');
    const tracker = ground.tracker();
    tracker.arm(disk);
    execFileSync('truncate', ['-s', String(2 * SIZE_BYTES), loop.file]);
    execFileSync('losetup', ['-c', loop.device]);
    const reason = 'the disk was resized from 131072 to 262144 sectors';
    expect(tracker.audit(disk.id)).toEqual({ kind: 'series-ended', reason });
    expect(tracker.audit(disk.id)).toEqual({ kind: 'series-ended', reason });
    ground.closeTracker(tracker);
    const again = ground.tracker();
    expect(again.arm(disk)).toMatchObject({ resumed: false, reason });
    again.disarm(disk.id);
    expect(existsSync(`${ground.pinDirectory}/disks/d1`)).toBe(false);
  });

  it('another device under the same name is not taken for the old one', () => {
    const loop = ground.loop(SIZE_BYTES);
    const disk = loop.trackable('d1');
    const tracker = ground.tracker();
    tracker.arm(disk);
    loop.reattach();
    expect(tracker.audit(disk.id)).toEqual({ kind: 'series-ended', reason: 'the device was replaced' });
  });

  it('restarts a series on demand', () => {
    const loop = ground.loop(SIZE_BYTES);
    const disk = loop.trackable('d1');
    const tracker = ground.tracker();
    const { series } = tracker.arm(disk);
    loop.write(1);
    const restarted = tracker.restartSeries(disk.id, 'a sample of clean blocks differed');
    expect(restarted).toMatchObject({ resumed: false, reason: 'a sample of clean blocks differed' });
    expect(restarted.series).not.toBe(series);
    loop.write(2);
    expect([...(tracker.take().disks.get(disk.id)?.marked.blocks() ?? [])]).toEqual([2]);
  });
});
