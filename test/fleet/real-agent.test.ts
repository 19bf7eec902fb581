/**
 * A real agent, with the kernel's tracking, that goes between receivers: handed over, left by one that is killed, pointed at one that is not ours.
 * Nothing is compared for it, nothing is lost, and one writer follows the other.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { afterEach, describe, expect, it } from 'vitest';
import { loadHead } from '../../receiver/catalog/reader.js';
import { canRunLab, freePort, WHY_NO_LAB } from '../e2e/lab.js';
import { Daemon } from '../e2e/program.js';
import { until } from './fleet-lab.js';
import { Pair } from './pair.js';

const LIMIT_MS = 480_000;

let pair: Pair | null = null;
afterEach(async () => {
  await pair?.site.cleanUp();
  pair = null;
}, 60_000);

const seriesOf = async ({ site }: Pair): Promise<unknown[]> =>
  ((await loadHead(site.store, site.machine))?.disks ?? []).map(({ series }) => series);

/** Every point is good and in its place, and the newest is the disk with all that the workload wrote. */
async function expectWhole({ site }: Pair): Promise<void> {
  const { home, lab } = site;
  await home.more(10);
  await home.pause();
  const { point } = await lab.syncNow();
  const image = await site.restored(point);
  expect(lab.differences(0)).toEqual([]);
  expect(home.history.within(image)).toBeGreaterThanOrEqual(home.history.acknowledged);
  await site.expectPointsGood();
  const numbers = (await lab.points()).map((p) => p.number).reverse();
  expect(numbers).toEqual(numbers.map((_, i) => i + 1));
  home.start();
}

/** A receiver with a CA and a store of its own; resolves to its address. */
async function foreignReceiver({ site: { lab } }: Pair, port: number): Promise<string> {
  const folder = join(lab.folder, 'foreign');
  const [config, log] = [`${folder}.yaml`, `${folder}.log`];
  const keys = {
    ...{ store: `file:${folder}-store`, stateDir: folder, controlSocket: `${folder}.sock` },
    ...{ listen: { host: '127.0.0.1', port }, status: { host: '127.0.0.1', port: await freePort() } },
  };
  writeFileSync(config, stringify(keys));
  const daemon = new Daemon('receiver', ['--config', config, 'run'], log, {});
  lab.undo(async () => {
    await daemon.stop();
  });
  await until('it is ready', () => readFileSync(log, 'utf8').includes('receiver is ready'));
  return `127.0.0.1:${port}`;
}

const isRefused = (of: Pair, address: string): boolean =>
  of.logOf('agent').includes(`what answers at ${address} is not the receiver that this machine was enrolled with`);

describe.skipIf(!canRunLab)(`a real agent between receivers (${WHY_NO_LAB})`, () => {
  it(
    'is handed over when one joins, goes to another when its own is killed, and back when that one is stopped',
    async () => {
      const at = (pair = await Pair.open({ wanted: 'b' }));
      const { site } = at;
      await site.home.more(20);
      const series = await seriesOf(at);
      expect(await at.owner()).toBe(at.ids.a);
      await at.join();
      await at.untilAt('b');
      expect(at.logOf('a')).toContain('agent is sent to another receiver');
      for (const [receiver, owned, redirects, takeovers] of [
        [site.first, 0, 1, 0],
        [at.b, 1, 0, 1],
      ] as const) {
        expect(await at.metric(receiver, 'machines_owned')).toBe(owned);
        expect(await at.metric(receiver, 'redirects_total')).toBe(redirects);
        expect(await at.metric(receiver, 'takeovers_total')).toBe(takeovers);
        expect(await at.metric(receiver, 'receivers{liveness="live"}')).toBe(2);
        expect(await at.metric(receiver, 'last_look_timestamp_seconds')).toBeGreaterThan(1_600_000_000);
      }
      await expectWhole(at);
      const epoch = (await loadHead(site.store, site.machine))?.epoch ?? 0;

      await at.b.daemon?.kill();
      await at.untilAt('a');
      expect((await loadHead(site.store, site.machine))?.epoch).toBeGreaterThan(epoch);
      await expectWhole(at);

      await at.b.start();
      await site.lab.receiver?.stop();
      await at.untilAt('b');
      await expectWhole(at);
      // Tracking went on through all of it: one first copy, then nothing but what had changed.
      expect(at.verdicts()).toEqual(['full', 'delta', 'delta', 'delta']);
      expect(await seriesOf(at)).toEqual(series);
      const { lastFallback } = (await site.lab.status()) as { lastFallback?: unknown };
      expect(lastFallback ?? null).toBeNull();
    },
    LIMIT_MS,
  );

  it(
    'refuses a receiver of another CA, in its list or at the end of a redirect, says why, and goes on with those that it knows',
    async () => {
      const foreignPort = await freePort();
      const address = `127.0.0.1:${foreignPort}`;
      const at = (pair = await Pair.open({ wanted: 'b', advertisedB: address }));
      const { lab } = at.site;
      await foreignReceiver(at, foreignPort);

      // The one that it was at last, as its file says.
      await lab.agent?.stop();
      const path = join(lab.folder, 'agent', 'fleet.json');
      const kept = JSON.parse(readFileSync(path, 'utf8')) as object;
      const foreign = { id: at.ids.b, name: 'foreign', addresses: [address] };
      writeFileSync(path, JSON.stringify({ ...kept, receivers: [foreign], last: address }));
      await lab.startAgent();
      await lab.untilProtected();
      expect(isRefused(at, address)).toBe(true);
      await at.untilAt('a');

      // b says that it is reached there: the machine belongs to it, and a sends the agent.
      const before = at.logOf('agent').length;
      await at.join();
      await until('it was sent', () => at.logOf('a').includes('agent is sent to another receiver'));
      await until('it has refused', () =>
        at.logOf('agent').slice(before).includes(`what answers at ${address} is not`),
      );
      await at.untilAt('a');
      await expectWhole(at);
      expect(
        at
          .verdicts()
          .slice(1)
          .filter((verdict) => verdict !== 'delta'),
      ).toEqual([]);
      const foreignLog = readFileSync(join(lab.folder, 'foreign.log'), 'utf8');
      expect(foreignLog).not.toContain('agent connected');
    },
    LIMIT_MS,
  );
});
