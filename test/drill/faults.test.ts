/**
 * What goes wrong around a failover: the source comes back, operators ask at once, a test is left open, disks and store are full, two receivers have
 * one store. Agents, receivers and commands are processes; the workloads are clients that are not ours.
 */
import { execFileSync } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import type { Job } from '../../receiver/catalog/recovery.js';
import { canRunLab, freePort, type Lab, MACHINE_NAME, sleep, WHY_NO_LAB } from '../e2e/lab.js';
import type { Output } from '../e2e/program.js';
import { Site, type Receiver } from './site.js';

const LIMIT_MS = 240_000;
const MIB = 1024 * 1024;

let site: Site | null = null;
afterEach(async () => {
  await site?.cleanUp();
  site = null;
}, 60_000);

const copiesOn = (at: Site, folder = 'v'): string[] =>
  readdirSync(join(at.lab.folder, folder)).filter((name) => !name.startsWith('.'));

const isRefused = (at: Site): Promise<unknown> =>
  at.lab.until('failed over', (s) => !s.receiver.connected && /failed over/.test(s.receiver.reason));

/** A filesystem of its own, for `umount -l` at the end. */
function tmpfs(lab: Lab, at: string, sizeMiB: number): void {
  mkdirSync(at, { recursive: true });
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${sizeMiB}m`, 'tmpfs', at]);
  lab.undo(() => void execFileSync('umount', ['-l', at]));
}

/** Fills a filesystem to its last block. */
function fill(at: string): string {
  const path = join(at, '.ballast');
  const fd = openSync(path, 'a');
  try {
    for (const bytes of [MIB, 4096]) {
      try {
        for (const block = Buffer.alloc(bytes, 1); ;) writeSync(fd, block);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
      }
    }
  } finally {
    closeSync(fd);
  }
  return path;
}

/** One of them did it, the other was refused and told why. */
function expectOneOf(outputs: readonly Output[]): number {
  const said = outputs.map(({ code, stderr }) => `${code}: ${stderr}`).join('\n');
  expect(outputs.map((o) => o.code).sort(), said).toEqual([0, 1]);
  const refused = outputs.find((o) => o.code === 1);
  expect(refused?.stderr).toMatch(/came first|is running|which lives|failed over already|at another receiver/);
  return outputs.findIndex((o) => o.code === 0);
}

/** Resolves when a task of the running job is as wanted. */
async function untilTask(at: Site, name: string, state: string): Promise<void> {
  const end = performance.now() + 30_000;
  for (;;) {
    const { job } = await at.recovery().catch(() => ({ job: null }));
    if (job?.tasks.find((t) => t.name === name)?.state === state) return;
    if (performance.now() > end) throw new Error(`${name} is not ${state}: ${JSON.stringify(job)}`);
    await sleep(50);
  }
}

/** The long ones wait for a store or a receiver to be given up: `AFTERIMAGE_FAULTS=all`. */
const ALL = process.env['AFTERIMAGE_FAULTS'] === 'all';
if (!ALL) console.log('skipped: the long faults run with AFTERIMAGE_FAULTS=all');

describe.skipIf(!canRunLab)(`faults around a failover (${WHY_NO_LAB})`, () => {
  it(
    'the source comes back during a failover and after; two ask at once; a test is left open; a cancel gives home its right back',
    async () => {
      const at = (site = await Site.open());
      const { home, lab } = at;
      await home.more(30);
      await at.operate('test-failover');
      const test = await at.startCopyWriter(home.history, 'test');
      await test.more(20);
      await test.pause();

      // Agent and workload die; the workload's disk goes on being written by whoever started it again too early.
      await lab.agent?.kill();
      const slow = ['--check', `tcp:127.0.0.1:${await freePort()}`, '--check-timeout', '6s'];
      const command = ['failover', MACHINE_NAME, '--yes', ...slow];
      const both = Promise.all([at.tryAfterimage(command), at.tryAfterimage(command)]);
      await untilTask(at, 'Boot check', 'Started');
      await lab.startAgent();
      await isRefused(at);
      expect((await at.recovery()).job?.operation).toBe('failover');
      expectOneOf(await both);
      const job = await at.settled();
      expect(job.tasks.find((t) => t.name === 'Boot check')?.state).toBe('Failed');
      expect(await at.recovery()).toMatchObject({
        state: 'UnplannedFailoverCompleted',
        testFailover: { state: 'TestFailoverCompleted' },
      });
      const copy = await at.startCopyWriter(home.history);
      await at.expectCopyWhole();
      await isRefused(at);
      const answers = (): number => readFileSync(lab.receiverLog, 'utf8').split('agent refused: failed over').length;
      const before = answers();

      const wrong = [
        [1, ['failover', MACHINE_NAME, '--yes'], /failed over already/],
        [1, ['failover', MACHINE_NAME, '--planned', '--yes'], /does not run at home/],
        [1, ['test-failover', MACHINE_NAME], /a test failover is open/],
        [1, ['failback', MACHINE_NAME, '--yes'], /no committed failover/],
        [2, ['change-point', MACHINE_NAME, '--yes', '--point', 'the good one'], /point/],
        [2, ['failover', 'nobody', '--yes'], /nobody/],
      ] as const;
      for (const [code, args, reason] of wrong) {
        const output = await at.tryAfterimage(args);
        expect(output, args.join(' ')).toMatchObject({ code });
        expect(output.stderr).toMatch(reason);
      }

      // The receiver dies: both copies are there again, with what was written to them.
      await lab.receiver?.kill();
      await lab.startReceiver();
      await copy.more(20);
      expect(test.history.within(await at.disk('test'))).toBe(test.history.acknowledged);
      await at.expectCopyWhole();
      await isRefused(at);
      const end = performance.now() + 30_000;
      while (answers() <= before && performance.now() < end) await sleep(200);
      expect(answers(), 'it goes on asking').toBeGreaterThan(before);

      await copy.kill();
      const began = readFileSync(lab.agentLog, 'utf8').length;
      await at.operate('cancel', ['--yes']);
      await at.expectHomeWhole();
      // The chain ends in what the copy wrote: home has to compare.
      expect(readFileSync(lab.agentLog, 'utf8').slice(began)).toMatch(/receiver's verdict[^\n]*compare/);
      expect(test.history.within(await at.disk('test'))).toBe(test.history.acknowledged);
      await test.kill();
      await at.operate('cleanup');
      expect(copiesOn(at)).toEqual([]);
      await at.expectHomeWhole();
    },
    LIMIT_MS,
  );

  it(
    'the recovery host is full: the workload is told, nothing that has landed is lost, and it goes on when there is room',
    async () => {
      const at = (site = await Site.open({
        failover: () => ({ hydrate: { enabled: false } }),
        before: (lab) => tmpfs(lab, join(lab.folder, 'v'), 32),
      }));
      const { home, lab } = at;
      await home.more(30);
      await lab.agent?.kill();
      await home.pause();
      await at.operate('failover', ['--yes']);
      const copy = await at.startCopyWriter(home.history);
      await copy.more(30);
      const ballast = fill(join(lab.folder, 'v'));
      const end = performance.now() + 30_000;
      while (copy.errors.length === 0 && performance.now() < end) await sleep(50);
      expect(copy.errors.join(' ')).toMatch(/No space left on device/);
      // What has landed is in the points all the same.
      const landed = copy.history.acknowledged;
      const point = await at.copyPoint();
      expect(copy.history.within(await at.restored(point))).toBeGreaterThanOrEqual(landed);
      // And after a restart in this state.
      await lab.receiver?.kill();
      await lab.startReceiver();
      expect(copy.history.within(await at.disk('failover'))).toBeGreaterThanOrEqual(landed);
      rmSync(ballast);
      await copy.more(50);
      await at.expectCopyWhole();
    },
    LIMIT_MS,
  );

  it.runIf(ALL)(
    'the store is full: a failover that is under way and the copy’s replication go on when there is room, and nobody is told otherwise',
    async () => {
      const at = (site = await Site.open({ before: (lab) => tmpfs(lab, lab.storeFolder, 200) }));
      const { home, lab } = at;
      await home.more(30);
      await lab.agent?.kill();
      await home.pause();
      const full = fill(lab.storeFolder);
      const refused = await at.tryAfterimage(['failover', MACHINE_NAME, '--yes']);
      expect(refused.code, refused.stdout).toBe(1);
      expect(refused.stderr).toMatch(/full|space/);
      rmSync(full);
      expect((await at.view()).recovery).toBe(null);

      const slow = ['--check', `tcp:127.0.0.1:${await freePort()}`, '--check-timeout', '4s'];
      const failover = at.operate('failover', ['--yes', ...slow]);
      await untilTask(at, 'Boot check', 'Started');
      const again = fill(lab.storeFolder);
      await sleep(6000);
      expect((await at.recovery()).job?.operation).toBe('failover');
      rmSync(again);
      expect((await failover).state).toBe('Succeeded');

      const copy = await at.startCopyWriter(home.history);
      await at.copyPoint().catch(() => undefined);
      const before = (await lab.points())[0]?.number;
      const last = fill(lab.storeFolder);
      await copy.more(30);
      await sleep(2000);
      const shown = await at.instance('failover');
      expect(shown.dataAtRisk?.bytes).toBeGreaterThan(0);
      expect(shown.problem).toMatch(/full|space/);
      expect((await lab.points())[0]?.number).toBeLessThanOrEqual((before ?? 0) + 1);
      rmSync(last);
      await copy.more(30);
      await at.expectCopyWhole();
    },
    LIMIT_MS,
  );

  it.runIf(ALL)(
    'two receivers: one wins; who lives is left alone; who is silent is taken over, ends its copy when it is back, and has added nothing',
    async () => {
      const at = (site = await Site.open());
      const { home } = at;
      const other = await at.another();
      await other.start();
      await home.more(30);
      const command = ['failover', MACHINE_NAME, '--yes'];
      const sites: Receiver[] = [at.first, other];
      const won = expectOneOf(await Promise.all(sites.map((s) => at.tryAfterimage(command, s))));
      const [a = at.first, b = other] = won === 0 ? sites : [...sites].reverse();
      const copy = await at.startCopyWriter(home.history, 'failover', a);
      await at.expectCopyWhole(a);

      // Frozen for less than it is waited for: it answers late, and is spared.
      const asked = at.tryAfterimage(command, b);
      a.daemon?.signal('SIGSTOP');
      await sleep(4000);
      a.daemon?.signal('SIGCONT');
      const spared = await asked;
      expect(spared.code, spared.stdout).toBe(1);
      expect(spared.stderr).toMatch(/which lives/);
      await at.expectCopyWhole(a);

      // Frozen for longer: taken over from its last point on. Nothing that it still writes may get into the chain.
      await copy.pause();
      const lastPoint = await at.copyPoint(a);
      const promised = copy.history.acknowledged;
      copy.start();
      a.daemon?.signal('SIGSTOP');
      const job: Job = await at.operate('failover', ['--yes'], b);
      expect(JSON.stringify(job.tasks)).toMatch(/did not answer/);
      expect((await at.recovery()).failover?.point).toBeGreaterThanOrEqual(lastPoint);
      const elsewhere = copy;
      const taken = await at.startCopyWriter(copy.history, 'failover', b);
      expect(taken.history.acknowledged).toBeGreaterThanOrEqual(promised);
      a.daemon?.signal('SIGCONT');
      const end = performance.now() + 30_000;
      const said = /not ours any more|taken over elsewhere/;
      const log = a.daemon?.logPath ?? '';
      while (!said.test(readFileSync(log, 'utf8')) && performance.now() < end) await sleep(100);
      expect(readFileSync(log, 'utf8')).toMatch(said);
      while ((await at.view(a)).instances.length > 0 && performance.now() < end) await sleep(100);
      expect((await at.view(a)).instances).toEqual([]);
      // Its disks are gone for whoever used them.
      const still = elsewhere.history.acknowledged;
      await sleep(1000);
      expect(elsewhere.history.acknowledged).toBe(still);
      await at.expectCopyWhole(b);
      // Started again it knows the same.
      await a.daemon?.kill();
      await a.start();
      expect((await at.view(a)).instances).toEqual([]);
      await taken.more(20);
      await at.expectCopyWhole(b);
      await elsewhere.kill();
    },
    LIMIT_MS,
  );
});
