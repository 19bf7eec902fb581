/**
 * A receiver is lost for good amid a job that had changed nothing for good, and may have shut the workload at home down: another one gives the job up,
 * and home goes on. What comes back later leaves it so.
 */
import { setTimeout } from 'node:timers/promises';
import { afterAll, describe, expect, it } from 'vitest';
import { OPERATIONS, type Operation, type Recovery } from '../../receiver/catalog/recovery.js';
import { beginJob, contentOf, endJob, LOST_WITH_RECEIVER } from '../../receiver/failover/jobs.js';
import type { OperationInput } from '../../receiver/failover/operations.js';
import { operationRequestSchema } from '../../receiver/failover/operations.js';
import { afterLostJob } from '../../receiver/failover/states.js';
import { copiesFolder, copiesIn, MACHINE, Process, removeCopiesFolders, World } from './fakes.js';
import { changesOf, perform } from './scenarios.js';

const OTHER = '99999999-2222-4333-8444-000000000002';
const CANCEL = operationRequestSchema.parse({ operation: 'cancel' });

afterAll(removeCopiesFolders);

interface Lost {
  readonly world: World;
  readonly folder: string;
  readonly changes: readonly number[];
  readonly where: string;
}

/** A job whose process dies at this moment (see ProcessOptions), or doesn't. */
async function lose(request: OperationInput, diesAt?: number): Promise<Lost> {
  const world = new World();
  await world.begin();
  const folder = copiesFolder();
  const first = new Process(world, { folder, ...(diesAt === undefined ? {} : { diesAt }) });
  const done = perform(first, request).catch(() => undefined);
  await Promise.race([done, first.died]);
  if (diesAt !== undefined) await setTimeout(2);
  return {
    world,
    folder,
    changes: changesOf(first.log),
    where: `killed at moment ${diesAt ?? 0}: ${first.log.at(-1) ?? ''}`,
  };
}

const isLostBeforeItPassed = (recovery: Recovery | null): boolean =>
  recovery?.job != null && recovery.job.data['passed'] !== true;

const JOBS: readonly OperationInput[] = [
  { operation: 'planned-failover' },
  { operation: 'failover', shutdown: true },
  { operation: 'failover' },
];

describe('a job that is lost with its receiver', () => {
  it.each(JOBS)(
    '$operation (shutdown: $shutdown): its cancel elsewhere lets home go on, wherever it was lost',
    async (request) => {
      const { changes } = await lose(request);
      let lostWithWorkload = 0;
      let lost = 0;
      for (const moment of changes.flatMap((step) => [step * 2, step * 2 + 1])) {
        const { world, folder, where } = await lose(request, moment);
        const before = await world.recovery();
        if (!isLostBeforeItPassed(before)) continue;
        lost++;
        if (!world.home.sourceUp) lostWithWorkload++;
        const second = new Process(world, { folder: copiesFolder(), receiver: OTHER });
        await second.engine.start();
        await perform(second, { operation: 'cancel' });
        const after = await world.recovery();
        expect(after, where).toMatchObject({
          state: 'Protected',
          activeLocation: 'Primary',
          failover: null,
          job: null,
        });
        expect(
          after?.jobs.map(({ operation, state, error }) => [operation, state, error?.code]),
          where,
        ).toEqual([
          ['cancel', 'Succeeded', undefined],
          [request.operation, 'Failed', LOST_WITH_RECEIVER.code],
        ]);
        expect(world.home.sourceUp, where).toBe(true);
        // The lost one comes back, with the job in mind.
        const back = new Process(world, { folder, watches: true });
        await back.engine.start();
        await back.engine.settled(MACHINE);
        expect(await world.recovery(), where).toEqual(after);
        expect(
          [...world.guests.values()].filter((guest) => guest.running),
          where,
        ).toEqual([]);
        expect(copiesIn(folder), where).toEqual([]);
        expect(world.violations, where).toEqual([]);
        await back.engine.stop();
        await second.engine.stop();
      }
      expect(lost).toBeGreaterThan(5);
      if (request.operation === 'planned-failover') expect(lostWithWorkload).toBeGreaterThan(3);
    },
    120_000,
  );

  it('of a receiver that lives: refused, and nothing is changed', async () => {
    const world = new World();
    await world.begin();
    let open = (): void => undefined;
    world.gate = new Promise((resolve) => (open = resolve));
    const first = new Process(world, { folder: copiesFolder(), watches: true });
    await first.engine.start();
    const done = perform(first, { operation: 'failover' });
    while (!first.log.some((what) => what.startsWith('content'))) await setTimeout(2);
    const before = await world.recovery();
    const second = new Process(world, { folder: copiesFolder(), receiver: OTHER });
    await second.engine.start();
    const shown = (await second.engine.view(MACHINE)).allowedOperations.find((a) => a.operation === 'cancel');
    expect(shown?.allowed).toBe(true);
    expect(shown?.reason).toMatch(/asked first whether it lives/);
    await expect(second.engine.begin(MACHINE, CANCEL)).rejects.toThrow(/job failover runs at .*: cancel it there/);
    expect(await world.recovery()).toEqual(before);
    open();
    await done;
    expect(await world.recovery()).toMatchObject({ state: 'UnplannedFailoverCompleted', job: null });
    await second.engine.stop();
    await first.engine.stop();
  });

  it('a cancel that fails leaves home as it is, and can be given again', async () => {
    const { world } = await lose({ operation: 'planned-failover' }, 2 * (await stepOf('final cut')) + 1);
    const second = new Process(world, {
      folder: copiesFolder(),
      receiver: OTHER,
      onStep: (_n, what) => {
        if (what === 'resume home' && world.home.disconnects === 0) {
          world.home.disconnects++;
          throw new Error('no way to the agent');
        }
      },
    });
    await second.engine.start();
    await perform(second, { operation: 'cancel' });
    expect(await world.recovery()).toMatchObject({ state: 'Protected', activeLocation: 'Primary', job: null });
    expect(world.violations).toEqual([]);
    await second.engine.stop();
  });
});

/** The number of the step at which this is done in an undisturbed planned failover. */
async function stepOf(what: string): Promise<number> {
  const world = new World();
  await world.begin();
  const process = new Process(world, { folder: copiesFolder() });
  await perform(process, { operation: 'planned-failover' });
  await process.engine.stop();
  return process.log.indexOf(what);
}

describe('the record of a lost job', () => {
  it.each(OPERATIONS)(
    '%s: ended as failed, where its loss alone would leave the machine',
    async (operation: Operation) => {
      for (const passed of [false, true]) {
        const world = new World();
        await world.begin();
        const process = new Process(world, { folder: copiesFolder() });
        await perform(process, { operation: 'failover' });
        await process.engine.stop();
        const recovery = await world.recovery();
        if (recovery === null) throw new Error('nothing is recorded');
        const begun = beginJob(contentOf(recovery), {
          id: MACHINE,
          receiver: OTHER,
          request: { operation } as never,
          tasks: [],
          nowMs: 1,
          data: { passed },
        });
        const lost = afterLostJob({ ...recovery, ...begun });
        const { jobs, stateReason: _, ...ended } = endJob(begun, 2, LOST_WITH_RECEIVER);
        expect(lost).toMatchObject(ended);
        expect(jobs[0]).toMatchObject({ operation, state: 'Failed', error: { code: 'receiver-gone' } });
      }
    },
  );
});
