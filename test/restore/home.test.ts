/**
 * A machine that comes home: the recovery site has written, home has unreplicated writes, and only the difference moves. Real agent, real loop devices.
 */
import { execFileSync } from 'node:child_process';
import { afterEach, describe, expect, it } from 'vitest';
import { raiseGeneration } from '../../receiver/catalog/generation.js';
import { MIB } from '../../shared/units.js';
import { canRunLab, WHY_NO_LAB } from '../e2e/lab.js';
import { BLOCK_BYTES } from '../e2e/loop-disk.js';
import { HomeLab, randomBlock, scattered, writeBlocks, type Change } from './home-lab.js';

const DISK_BYTES = 160 * MIB;
/** The first 24 MiB hold data. */
const DATA_BLOCKS = (24 * MIB) / BLOCK_BYTES;

let home: HomeLab | null = null;
afterEach(async () => {
  await home?.lab.cleanUp();
  home = null;
});

async function setUp(disks = [DISK_BYTES], agent: Record<string, unknown> = {}): Promise<HomeLab> {
  home = await HomeLab.open({ disks, agent });
  for (const disk of home.lab.disks) writeBlocks(disk, scattered(0, DATA_BLOCKS, 1));
  await home.setUp();
  return home;
}

/** 1 % of the disk: single blocks, runs, blocks of zeroes, blocks beyond what was ever written. */
function change(): Change {
  const blocks = new Map<number, Buffer | null>();
  for (const b of scattered(7, 200, 23)) blocks.set(b, randomBlock());
  for (const b of scattered(30_000, 150, 1)) blocks.set(b, randomBlock());
  for (const b of scattered(1_000, 40, 1)) blocks.set(b, null);
  return blocks;
}

const failedOver = (h: HomeLab) => h.lab.until('told that it was failed over', (s) => s.state === 'FailedOver');

describe.skipIf(!canRunLab)(`failback (${WHY_NO_LAB})`, () => {
  it('moves only what differs, and replication goes on without a comparison', async () => {
    const h = await setUp();
    await h.failOver();
    const status = await failedOver(h);
    expect(status.receiver.refused).toMatchObject({ name: 'failed over' });
    expect(status.receiver.refused?.hint).toMatch(/failback/);
    const unreplicated = [...scattered(3, 50, 40), ...scattered(20_000, 10, 1)];
    writeBlocks(h.disk(0), unreplicated);
    const first = change();
    await h.commit(first);
    const second = new Map(scattered(9, 30, 23).map((b) => [b, randomBlock()]));
    const last = await h.commit(second);
    await h.letHomeRestore();
    const report = await h.restore(last, true);
    expect(report.reasons.join()).toMatch(/tracked since point/);
    expect(h.differences()).toEqual([]);

    const moved = new Set([...unreplicated, ...first.keys(), ...second.keys()]);
    const dataBlocks = [...moved].filter(
      (b) =>
        !h
          .image(0)
          .subarray(b * BLOCK_BYTES, (b + 1) * BLOCK_BYTES)
          .equals(Buffer.alloc(BLOCK_BYTES)),
    );
    expect(report.blocks).toBe(dataBlocks.length);
    expect(report.dataBytes).toBeLessThanOrEqual(1.1 * dataBlocks.length * BLOCK_BYTES);
    // Hashes of the candidates and headers: far from anything of the disk's size.
    expect(report.sentBytes).toBeLessThan(report.dataBytes + 64 * 1024);
    expect(h.homeAgents.seriesAfterRestore(h.machine).size).toBe(1);

    // What is written between the restore and the session that replicates is tracked, and nothing else is read.
    writeBlocks(h.disk(0), [4, 5, 6]);
    const before = (await h.lab.status()).disks[0]?.counters.readBytes ?? 0;
    const seen = h.verdicts().length;
    await h.comeHome();
    await h.lab.until('replicating again', (s) => s.state === 'Protected' && h.verdicts().length > seen);
    expect(h.verdicts().at(-1)).toBe('delta');
    const { point } = await h.lab.syncNow();
    expect(point).toBeGreaterThan(last);
    const after = (await h.lab.status()).disks[0]?.counters.readBytes ?? 0;
    expect(after - before).toBeLessThan(4 * MIB);
    expect((await h.lab.status()).machine.generation).toBe(3);
    expect(h.generationKept).toBe(3);
    await h.lab.restore(point);
    expect(h.lab.differences(0)).toEqual([]);
    expect((await h.lab.verifyAll()).filter((p) => !p.restorable)).toEqual([]);
  });

  it('follows several goals, on two disks, across a restart of the receiver', async () => {
    const h = await setUp([DISK_BYTES, 80 * MIB]);
    await h.failOver();
    await failedOver(h);
    const one = await h.commit(change(), new Map([[3, randomBlock()]]));
    await h.letHomeRestore();
    await h.restore(one, false);
    expect([h.differences(0), h.differences(1)]).toEqual([[], []]);
    // The next goal begins where the last one ended: nothing but what changed since is asked about.
    const two = await h.commit(new Map(scattered(50, 20, 9).map((b) => [b, randomBlock()])));
    const report = await h.restore(two, false);
    expect(report.blocks).toBe(20);
    expect(report.sentBytes).toBeLessThan(20 * BLOCK_BYTES + 8 * 1024);
    const three = await h.commit(change(), change());
    await h.stopReceiver();
    await h.startReceiver();
    await h.restore(three, true);
    expect([h.differences(0), h.differences(1)]).toEqual([[], []]);
    await h.comeHome();
    await h.lab.until('replicating again', (s) => s.receiver.mode === 'replicate' && s.state === 'Protected');
    expect(h.verdicts().slice(-2)).toEqual(['nothing', 'nothing']);
    await h.lab.syncNow();
    await h.lab.restore('latest');
    expect([h.lab.differences(0), h.lab.differences(1)]).toEqual([[], []]);
  });

  it('refuses a mounted disk and writes nothing to it; goes on when it is free', async () => {
    const h = await setUp([DISK_BYTES, 80 * MIB]);
    const at = h.lab.mount(1, 'ext4');
    await h.lab.syncNow();
    h.images = h.lab.disks.map((d) => d.content());
    await h.failOver();
    await failedOver(h);
    const point = await h.commit(change(), change());
    execFileSync('sync');
    const before = h.lab.disks.map((d) => d.content());
    await h.letHomeRestore();
    await expect(h.restore(point, true)).rejects.toThrow(`mounted on ${at}`);
    // The other disk is free, and part of the same point: it stays as it was, too.
    expect(h.lab.disks.map((d, i) => d.differences(before[i] ?? ''))).toEqual([[], []]);
    execFileSync('umount', [at]);
    await h.restore(point, true);
    expect([h.differences(0), h.differences(1)]).toEqual([[], []]);
    execFileSync('mount', [h.disk(1).device, at]);
  });

  it(
    'a disk that is away: refused, and nothing is written; a copy that runs without it comes home; all of it once the disk is back',
    { timeout: 120_000 },
    async () => {
      const h = await setUp([DISK_BYTES, 32 * MIB]);
      const { device } = h.disk(1);
      const [first = '', second = ''] = h.lab.diskIds;
      await h.failOver();
      await failedOver(h);
      const point = await h.commit(change(), new Map([[9, randomBlock()]]));
      const before = h.disk(0).content();
      const content = h.takeAway(1);
      await h.letHomeRestore();
      const gone = new RegExp(`${device} \\(disk ${second}\\) can't be restored: `);
      await expect(h.restore(point, false)).rejects.toMatchObject({
        code: 'disk-missing',
        message: expect.stringMatching(gone) as string,
        hint: expect.stringMatching(/protect --as/) as string,
      });
      expect(h.disk(0).content().equals(before)).toBe(true);
      // Asked for again, as while home follows: said once in the log.
      await expect(h.restore(point, true)).rejects.toThrow(gone);
      expect(h.disk(0).content().equals(before)).toBe(true);
      expect(h.logText().match(/restore failed/g)).toHaveLength(1);

      // The copy has but the first disk: nothing of the other is asked for.
      h.lab.diskIds = [first];
      const alone = await h.commit(new Map([[11, randomBlock()]]));
      await h.restore(alone, false);
      expect(h.differences(0)).toEqual([]);
      h.lab.diskIds = [first, second];

      // Nobody tells the agent that the disk is back.
      const last = await h.commit(new Map([[12, randomBlock()]]), new Map([[13, randomBlock()]]));
      h.bringBack(1, content);
      await h.lab.until('both', (s) => s.receiver.mode === 'restore' && s.disks.every((d) => d.state !== 'Failed'));
      await h.restore(last, true);
      expect([h.differences(0), h.differences(1)]).toEqual([[], []]);
    },
  );

  it('a failback that the configuration forbids writes nothing', async () => {
    const h = await setUp([80 * MIB], { failback: { allow: false } });
    await h.failOver();
    const point = await h.commit(change());
    const before = h.disk(0).content();
    await h.letHomeRestore();
    await expect(h.restore(point, true)).rejects.toThrow('forbids');
    expect(h.disk(0).differences(before)).toEqual([]);
  });

  it('without tracking: what somebody else writes while home is restored is found', async () => {
    const h = await setUp([80 * MIB], { tracker: { prefer: 'scan' } });
    await h.failOver();
    await failedOver(h);
    const point = await h.commit(change());
    await h.letHomeRestore();
    let wrote = false;
    const onStep = ({ step }: { readonly step: string }): void => {
      if (step !== 'pulling' || wrote) return;
      wrote = true;
      // Read already, no part of the change, and past the kernel's claim on the device.
      writeBlocks(h.disk(0), [1, 3_000]);
    };
    const signal = AbortSignal.timeout(50_000);
    await h.homeAgents.restore(h.machine, { point, final: true }, { signal, onStep });
    expect(wrote).toBe(true);
    expect(h.differences()).toEqual([]);
  });

  it('cancelled in the middle: the machine replicates again only after a comparison', async () => {
    const h = await setUp();
    await h.failOver();
    await failedOver(h);
    const point = await h.commit(change());
    await h.lab.agent?.kill();
    await h.lab.startAgent({ AFTERIMAGE_FAILPOINT: 'agent.restore.segment-done' });
    await h.decide({ mode: 'restore', reason: 'failback' });
    await h.reconnect();
    const stop = new AbortController();
    const restoring = h.restore(point, false, stop.signal).catch((error: unknown) => error);
    await h.lab.agent?.ended;
    stop.abort();
    expect(await restoring).toMatchObject({ code: 'cancelled' });
    // Home may write again under a new generation, by the same series and hash store as before the restore: neither may be believed.
    await h.decide({ mode: 'replicate', generation: 3 });
    h.owned = await raiseGeneration(h.deps, h.machine, 2);
    await h.lab.startAgent();
    await h.lab.until(
      'compared',
      (s) => s.receiver.mode === 'replicate' && s.state === 'Protected' && s.disks.every((d) => d.lastPoint > point),
    );
    expect(h.verdicts().at(-1)).toBe('compare');
    await h.lab.syncNow();
    await h.lab.restore('latest');
    expect(h.lab.differences(0)).toEqual([]);
  });
});
