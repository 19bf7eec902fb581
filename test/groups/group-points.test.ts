/**
 * Two machines in one group, each with a database of its own, and money that moves between the two: every point of the group keeps the sum.
 */
import { afterEach, describe, expect, it } from 'vitest';
import { MIB } from '../../shared/units.js';
import { canRunLab, sleep, WHY_NO_LAB } from '../e2e/lab.js';
import { hasPostgres } from '../quiesce/servers.js';
import { openBank, problemsOf, restoredBooks, Transfers } from './bank.js';
import { GroupLab } from './group-lab.js';

const POINTS = 4;
const LIMIT_MS = 600_000;

describe.skipIf(!canRunLab || !hasPostgres)(`points of a group (${WHY_NO_LAB}, PostgreSQL)`, () => {
  let lab: GroupLab | null = null;
  afterEach(async () => {
    await lab?.cleanUp();
    lab = null;
  }, 60_000);

  const until = async (what: string, condition: () => boolean): Promise<void> => {
    const endMs = performance.now() + 60_000;
    while (!condition()) {
      if (performance.now() > endMs) throw new Error(`not in time: ${what}`);
      await sleep(10);
    }
  };

  it(
    'are made by schedule, by the receiver that has the agents of all',
    async () => {
      lab = await GroupLab.open(64 * MIB);
      for (const machine of lab.machines) machine.mount(0, 'ext4');
      await lab.setUp();
      await lab.define('--every', '1h', '--consistency', 'filesystem');
      const made = lab;
      await lab.web.until('it is made', async () => (await made.points()).points.length > 0, 120_000);
      const { points, incomplete } = await lab.points();
      expect(points).toMatchObject([
        { label: null, members: [{ consistency: 'filesystem' }, { consistency: 'filesystem' }] },
      ]);
      expect(incomplete).toEqual([]);
      const { stdout } = await lab.cli('groups', '--json');
      expect(JSON.parse(stdout)).toMatchObject({
        groups: [
          {
            name: 'shop',
            schedule: { by: 'interval' },
            lastAttempt: { by: 'schedule', reason: '', point: points[0]?.id },
          },
        ],
      });
    },
    LIMIT_MS,
  );

  it(
    'keep the sum of two databases between which money moves; points that each makes for itself do not',
    async () => {
      lab = await GroupLab.open(384 * MIB, (folder) => ({
        applications: { postgresql: [{ socket: `${folder}/side` }] },
      }));
      const { web, db } = lab;
      const transfers = new Transfers(await openBank(web, 'ext4'), await openBank(db, 'xfs'));
      await lab.setUp();
      await lab.define();
      transfers.start();
      for (let i = 0; i < POINTS; i++) {
        const before = transfers.done.size;
        await until('transfers go on', () => transfers.done.size > before + 50 || transfers.failure !== null);
        expect(transfers.failure).toBe(null);
        const done = [...transfers.done];
        const made = await lab.point('--label', `point ${i}`);
        const begun = new Set(transfers.begun);
        expect(made).toMatchObject({ reason: '', label: `point ${i}` });
        const [webPoint, dbPoint] = ['web', 'db'].map((name) => made.members.find((m) => m.name === name)?.point ?? 0);
        const books = [await restoredBooks(web, webPoint ?? 0), await restoredBooks(db, dbPoint ?? 0)] as const;
        expect(problemsOf(...books)).toEqual([]);
        const sent = new Set(books.flatMap((one) => [...one.sent.keys()]));
        const received = new Set(books.flatMap((one) => [...one.received.keys()]));
        // All that was acknowledged before the point was asked for is in it, and nothing that was begun after it was made.
        expect(done.filter((id) => !sent.has(id) || !received.has(id))).toEqual([]);
        expect([...sent].filter((id) => !begun.has(id))).toEqual([]);
      }

      const { points, incomplete } = await lab.points();
      expect(incomplete).toEqual([]);
      expect(points.map(({ label }) => label)).toEqual(['point 3', 'point 2', 'point 1', 'point 0']);
      for (const point of points) {
        expect(point.members.map(({ name, consistency }) => [name, consistency])).toEqual(
          expect.arrayContaining([
            ['web', 'application'],
            ['db', 'application'],
          ]),
        );
        // By the clocks of the machines, which are one here, the cuts lie in the interval that the receiver measured.
        for (const { cutAtMs } of point.members) {
          expect(cutAtMs).toBeGreaterThanOrEqual(point.cutFromMs - 5);
          expect(cutAtMs).toBeLessThanOrEqual(point.cutToMs + 5);
        }
        expect(point.skewMs).toBeLessThanOrEqual(point.frozenMs);
      }
      const [newest] = await web.points();
      expect(newest?.group).toMatchObject({ name: 'shop', point: points[0]?.id, skewMs: points[0]?.skewMs });

      // What the books can see: a cut of web while db goes on, then one of db.
      const point = async (of: typeof web): Promise<number> =>
        (JSON.parse(await of.command('agent', 'point', '--json')) as { point: number }).point;
      const first = await point(web);
      const before = transfers.done.size;
      await until('transfers go on', () => transfers.done.size > before + 50);
      const second = await point(db);
      await transfers.stop();
      const apart = problemsOf(await restoredBooks(web, first), await restoredBooks(db, second)).join('\n');
      expect(apart).toContain('has arrived and was never sent');
      expect(apart).toContain('the sum is');
    },
    LIMIT_MS,
  );
});
