/**
 * The receiver is killed (SIGKILL) at the beginning and the end of every task of every operation; each time the next one goes on with the job, which
 * ends as if nothing had happened. `AFTERIMAGE_FAULTS=all` kills everywhere; without it at those tasks after which most is at stake.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import type { Job, Operation } from '../../receiver/catalog/recovery.js';
import { DEFINITIONS } from '../../receiver/failover/operations/index.js';
import { canRunLab, MACHINE_NAME, sleep, WHY_NO_LAB } from '../e2e/lab.js';
import { Site } from './site.js';

const ALL = process.env['AFTERIMAGE_FAULTS'] === 'all';
const LIMIT_MS = ALL ? 900_000 : 240_000;
const REACH_LIMIT_MS = 60_000;

const slug = (name: string): string => name.toLowerCase().replaceAll(' ', '-');
const everywhere = (operation: Operation): string[] =>
  DEFINITIONS[operation].tasks.flatMap(({ name }) => [`${slug(name)}.begin`, `${slug(name)}.end`]);

let site: Site | null = null;
afterEach(async () => {
  await site?.cleanUp();
  site = null;
}, 60_000);

interface Kills {
  readonly operation: Operation;
  readonly command: readonly string[];
  /** Where, when not everywhere. */
  readonly few: readonly string[];
  /** After the kill at a place. */
  readonly then?: Readonly<Record<string, () => Promise<void>>>;
}

/** One job, killed at one place after the other; how it ended. */
async function throughKills(at: Site, { operation, command, few, then = {} }: Kills): Promise<Job> {
  const places = ALL ? everywhere(operation) : few;
  for (const place of places) expect(everywhere(operation)).toContain(place);
  await at.lab.receiver?.kill();
  for (const [i, place] of places.entries()) {
    const daemon = await at.lab.startReceiver({ AFTERIMAGE_FAILPOINT: `failover.${operation}.${place}` });
    if (i === 0) {
      // A planned failover is refused as long as the agent has not found the new receiver.
      if (operation === 'planned-failover') await at.lab.until('connected', (s) => s.receiver.connected);
      // The receiver may be gone before it answers; its job is recorded all the same.
      const [verb = '', ...options] = command;
      const { code, stderr } = await at.tryAfterimage([verb, MACHINE_NAME, ...options, '--no-wait']);
      if ((await at.recovery()).job?.operation !== operation) throw new Error(`not begun: ${code} ${stderr}`);
    }
    const ended = await Promise.race([daemon.ended, sleep(REACH_LIMIT_MS)]);
    const { job, jobs } = await at.recovery();
    expect(ended, `${operation} ${place} was not reached: ${JSON.stringify(job ?? jobs[0])}`).toMatchObject({
      signal: 'SIGKILL',
    });
    await at.expectOneWriter();
    await then[place]?.();
  }
  await at.lab.startReceiver();
  const job = await at.settled();
  expect(job, JSON.stringify(job)).toMatchObject({ operation, state: 'Succeeded' });
  await at.expectOneWriter();
  return job;
}

const copiesOn = (at: Site): string[] => readdirSync(join(at.lab.folder, 'v'));

describe.skipIf(!canRunLab)(`killed at a task (${WHY_NO_LAB})`, () => {
  it(
    'test, cleanup, failover, change of the point, cancel: as if nothing had happened',
    async () => {
      const at = (site = await Site.open());
      const { home, lab } = at;
      await home.more(20);
      const older = (await lab.syncNow()).point;
      await home.more(50);
      await throughKills(at, {
        operation: 'test-failover',
        command: ['test-failover'],
        few: ['prepare-disks.end'],
      });
      const test = await at.startCopyWriter(home.history, 'test');
      await throughKills(at, {
        operation: 'cleanup',
        command: ['cleanup', '--notes', 'fine'],
        few: ['delete-test-virtual-machine.end'],
        then: { 'delete-test-virtual-machine.begin': () => test.kill() },
      });
      await test.kill();
      at.copy = null;
      expect(copiesOn(at)).toEqual([]);
      expect((await lab.points()).every((p) => p.generation === 1)).toBe(true);

      // Home lives and goes on writing all the time: none of it may get into the chain any more.
      await throughKills(at, {
        operation: 'failover',
        command: ['failover', '--yes'],
        few: ['take-over-generation.begin', 'take-over-generation.end', 'start-replication.end'],
      });
      expect(await at.recovery()).toMatchObject({ state: 'UnplannedFailoverCompleted', activeLocation: 'Recovery' });
      const copy = await at.startCopyWriter(home.history);
      await copy.more(100);
      await lab.until('failed over', (s) => !s.receiver.connected && /failed over/.test(s.receiver.reason));
      await at.expectCopyWhole();

      await throughKills(at, {
        operation: 'change-point',
        command: ['change-point', '--point', String(older), '--yes'],
        few: ['end-virtual-machine.end', 'take-over-generation.end'],
        then: { 'end-virtual-machine.end': () => copy.kill() },
      });
      await copy.kill();
      const changed = await at.recovery();
      expect(changed).toMatchObject({ state: 'UnplannedFailoverCompleted', failover: { point: older } });
      expect(copiesOn(at)).toEqual([changed.failover?.id]);
      const again = await at.startCopyWriter(home.history);
      await at.expectCopyWhole();

      await throughKills(at, {
        operation: 'cancel',
        command: ['cancel', '--yes'],
        few: ['give-home-the-right-back.begin', 'give-home-the-right-back.end'],
        then: { 'end-virtual-machine.begin': () => again.kill() },
      });
      await again.kill();
      expect(copiesOn(at)).toEqual([]);
      await at.expectHomeWhole();
    },
    LIMIT_MS,
  );

  it(
    'planned failover, commit, reprotect, failback: as if nothing had happened, and nothing is lost',
    async () => {
      const at = (site = await Site.open());
      const { home } = at;
      await home.more(50);
      await throughKills(at, {
        operation: 'planned-failover',
        command: ['failover', '--planned', '--yes'],
        few: ['shut-down-source.end', 'take-over-generation.end'],
      });
      expect((await at.recovery()).state).toBe('PlannedFailoverCompleted');
      // Its workload was shut down; every line that had landed is there.
      const copy = await at.startCopyWriter(home.history);
      expect(copy.history.within(await at.disk('failover'))).toBeGreaterThanOrEqual(home.history.acknowledged);
      await at.expectCopyWhole();

      await throughKills(at, { operation: 'commit', command: ['commit'], few: ['commit.end'] });
      expect((await at.recovery()).state).toBe('CommitFailoverCompleted');
      await throughKills(at, {
        operation: 'reprotect',
        command: ['reprotect'],
        few: ['prepare-home.end'],
      });
      expect(await at.recovery()).toMatchObject({ state: 'Protected', activeLocation: 'Recovery' });
      await copy.more(50);
      await at.expectCopyWhole();

      // Nobody stops the workload: the disks are taken away from it, and it is told so before it could lose anything.
      await throughKills(at, {
        operation: 'failback',
        command: ['failback', '--force', '--yes'],
        few: ['last-cut.end', 'restore-home.end', 'give-home-the-right-back.end'],
      });
      await copy.kill();
      expect(copiesOn(at)).toEqual([]);
      expect(await at.cameHomeWith()).toBeGreaterThanOrEqual(copy.history.acknowledged);
      await at.expectHomeWhole();
    },
    LIMIT_MS,
  );
});
