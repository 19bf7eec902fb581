/** A store that fails, operators who ask at once, jobs that are cancelled: nothing is ever half done. */
import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { readAnswer, writeChallenge } from '../../receiver/catalog/challenge.js';
import { operationRequestSchema } from '../../receiver/failover/operations.js';
import { Answerer } from '../../receiver/failover/ownership.js';
import { MemoryStore } from '../helpers/memory-store.js';
import { copiesFolder, ioError, MACHINE, plainClock, Process, removeCopiesFolders, World } from './fakes.js';
import { perform, run, SCENARIOS } from './scenarios.js';

afterEach(removeCopiesFolders);
afterAll(removeCopiesFolders);

async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) await setTimeout(2);
}

const isStore = (what: string): boolean => /^(create|get|list|folders|head|read|open) /.test(what);

describe('a store that fails once', () => {
  it.each(SCENARIOS)(
    '$name ends the same',
    async (scenario) => {
      const undisturbed = await run(scenario);
      const begun = undisturbed.log.findIndex((what) => what.includes('/recovery/') && what.startsWith('create'));
      for (const [step, what] of undisturbed.log.entries()) {
        // Before the job is recorded the operator sees the error and asks again.
        if (step <= begun || !isStore(what)) continue;
        for (const moment of what.startsWith('create') ? (['before', 'after'] as const) : (['before'] as const)) {
          let left = 1;
          const fail = (number: number): void => {
            if (number === step && left-- > 0) throw ioError(what);
          };
          const { end, world } = await run(scenario, moment === 'before' ? { onStep: fail } : { onDone: fail });
          expect(end, `${moment} step ${step}: ${what}`).toEqual(undisturbed.end);
          expect(world.violations, `${moment} step ${step}: ${what}`).toEqual([]);
          removeCopiesFolders();
        }
      }
    },
    120_000,
  );
});

describe('a store that fails for long', () => {
  it.each(SCENARIOS)(
    '$name: ends with its reason or well, and can be repeated or cancelled',
    async (scenario) => {
      const undisturbed = await run(scenario);
      const begun = undisturbed.log.findIndex((what) => what.includes('/recovery/') && what.startsWith('create'));
      for (const step of undisturbed.changes.filter((n) => n > begun)) {
        let failures = 0;
        const { end, world, log } = await run(scenario, {
          // Longer than a task is tried for: backoffs of up to 5 s, twenty of them are more than a minute.
          onStep: (number, what) => {
            if (number >= step && isStore(what) && failures++ < 25) throw ioError(what);
          },
        });
        const where = `from step ${step}: ${log[step] ?? ''}`;
        expect(world.violations, where).toEqual([]);
        expect(end['jobRunning'], where).toBe(null);
        expect(['Succeeded', 'Failed'], where).toContain(end['jobState']);
        const folder = copiesFolder();
        const process = new Process(world, { folder });
        const view = await process.engine.view(MACHINE);
        if (end['jobState'] === 'Failed' && undisturbed.end['jobState'] === 'Succeeded') {
          const allowed = view.allowedOperations.filter((a) => a.allowed).map((a) => a.operation);
          expect(
            allowed.some((o) => o === scenario.request.operation || o === 'cancel'),
            `${where}: ${allowed.join(' ')}`,
          ).toBe(true);
        }
        removeCopiesFolders();
      }
    },
    120_000,
  );
});

describe('operators', () => {
  const begin = (process: Process, operation: 'failover' | 'test-failover' | 'cancel') =>
    process.engine.begin(MACHINE, operationRequestSchema.parse({ operation }));

  it('of two that ask at once one begins, the other is told what runs', async () => {
    const world = new World();
    await world.begin();
    const process = new Process(world, { folder: copiesFolder() });
    const results = await Promise.allSettled([begin(process, 'failover'), begin(process, 'test-failover')]);
    const refused = results.filter((r) => r.status === 'rejected');
    expect(refused).toHaveLength(1);
    expect(String(refused[0]?.reason)).toMatch(/(failover|test-failover) (came first|is running)/);
    await process.engine.settled(MACHINE);
    expect((await world.recovery())?.jobs).toHaveLength(1);
    expect(world.violations).toEqual([]);
    await process.engine.stop();
  });

  it('a job that is cancelled before its point of no return leaves what was', async () => {
    const world = new World();
    await world.begin();
    const process = new Process(world, { folder: copiesFolder() });
    let open = (): void => undefined;
    world.gate = new Promise((resolve) => (open = resolve));
    await begin(process, 'failover');
    await until(() => process.log.includes('content 3'));
    const reads = process.log.length;
    const cancelled = begin(process, 'cancel');
    // It has looked at what runs, and told the job.
    await until(() => process.log.length >= reads + 4);
    await setTimeout(20);
    open();
    await cancelled;
    const recovery = await world.recovery();
    expect(recovery?.jobs[0]?.state).toBe('Cancelled');
    expect(recovery).toMatchObject({
      state: 'Protected',
      activeLocation: 'Primary',
      failover: null,
      home: { mode: 'replicate' },
    });
    expect((await world.manifest()).generation).toBe(1);
    expect(world.effects).toEqual([]);
    await process.engine.stop();
  });

  it('a boot check that fails: the test stays to be looked at, the failover stands and is not committed by itself', async () => {
    const world = new World();
    await world.begin();
    world.bootPasses = false;
    const process = new Process(world, { folder: copiesFolder() });
    const bootCheck = { type: 'serial' as const, text: 'x', timeoutMs: 1 };
    await perform(process, { operation: 'test-failover', bootCheck });
    expect((await world.recovery())?.testFailover).toMatchObject({
      state: 'TestFailoverFailed',
      instance: { bootCheck: { passed: false } },
    });
    await perform(process, { operation: 'cleanup' });
    expect((await world.recovery())?.jobs[0]?.data['drillSucceeded']).toBe(false);
    await perform(process, { operation: 'failover', bootCheck, commit: true });
    expect(await world.recovery()).toMatchObject({
      state: 'UnplannedFailoverCompleted',
      failover: { bootCheck: { passed: false } },
    });
    expect((await world.recovery())?.stateReason).toMatch(/boot check did not pass/);
    await process.engine.stop();
  });

  it('a guest that does not power off: failback fails, nothing has changed', async () => {
    const world = new World();
    await world.begin();
    const process = new Process(world, { folder: copiesFolder() });
    await perform(process, { operation: 'failover', commit: true });
    world.home.state = 'restoring';
    world.shutdownFails = true;
    await perform(process, { operation: 'failback' });
    const recovery = await world.recovery();
    expect(recovery?.jobs[0]).toMatchObject({ state: 'Failed', error: { message: 'it does not power off' } });
    expect(recovery).toMatchObject({ state: 'CommitFailoverCompleted', activeLocation: 'Recovery' });
    expect([...world.guests.values()].filter((g) => g.running)).toHaveLength(1);
    world.shutdownFails = false;
    await perform(process, { operation: 'failback' });
    expect(await world.recovery()).toMatchObject({ state: 'Protected', activeLocation: 'Primary', failover: null });
    expect(world.violations).toEqual([]);
    await process.engine.stop();
  });

  it('each of several who ask whether a receiver lives is answered, also when somebody else was asked last', async () => {
    const store = new MemoryStore();
    const [self, other] = ['99999999-2222-4333-8444-000000000001', '99999999-2222-4333-8444-000000000002'];
    const answerer = new Answerer({ store, clock: plainClock }, { receiver: self, receiverName: 'dr1' });
    const ask = (to: string): Promise<number> =>
      writeChallenge(store, MACHINE, { from: randomUUID(), to, writtenAtMs: 0 });
    await ask(self);
    await answerer.answer(MACHINE);
    const asked = [await ask(self), await ask(self), await ask(other)];
    await answerer.answer(MACHINE);
    const answers = await Promise.all(asked.map((number) => readAnswer(store, MACHINE, number)));
    expect(answers.map((answer) => answer?.from)).toEqual([self, self, undefined]);
  });

  it('home is called over when it is failed over, wherever its agent is: to be told', async () => {
    const world = new World();
    await world.begin();
    const called: string[] = [];
    const call = (machine: string) => (called.push(machine), () => undefined);
    const process = new Process(world, { folder: copiesFolder(), fleet: { others: [], call } });
    await perform(process, { operation: 'failover' });
    expect(called).toEqual([MACHINE]);
    await process.engine.stop();
  });

  it('a job without a copy on this host goes on after a start at which the store does not answer', async () => {
    const world = new World();
    await world.begin();
    const isBegun = (what: string): boolean => what.startsWith('create') && what.includes('/recovery/');
    const first: Process = new Process(world, {
      folder: copiesFolder(),
      onStep: (_n, what) => {
        if (isBegun(what) && first.log.filter(isBegun).length === 3) first.die();
      },
    });
    void perform(first, { operation: 'test-failover' }).catch(() => undefined);
    await first.died;
    await setTimeout(20);
    expect((await world.recovery())?.job).toMatchObject({ operation: 'test-failover' });
    let failures = 5;
    const back = new Process(world, {
      folder: first.folder,
      onStep: (_n, what) => {
        if (isStore(what) && failures-- > 0) throw ioError(what);
      },
    });
    await back.engine.start();
    await back.engine.settled(MACHINE);
    expect(await world.recovery()).toMatchObject({ job: null, testFailover: { state: 'TestFailoverCompleted' } });
    await back.engine.stop();
  });

  it('home is told to come anew where this receiver goes on: at “going away” its agent would stay with another one', async () => {
    const world = new World();
    await world.begin();
    const process = new Process(world, { folder: copiesFolder() });
    await perform(process, { operation: 'failover' });
    await perform(process, { operation: 'cancel' });
    await perform(process, { operation: 'failover', commit: true });
    await perform(process, { operation: 'reprotect' });
    world.home.state = 'restoring';
    await perform(process, { operation: 'failback' });
    expect(await world.recovery()).toMatchObject({ state: 'Protected', activeLocation: 'Primary' });
    expect(world.home.toldWhenCutOff).toEqual(['failed over', 'come anew', 'failed over', 'come anew', 'come anew']);
    await process.engine.stop();
  });

  it('a receiver that is asked answers while it has the copy; without an answer it is fenced and ends its guest', async () => {
    const world = new World();
    await world.begin();
    const first = new Process(world, { folder: copiesFolder(), watches: true });
    await first.engine.start();
    await perform(first, { operation: 'failover' });
    const second = new Process(world, { folder: copiesFolder(), receiver: '99999999-2222-4333-8444-000000000002' });
    await perform(second, { operation: 'failover' });
    expect((await world.recovery())?.jobs[0]?.error?.message).toMatch(/runs at receiver dr1, which lives/);
    expect(await world.recovery()).toMatchObject({
      state: 'UnplannedFailoverCompleted',
      failover: { receiverName: 'dr1' },
    });
    await first.engine.stop();
    // Its guest runs on, as after the death of the receiver alone.
    world.violations.length = 0;
    await perform(second, { operation: 'failover' });
    expect(await world.recovery()).toMatchObject({
      state: 'UnplannedFailoverCompleted',
      failover: { receiverName: 'dr2' },
    });
    const back = new Process(world, { folder: first.folder });
    await back.engine.start();
    expect([...world.guests.values()].filter((g) => g.running)).toHaveLength(1);
    await second.engine.stop();
    await back.engine.stop();
  });
});
