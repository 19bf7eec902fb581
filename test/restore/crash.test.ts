/**
 * The agent is killed at every step of a restore, and goes on: the disk ends as the point, what is there isn't pulled again.
 */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { MIB } from '../../shared/units.js';
import { canRunLab, WHY_NO_LAB } from '../e2e/lab.js';
import { BLOCK_BYTES, LoopDisk } from '../e2e/loop-disk.js';
import { HomeLab, randomBlock, scattered, writeBlocks } from './home-lab.js';

let home: HomeLab | null = null;
afterEach(async () => {
  await home?.lab.cleanUp();
  home = null;
});

const POINTS = [
  'agent.restore.begun',
  'agent.restore.reread',
  'agent.restore.chunk-written:2',
  'agent.restore.segment-durable',
  'agent.restore.segment-done',
  'agent.restore.checked',
  'agent.restore.series-restarted',
  'agent.restore.committed',
  'agent.restore.reported',
];

describe.skipIf(!canRunLab)(`an agent killed while its disk is restored (${WHY_NO_LAB})`, () => {
  it('at every step, one after the other', { timeout: 240_000 }, async () => {
    const h = await HomeLab.open({ disks: [130 * MIB] });
    home = h;
    const disk = h.lab.disks[0];
    if (disk === undefined) throw new Error('no disk');
    writeBlocks(disk, scattered(0, 2_000, 1));
    await h.setUp();
    await h.failOver();
    let pulled = 0;
    let changed = 0;
    await h.decide({ mode: 'restore', reason: 'failback' });
    for (const name of POINTS) {
      const change = new Map<number, Buffer | null>();
      for (const b of scattered(11, 150, 13)) change.set(b, randomBlock());
      for (const b of scattered(20_000, 100, 1)) change.set(b, randomBlock());
      for (const b of scattered(100, 5, 2)) change.set(b, null);
      const point = await h.commit(change);
      changed += [...change.values()].filter((b) => b !== null).length;
      await h.lab.agent?.kill();
      const agent = await h.lab.startAgent({ AFTERIMAGE_FAILPOINT: name });
      await h.reconnect();
      const restoring = h.restore(point, true);
      restoring.catch(() => undefined);
      expect((await agent.ended).signal, name).toBe('SIGKILL');
      await h.lab.startAgent();
      const report = await restoring;
      pulled += report.blocks;
      expect(h.differences(), name).toEqual([]);
      const whole = report.reasons.join().includes('from end to end');
      // After the series was restarted and before the store knew it, nothing can be believed.
      expect(whole, `${name}: ${report.reasons.join()}`).toBe(name === 'agent.restore.series-restarted');
    }
    // Each kill repeats at most what was in flight: a segment, where the store didn't know of it yet.
    expect(pulled).toBeLessThanOrEqual(changed + 4 * 250);
    const seen = h.verdicts().length;
    await h.comeHome();
    await h.lab.until('replicating again', (s) => s.state === 'Protected' && h.verdicts().length > seen);
    expect(h.verdicts().at(-1)).toBe('nothing');
    await h.lab.syncNow();
    await h.lab.restore('latest');
    expect(h.lab.differences(0)).toEqual([]);
  });

  it('hash store gone (a new disk, or a reboot): all is read here, and only what differs moves', async () => {
    const h = await HomeLab.open({ disks: [130 * MIB] });
    home = h;
    const disk = h.lab.disks[0];
    if (disk === undefined) throw new Error('no disk');
    writeBlocks(disk, scattered(0, 2_000, 1));
    await h.setUp();
    await h.failOver();
    const point = await h.commit(new Map(scattered(5, 100, 7).map((b) => [b, randomBlock()])));
    await h.lab.agent?.kill();
    // What a reboot takes away: the tracker's pinned objects. The disk is written meanwhile, seen by nobody.
    execFileSync('rm', ['-rf', h.lab.pinDirectory]);
    writeBlocks(disk, [1, 30_000]);
    await h.decide({ mode: 'restore', reason: 'failback' });
    // Killed while it reads: it reads again.
    const killed = await h.lab.startAgent({ AFTERIMAGE_FAILPOINT: 'agent.restore.segment-learned' });
    const restoring = h.restore(point, true);
    restoring.catch(() => undefined);
    expect((await killed.ended).signal).toBe('SIGKILL');
    await h.lab.startAgent();
    const report = await restoring;
    expect(report.reasons.join()).toMatch(/from end to end/);
    expect(h.differences()).toEqual([]);
    expect(report.blocks).toBe(101);
    expect(report.dataBytes).toBeLessThan(1.1 * 101 * BLOCK_BYTES);
  });

  it('a new, empty disk in the place of the old one: only what is not zero moves', async () => {
    const h = await HomeLab.open({ disks: [80 * MIB] });
    home = h;
    const disk = h.lab.disks[0];
    const id = () => h.lab.diskIds[0] ?? '';
    if (disk === undefined) throw new Error('no disk');
    writeBlocks(disk, scattered(0, 500, 1));
    await h.setUp();
    await h.failOver();
    const point = await h.commit(new Map(scattered(5, 100, 70).map((b) => [b, randomBlock()])));
    const fresh = new LoopDisk(join(h.lab.folder, 'new.img'), 96 * MIB);
    h.lab.undo(() => fresh.remove());
    const early = await h.lab.run('agent', 'protect', '--as', id(), fresh.device);
    expect([early.code, early.stderr]).toEqual([2, expect.stringMatching(/connected still/)]);
    await h.lab.agent?.stop();
    disk.remove();
    execFileSync('rm', ['-f', disk.file]);
    await h.lab.command('agent', 'protect', '--as', id(), fresh.device);
    await h.decide({ mode: 'restore', reason: 'failback' });
    await h.lab.startAgent();
    const report = await h.restore(point, true);
    const image = h.images[0] ?? Buffer.alloc(0);
    expect(fresh.differences(Buffer.concat([image, Buffer.alloc(16 * MIB)]))).toEqual([]);
    let blocks = 0;
    for (let at = 0; at < image.length; at += BLOCK_BYTES)
      if (!image.subarray(at, at + BLOCK_BYTES).equals(Buffer.alloc(BLOCK_BYTES))) blocks++;
    expect(report.blocks).toBe(blocks);
  });
});
