/**
 * Failover asked at a receiver that has not the machine's agent: two receivers as processes, a real agent, a workload that knows what it wrote.
 */
import { afterEach, describe, expect, it } from 'vitest';
import { canRunLab, MACHINE_NAME, sleep, WHY_NO_LAB } from '../e2e/lab.js';
import { until } from './fleet-lab.js';
import { Pair } from './pair.js';

const LIMIT_MS = 480_000;

let pair: Pair | null = null;
afterEach(async () => {
  await pair?.site.cleanUp();
  pair = null;
}, 60_000);

describe.skipIf(!canRunLab)(`failover at a receiver without the agent (${WHY_NO_LAB})`, () => {
  it(
    'calls the agent over for a planned failover; only the host of the copy can bring it home, and the other says so',
    async () => {
      const at = (pair = await Pair.open({ wanted: 'a' }));
      const { site, b } = at;
      const { home } = site;
      await at.join();
      await home.more(20);
      const before = await site.view(b);
      expect(before.homeAt?.address).toBe(at.addresses.a);

      // A copy on the side is nothing that the agent has a part in: it stays where it is.
      await site.operate('test-failover', [], b);
      expect(home.history.within(await site.disk('test', b))).toBeGreaterThan(0);
      await site.operate('cleanup', [], b);
      expect(at.verdicts()).toHaveLength(1);

      const planned = await site.operate('failover', ['--planned', '--commit', '--yes'], b);
      const source = planned.tasks.find(({ name }) => name === 'Shut down source');
      expect(source?.detail).toMatch(/its agent was called over from receiver a; last cut: point \d+; nothing is lost/);
      expect(await at.owner()).toBe(at.ids.b);
      expect(await at.metric(site.first, 'called_away_total')).toBe(1);
      const copy = await site.disk('failover', b);
      expect(home.history.within(copy)).toBe(home.history.acknowledged);
      const writer = await site.startCopyWriter(home.history, 'failover', b);
      await site.expectCopyWhole(b);
      // Nothing was compared for the way over.
      expect(at.verdicts()).toEqual(['full', 'delta']);

      for (const verb of ['reprotect', 'failback']) {
        const { code, stderr } = await site.tryAfterimage([
          verb,
          MACHINE_NAME,
          ...(verb === 'failback' ? ['--yes'] : []),
        ]);
        expect([code, stderr]).toEqual([1, expect.stringContaining(`receiver b (${at.addresses.b})`)]);
      }
      // Home's agent is refused wherever it asks; reprotect lets it come to b.
      await site.operate('reprotect', [], b);
      await writer.more(5);
      await writer.pause();
      // The agent's hook may start the workload at home before the command returns: it goes on with what the copy has.
      home.history = writer.history.upTo(writer.history.acknowledged);
      await site.operate('failback', ['--force', '--yes'], b);
      site.copy = null;
      await writer.kill();
      home.start();
      await site.expectHomeWhole();
      // It belongs to a, where it goes when nothing binds it to b any more.
      await at.untilAt('a');
      expect(at.verdicts().filter((verdict) => !['full', 'delta', 'nothing'].includes(verdict))).toEqual([]);
    },
    LIMIT_MS,
  );

  it(
    'fails over without a plan while the agent replicates elsewhere: it is cut off there, and goes on when the failover is cancelled',
    async () => {
      const at = (pair = await Pair.open({ wanted: 'a' }));
      const { site, b } = at;
      await at.join();
      await site.home.more(20);
      await site.operate('failover', ['--yes'], b);
      await site.lab.until('refused', (s) => !s.receiver.connected && /failed over/.test(s.receiver.reason), 60_000);
      await site.startCopyWriter(site.home.history, 'failover', b);
      await site.expectCopyWhole(b);
      await site.copy?.kill();
      site.copy = null;
      const refused = await site.tryAfterimage(['cancel', MACHINE_NAME, '--yes']);
      expect([refused.code, refused.stderr]).toEqual([1, expect.stringContaining(`receiver b (${at.addresses.b})`)]);
      await site.operate('cancel', ['--yes'], b);
      await site.expectHomeWhole();
    },
    LIMIT_MS,
  );

  it(
    'a planned failover that is lost with its receiver: cancelled at the other, home goes on, and what comes back leaves it so',
    async () => {
      const at = (pair = await Pair.open({ wanted: 'a' }));
      const { site, b } = at;
      await at.join({ AFTERIMAGE_FAILPOINT: 'failover.planned-failover.process-latest.begin' });
      await site.home.more(20);
      await site.operate('failover', ['--planned', '--yes', '--no-wait'], b);
      await until('receiver b is dead', () => b.daemon?.end !== null);
      const stopped = site.home.history.acknowledged;
      const { job } = await site.recovery();
      expect(job).toMatchObject({ operation: 'planned-failover', receiver: at.ids.b, data: { sourceDown: true } });
      // Its workload stays down, also when its agent has come back to a: as far as anybody knows the failover goes on.
      await until('its agent is at a', async () =>
        (await at.status(site.first)).machines.some(({ connected }) => connected),
      );
      await sleep(2_000);
      expect(site.home.history.acknowledged).toBe(stopped);
      const cancel = await site.operate('cancel', ['--yes']);
      expect(cancel.tasks.map(({ state }) => state)).toEqual(['Succeeded', 'Skipped', 'Succeeded', 'Succeeded']);
      const { jobs } = await site.recovery();
      expect(jobs.map(({ operation, state, error }) => [operation, state, error?.code])).toEqual([
        ['cancel', 'Succeeded', undefined],
        ['planned-failover', 'Failed', 'receiver-gone'],
      ]);
      await site.home.more(1, 60_000);
      await site.expectHomeWhole();
      await b.start();
      await site.home.more(10);
      expect((await site.recovery()).jobs[0]?.operation).toBe('cancel');
      await site.expectHomeWhole();
    },
    LIMIT_MS,
  );
});
