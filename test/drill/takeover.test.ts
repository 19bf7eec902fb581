/**
 * The recovery host burns as well: another receiver on the same store takes the machine over, a real guest, from the last point of its copy. When the
 * first is back it ends what it still has, says why, and adds nothing to the chain.
 */
import { readFileSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import type { Job } from '../../receiver/catalog/recovery.js';
import type { RecoveryView } from '../../receiver/failover/operations.js';
import { canRunLab, MACHINE_NAME, sleep } from '../e2e/lab.js';
import { runToEnd } from '../e2e/program.js';
import { guestUnavailable, readWriterLog } from '../guest/guest.js';
import { Drill, guestPids } from './drill.js';
import { anotherReceiver } from './site.js';

const missing = guestUnavailable();
if (missing !== null) console.warn(`the takeover of a guest is skipped: ${missing}`);
const LIMIT_MS = 240_000;

let drill: Drill | null = null;
afterEach(async () => {
  await drill?.cleanUp();
  drill = null;
}, 60_000);

/** Half a minute of waiting: with the other long runs. */
const isWanted = process.env['AFTERIMAGE_FAULTS'] === 'all';
if (!isWanted) console.log('skipped: the takeover of a guest runs with AFTERIMAGE_FAULTS=all');

describe.skipIf(!canRunLab || missing !== null || !isWanted)('a guest whose recovery host burns', () => {
  it(
    'runs on another receiver, with everything that its newest point promises',
    async () => {
      drill = await Drill.open();
      const { client, lab } = drill;
      await drill.bootHome();
      await client.more(10);
      await drill.burnHome();
      const lastAtHome = client.acknowledged.at(-1) ?? 0;
      await drill.operate('failover', '--yes');
      client.port = drill.recoveryPort;
      await client.more(20);
      const before = (await lab.points())[0]?.number ?? 0;
      await drill.untilPoint((p) => p > before + 1);
      const pids = guestPids(lab.folder);
      expect(pids.length).toBeGreaterThan(0);
      await lab.receiver?.kill();
      for (const pid of pids) process.kill(pid, 'SIGKILL');
      client.port = null;

      const other = await anotherReceiver(lab, { interval: '1s' });
      await other.start();
      const ask = async (...args: string[]): Promise<unknown> => {
        const { code, stdout, stderr } = await runToEnd('cli', ['--config', other.config, ...args, '--json']);
        expect(code, stderr + stdout).toBe(0);
        return JSON.parse(stdout);
      };
      const job = (await ask('failover', MACHINE_NAME, '--yes')) as Job;
      expect(JSON.stringify(job.tasks)).toMatch(/did not answer/);
      const { recovery } = (await ask('status', MACHINE_NAME)) as RecoveryView;
      const began = (await lab.points()).find((p) => p.number === recovery?.failover?.point);
      expect(began?.generation).toBe(2);
      const promised = client.lastBefore(began?.cutAtMs ?? 0);
      expect(promised).toBeGreaterThan(10);
      readWriterLog(await drill.fetchFrom(drill.recoveryPort, '/writer.log'));
      const { missing: lost } = client.check(await drill.fetchFrom(drill.recoveryPort, '/data.log'), promised);
      // What burnt with home was lost before; all else is there.
      const home = (await lab.points()).filter((p) => p.generation === 1)[0];
      const burnt = (line: number): boolean => line > client.lastBefore(home?.cutAtMs ?? 0) && line <= lastAtHome;
      expect(lost.filter((line) => !burnt(line))).toEqual([]);
      client.port = drill.recoveryPort;
      await client.more(10);

      await lab.startReceiver();
      const end = performance.now() + 30_000;
      const isSaid = (): boolean => readFileSync(lab.receiverLog, 'utf8').includes('a copy is not ours any more');
      while (!isSaid() && performance.now() < end) await sleep(100);
      expect(isSaid()).toBe(true);
      expect((await drill.view()).instances).toEqual([]);
      await client.more(10);
      const newest = (await lab.points())[0];
      await drill.untilPoint((p) => p > (newest?.number ?? 0));
      const points = (await lab.points()).reverse();
      for (const [i, { generation }] of points.entries())
        expect(generation).toBeGreaterThanOrEqual(points[i - 1]?.generation ?? 0);
      expect((await lab.verifyAll()).every((p) => p.restorable)).toBe(true);
    },
    LIMIT_MS,
  );
});
