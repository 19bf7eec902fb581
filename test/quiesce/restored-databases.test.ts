/**
 * Databases as they come back: PostgreSQL and MariaDB under load while points of their machine are made. Of each point the disks are restored and the
 * servers started on them. One instant must explain what both hold, on both disks: what was acknowledged before it is there, what was begun after it is not.
 * `AFTERIMAGE_DATABASES=all`: every layout, more points.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { RecoveryPoint } from '../../receiver/catalog/manifest.js';
import { canRunLab } from '../e2e/lab.js';
import { DatabaseMachine, type Layout } from './load/machine.js';
import { instantOf, longestStallMs, type Notes } from './load/notes.js';
import { position, recoveryOf } from './load/recovery.js';
import { hasMariadb, hasPostgres } from './servers.js';

const ALL = process.env['AFTERIMAGE_DATABASES'] === 'all';
if (!ALL) console.log('skipped: more layouts of databases on disks run with AFTERIMAGE_DATABASES=all');

/** Of each consistency. */
const POINTS = ALL ? 4 : 2;
/** The time of a cut is read beside it: a process that waits for a processor reads it late. */
const CLOCK_SLACK_MS = 3_000;

const LAYOUTS: readonly Layout[] = [
  { what: 'data on one disk, log on the other', fsTypes: ['ext4', 'xfs'], postgres: [0, 1], mariadb: [1, 0] },
  { what: 'the same with filesystems swapped', fsTypes: ['xfs', 'ext4'], postgres: [0, 1], mariadb: [1, 0] },
  { what: 'PostgreSQL on ext4, MariaDB on xfs', fsTypes: ['ext4', 'xfs'], postgres: [0, 0], mariadb: [1, 1] },
  { what: 'PostgreSQL on xfs, MariaDB on ext4', fsTypes: ['xfs', 'ext4'], postgres: [0, 0], mariadb: [1, 1] },
];

describe.skipIf(!canRunLab || !hasPostgres || !hasMariadb).each(ALL ? LAYOUTS : LAYOUTS.slice(0, 1))(
  'restored databases: $what',
  { timeout: 600_000 },
  (layout) => {
    let machine: DatabaseMachine;
    let notes: Notes;
    const points: RecoveryPoint[] = [];
    const images = new Map<number, string[]>();

    beforeAll(async () => {
      machine = await DatabaseMachine.start(layout);
      await machine.startClients();
      const numbers: number[] = [];
      for (let i = 0; i < POINTS; i++) numbers.push(await machine.crashPoint(), await machine.applicationPoint());
      notes = await machine.stopClients();
      points.push(...(await machine.lab.points()).filter(({ number }) => numbers.includes(number)).reverse());
      await machine.lab.agent?.stop();
      await machine.stopServers();
      for (const { number } of points) images.set(number, await machine.restore(number));
    }, 600_000);
    afterAll(() => machine.cleanUp());

    const imagesOf = (point: RecoveryPoint | undefined): string[] => images.get(point?.number ?? 0) ?? [];

    it('each point holds what was acknowledged before its cut and nothing that was begun after it', async () => {
      expect(points.map(({ consistency }) => consistency)).toEqual(
        Array.from({ length: POINTS }, () => ['crash', 'application']).flat(),
      );
      for (const point of points) {
        const { instant, recovery } = await machine.mounted(imagesOf(point), async () => ({
          instant: instantOf(notes, {
            ...(await machine.recovered()),
            // Quiesced it fits the others; else nobody promises anything of it.
            ...(point.consistency === 'application' ? { myisam: await machine.plainTable() } : {}),
          }),
          recovery: recoveryOf(machine.postgres.log, machine.mariadb.log),
        }));
        const where = `point ${point.number} (${point.consistency})`;
        if (typeof instant === 'string') throw new Error(`${where}: ${instant}`);
        expect(point.cutAtMs, where).toBeGreaterThan(instant.afterMs - CLOCK_SLACK_MS);
        expect(point.cutAtMs, where).toBeLessThan(instant.beforeMs + CLOCK_SLACK_MS);
        const asked = machine.asked.get(point.number);
        if (asked === undefined) throw new Error(`${where} was not asked for`);
        const { freezeMs } = point.stats;
        const heldMs = point.quiesce?.heldMs ?? 0;
        if (point.consistency === 'application') {
          // Recovery begins at the checkpoints that were made for the point, which are later than its request.
          const said = (point.quiesce?.applications ?? []).map(({ detail }) => detail).join('\n');
          const [, checkpoint = '', mark = ''] = /PostgreSQL.*checkpoint at (\S+);.* at (\S+)/.exec(said) ?? [];
          expect(position(recovery.postgres.from), where).toBeGreaterThanOrEqual(position(checkpoint));
          expect(position(checkpoint), where).toBeGreaterThanOrEqual(position(asked.logEnds.postgres));
          expect(position(recovery.postgres.to), where).toBeGreaterThanOrEqual(position(mark));
          const [, innodb] = /MariaDB.*checkpoint at (\d+)/.exec(said) ?? [];
          expect(recovery.mariadb.from, where).toBeGreaterThanOrEqual(Number(innodb));
          expect(Number(innodb), where).toBeGreaterThanOrEqual(Number(asked.logEnds.mariadb));
          expect(freezeMs, where).toBeGreaterThan(0);
          expect(heldMs, where).toBeGreaterThan(freezeMs);
        } else expect(freezeMs, where).toBe(0);
        const stalls = Object.entries(notes).map(
          ([kind, of]) => `${kind} ${longestStallMs(of, asked.fromMs, asked.toMs).toFixed(0)} ms`,
        );
        console.log(
          `${where}: frozen ${freezeMs.toFixed(0)} ms, commits held back ${heldMs} ms; longest stall of a client: ${stalls.join(', ')}; ` +
            `log recovered: ${recovery.postgres.bytes} and ${recovery.mariadb.bytes} bytes`,
        );
      }
    });

    it('disks of different points are found not to fit each other', async () => {
      const [first, last] = [imagesOf(points[0]), imagesOf(points.at(-1))];
      for (const old of [0, 1]) {
        const mixed = last.map((image, disk) => (disk === old ? (first[disk] ?? '') : image));
        const held = await machine.mounted(mixed, () => machine.recovered());
        expect(instantOf(notes, held), `disk ${old} is older`).toBeTypeOf('string');
        for (const server of ['postgres', 'mariadb'] as const) {
          const [data, log] = layout[server];
          // Data that is newer than its log can't be made whole.
          if (data !== log && log === old)
            expect(instantOf(notes, { [server]: held[server] }), server).toBeTypeOf('string');
        }
      }
    });
  },
);
