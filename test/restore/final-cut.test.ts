/**
 * The last cut of a planned failover: the hook shuts the workload down, the proof fails while something writes, and the workload runs again only when
 * nobody can have taken over.
 */
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { MachineReader } from '../../receiver/catalog/reader.js';
import type { HomeStep } from '../../receiver/session/home-agent.js';
import { CLOSE } from '../../shared/wire/close-codes.js';
import { MIB } from '../../shared/units.js';
import { canRunLab, sleep, WHY_NO_LAB } from '../e2e/lab.js';
import { HomeLab, writeBlocks } from './home-lab.js';

const RESUME_AFTER_MS = 4_000;

let home: HomeLab | null = null;
let writer: NodeJS.Timeout | undefined;
afterEach(async () => {
  clearInterval(writer);
  await home?.lab.cleanUp();
  home = null;
});

async function setUp(withHooks: boolean, disks = [64 * MIB]): Promise<HomeLab> {
  // The hooks write what they did into a file that the test makes known by the environment.
  const path = `/dev/shm/afterimage-hooks-${process.pid}-${Math.random().toString(36).slice(2)}`;
  const failover = {
    preShutdown: [`echo stop >> ${path}`, `test ! -e ${path}.fail`],
    resume: [`echo resume >> ${path}`],
    resumeAfter: `${RESUME_AFTER_MS}ms`,
  };
  const h = await HomeLab.open({ disks, agent: withHooks ? { failover } : {} });
  h.lab.undo(() => {
    for (const p of [path, `${path}.fail`]) rmSync(p, { force: true });
  });
  hooks = path;
  home = h;
  await h.setUp();
  return h;
}
let hooks = '';
const ran = (): string => (existsSync(hooks) ? readFileSync(hooks, 'utf8').trim().split('\n').join(' ') : '');

const cut = (h: HomeLab, steps: HomeStep[] = []) =>
  h.homeAgents.finalCut(h.machine, {
    hookTimeoutMs: 10_000,
    signal: AbortSignal.timeout(60_000),
    onStep: (step) => void steps.push(step),
  });

const startWriter = (h: HomeLab): void => {
  let block = 0;
  writer = setInterval(() => writeBlocks(h.disk(0), [block++ % 1000]), 50);
};

describe.skipIf(!canRunLab)(`final cut (${WHY_NO_LAB})`, () => {
  it(
    'shuts down, proves that nothing is written, hands over; the workload stays down until it may replicate',
    { timeout: 120_000 },
    async () => {
      const h = await setUp(true);
      writeBlocks(h.disk(0), [1, 2, 3]);
      const steps: HomeStep[] = [];
      const { point } = await cut(h, steps);
      expect(ran()).toBe('stop');
      expect([...new Set(steps.map((s) => s.step))]).toEqual([
        'pre-shutdown hook',
        'last cut',
        'proof that nothing is written',
      ]);
      // The end of the hook is told although it printed nothing: its time must not count as the cut's.
      expect(steps.filter((s) => s.step === 'pre-shutdown hook').map((s) => s.detail)).toContain('done');
      const status = await h.lab.status();
      expect(status.finalCut).toMatch(/shut down for a planned failover/);
      await h.lab.restore(point);
      expect(h.lab.differences(0)).toEqual([]);
      await expect(h.lab.syncNow()).rejects.toThrow('planned failover');
      // Killed, and told that it was failed over: never resumed.
      await h.failOver();
      await h.lab.agent?.kill();
      await h.lab.startAgent();
      await h.lab.until('told', (s) => s.state === 'FailedOver');
      expect(ran()).toBe('stop');
      // Amid a planned failover, as after a lost connection: not resumed either.
      await h.decide({ mode: 'replicate', generation: 2 }, 'PlannedFailoverInitiated');
      await h.reconnect();
      await h.lab.until('held', (s) => s.receiver.mode === 'replicate');
      expect(ran()).toBe('stop');
      // The failover was given up.
      await h.homeAgents.resumeHome(h.machine);
      expect(ran()).toBe('stop resume');
      expect((await h.lab.status()).finalCut).toBeNull();
    },
  );

  it(
    'a writer that goes on, a hook that fails, a receiver that dies: not handed over, and resumed once',
    { timeout: 120_000 },
    async () => {
      const h = await setUp(true);
      startWriter(h);
      await expect(cut(h)).rejects.toThrow(/still being written/);
      expect(ran()).toBe('stop resume');
      clearInterval(writer);
      writeFileSync(`${hooks}.fail`, '');
      await expect(cut(h)).rejects.toThrow(/pre-shutdown hook: .* failed: exit code 1/);
      expect(ran()).toBe('stop resume stop resume');
      writeFileSync(hooks, '');
      const { unlinkSync } = await import('node:fs');
      unlinkSync(`${hooks}.fail`);
      // After the hand-over the connection is lost: it may run elsewhere, so nothing is done until the receiver says that it doesn't.
      await cut(h);
      await h.homeAgents.disconnect(h.machine, CLOSE.goingAway, 'the receiver stops');
      await h.lab.until('replicating and resumed', (s) => s.receiver.connected && s.finalCut === null);
      expect(ran()).toBe('stop resume');
      const { point } = await h.lab.syncNow();
      await h.lab.restore(point);
      expect(h.lab.differences(0)).toEqual([]);
    },
  );

  it(
    'a session that is lost amid it: resumed when no receiver answers, and not when one says that the machine was failed over',
    { timeout: 120_000 },
    async () => {
      const h = await setUp(true);
      // The proof fails again and again meanwhile.
      startWriter(h);
      const stopped = async (): Promise<void> => {
        const cutting = cut(h);
        cutting.catch(() => undefined);
        await expect.poll(ran, { timeout: 20_000 }).toBe('stop');
      };
      await stopped();
      await h.stopReceiver();
      await sleep(RESUME_AFTER_MS / 2);
      expect(ran()).toBe('stop');
      await expect.poll(ran, { timeout: 4 * RESUME_AFTER_MS }).toBe('stop resume');
      expect((await h.lab.status()).finalCut).toBeNull();

      writeFileSync(hooks, '');
      await h.startReceiver();
      await h.lab.until('replicating', (s) => s.receiver.mode === 'replicate' && s.state === 'Protected');
      await stopped();
      await h.failOver();
      await h.lab.until('told', (s) => s.state === 'FailedOver');
      await sleep(2 * RESUME_AFTER_MS);
      expect(ran()).toBe('stop');
      // The next process knows of it by the note alone, and hears it before it does anything.
      await h.lab.agent?.kill();
      await h.lab.startAgent();
      await h.lab.until('told again', (s) => s.state === 'FailedOver');
      await sleep(2 * RESUME_AFTER_MS);
      expect(ran()).toBe('stop');
      // On its way home; one that was told only that, and loses its receiver again.
      await h.decide({ mode: 'restore', reason: 'failback' });
      await h.lab.agent?.kill();
      await h.lab.startAgent();
      await h.lab.until('restoring', (s) => s.receiver.mode === 'restore');
      await h.stopReceiver();
      await sleep(2 * RESUME_AFTER_MS);
      expect(ran()).toBe('stop');
      await h.startReceiver();
      await h.decide({ mode: 'replicate', generation: 2 });
      await h.reconnect();
      await expect.poll(ran, { timeout: 20_000 }).toBe('stop resume');
    },
  );

  it(
    'an agent killed at any step: its workload is resumed once, as soon as it may replicate',
    { timeout: 180_000 },
    async () => {
      const h = await setUp(true);
      const KILLS = {
        'agent.final-cut.noted': 'resume',
        'agent.final-cut.stopped': 'stop resume',
        'agent.final-cut.proven': 'stop resume',
        'agent.final-cut.handed-over': 'stop resume',
      };
      for (const [name, expected] of Object.entries(KILLS)) {
        writeFileSync(hooks, '');
        await h.lab.agent?.stop();
        const agent = await h.lab.startAgent({ AFTERIMAGE_FAILPOINT: name });
        await h.lab.until('replicating', (s) => s.receiver.mode === 'replicate' && s.state === 'Protected');
        const cutting = cut(h);
        // Handed over or not: the agent is gone before it can be asked.
        cutting.catch(() => undefined);
        expect((await agent.ended).signal, name).toBe('SIGKILL');
        await cutting.catch(() => undefined);
        await h.lab.startAgent();
        await h.lab.until(`${name}: resumed`, (s) => s.receiver.mode === 'replicate' && s.finalCut === null);
        expect(ran(), name).toBe(expected);
      }
      const { point } = await h.lab.syncNow();
      await h.lab.restore(point);
      expect(h.lab.differences(0)).toEqual([]);
    },
  );

  it(
    'an agent killed as soon as it has kept its new generation: it goes on under that',
    { timeout: 120_000 },
    async () => {
      const h = await setUp(false);
      await h.failOver();
      await h.lab.agent?.kill();
      const agent = await h.lab.startAgent({ AFTERIMAGE_FAILPOINT: 'agent.generation.kept' });
      await h.decide({ mode: 'replicate', generation: 2 });
      await h.reconnect();
      expect((await agent.ended).signal).toBe('SIGKILL');
      await h.lab.startAgent();
      const status = await h.lab.until(
        'replicating',
        (s) => s.receiver.mode === 'replicate' && s.state === 'Protected',
      );
      expect(status.machine.generation).toBe(2);
    },
  );

  it('a disk that is away: refused before anything is stopped; had when it is back', { timeout: 120_000 }, async () => {
    const h = await setUp(true, [16 * MIB, 8 * MIB]);
    const { manifest } = await MachineReader.open(h.store, h.machine);
    const content = h.takeAway(1);
    const away = await h.lab.until(
      'away',
      (s) => s.receiver.mode === 'replicate' && s.disks.some((d) => d.trackerReason === 'it is not open'),
    );
    const { device } = h.disk(1);
    await expect(cut(h)).rejects.toMatchObject({
      code: 'final-cut-failed',
      message: expect.stringMatching(new RegExp(`disk ${device} can't be copied: `)) as string,
      hint: expect.stringMatching(/Nothing was switched; the workload at home runs on/) as string,
    });
    expect(ran()).toBe('');
    expect((await h.lab.status()).finalCut).toBeNull();
    // Points of the other disk go on, and nothing says that the machine is anywhere else.
    writeBlocks(h.disk(0), [1, 2, 3]);
    await h.lab.until('a point', (s) => s.pointsCommitted > away.pointsCommitted);
    const after = (await MachineReader.open(h.store, h.machine)).manifest;
    expect(after).toMatchObject({ generation: manifest.generation, epoch: expect.any(Number) as number });
    expect(after.tail.points.at(-1)?.without).toEqual([h.lab.diskIds[1]]);
    h.bringBack(1, content);
    await h.lab.untilProtected();
    const { point } = await cut(h);
    expect(ran()).toBe('stop');
    const last = (await MachineReader.open(h.store, h.machine)).manifest.tail.points.at(-1);
    expect(last).toMatchObject({ number: point, disks: [{}, {}] });
    expect(last?.without).toBeUndefined();
  });

  it('without a hook: the proof decides, and says what is missing', { timeout: 120_000 }, async () => {
    const h = await setUp(false);
    startWriter(h);
    await expect(cut(h)).rejects.toThrow(/No pre-shutdown hook is configured/);
    clearInterval(writer);
    const steps: HomeStep[] = [];
    await cut(h, steps);
    expect(steps[0]?.detail).toMatch(/none is configured/);
    expect(existsSync(join(h.lab.folder, 'agent', 'final-cut.json'))).toBe(false);
  });
});
