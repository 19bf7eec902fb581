/** What the engine must not do when things are odd: end guests, take one job for another, fence itself, stay silent, write what nobody can read. */
import { mkdir, writeFile } from 'node:fs/promises';
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { initialRecovery, recoverySchema, type Job } from '../../receiver/catalog/recovery.js';
import { loadRecovery, writeRecovery } from '../../receiver/catalog/recovery-io.js';
import { taskNamed, withTask } from '../../receiver/failover/jobs.js';
import { operationRequestSchema } from '../../receiver/failover/operations.js';
import { RECOVERY_BYTES_MAX, RECOVERY_JOBS_MAX } from '../../shared/limits.js';
import { copiesFolder, MACHINE, plainClock, Process, removeCopiesFolders, World } from './fakes.js';
import { MemoryStore } from '../helpers/memory-store.js';
import { perform } from './scenarios.js';

afterEach(removeCopiesFolders);

async function failedOver(watches = false): Promise<{ world: World; process: Process }> {
  const world = new World();
  await world.begin();
  const process = new Process(world, { folder: copiesFolder(), watches });
  await process.engine.start();
  await perform(process, { operation: 'failover', commit: true });
  return { world, process };
}

const running = (world: World): number => [...world.guests.values()].filter((g) => g.running).length;

describe('a receiver that comes back', () => {
  it('a job that has not gone on yet: its cancel is refused, and not taken for that of the failover', async () => {
    const { world, process } = await failedOver();
    world.home.state = 'restoring';
    process.die();
    const dies = new Process(world, {
      folder: process.folder,
      onStep: (_n, what) => what === 'restore final' && dies.die(),
    });
    await dies.engine.start();
    void perform(dies, { operation: 'failback' }).catch(() => undefined);
    await dies.died;
    await setTimeout(20);
    expect((await world.recovery())?.job).toMatchObject({ operation: 'failback' });
    const back = new Process(world, { folder: process.folder });
    await expect(back.engine.begin(MACHINE, operationRequestSchema.parse({ operation: 'cancel' }))).rejects.toThrow(
      /job failback was interrupted and has not gone on yet/,
    );
    await back.engine.start();
    await back.engine.settled(MACHINE);
    expect(await world.recovery()).toMatchObject({ state: 'Protected', activeLocation: 'Primary', failover: null });
    expect(world.violations).toEqual([]);
    await back.engine.stop();
  });

  it('a store without its records: no guest is ended', async () => {
    const { world, process } = await failedOver(true);
    for (const name of [...world.store.objects.keys()])
      if (name.includes('/recovery/')) world.store.objects.delete(name);
    world.effects.length = 0;
    const looked = process.log.length;
    while (process.log.slice(looked).filter((what) => what.includes('/recovery/')).length < 4) await setTimeout(2);
    process.die();
    const back = new Process(world, { folder: process.folder });
    await back.engine.start();
    expect(world.effects).not.toContain('kill');
    expect(running(world)).toBe(1);
    await back.engine.stop();
  });

  it('a record of a copy that can not be read: the others are served all the same', async () => {
    const { world, process } = await failedOver();
    await process.engine.stop();
    const broken = join(process.folder, randomUUID());
    await mkdir(broken);
    await writeFile(join(broken, 'copy.json'), '{');
    world.effects.length = 0;
    const back = new Process(world, { folder: process.folder });
    await back.engine.start();
    expect(world.effects).toEqual(['serve', 'replicate']);
    await back.engine.stop();
  });

  it('a guest that waited too long for its disks goes on', async () => {
    const { world, process } = await failedOver();
    await process.engine.stop();
    for (const guest of world.guests.values()) guest.detail = 'paused (I/O error)';
    world.effects.length = 0;
    const back = new Process(world, { folder: process.folder });
    await back.engine.start();
    expect(world.effects).toEqual(['serve', 'replicate', 'start guest']);
    await back.engine.stop();
  });

  it('a guest that was fenced just now is not started again', async () => {
    const { world, process } = await failedOver();
    await process.engine.stop();
    // Somebody raised the generation after the recovery object was read.
    await world.commitPoints(0, 1);
    const highest = await world.manifest();
    await raise(world, highest.generation + 1);
    world.violations.length = 0;
    world.effects.length = 0;
    const back = new Process(world, { folder: process.folder });
    await back.engine.start();
    expect(world.effects.slice(0, 2)).toEqual(['serve', 'kill']);
    expect(world.effects).not.toContain('start guest');
    expect(running(world)).toBe(0);
    await back.engine.stop();
  });
});

async function raise(world: World, generation: number): Promise<void> {
  const { OwnedMachine } = await import('../../receiver/catalog/owned-machine.js');
  await OwnedMachine.takeOver({ store: world.store, clock: plainClock, randomId: randomUUID }, MACHINE, (previous) => {
    if (previous === null) throw new Error('no manifest');
    return Promise.resolve({ ...previous, generation });
  });
}

describe('a copy', () => {
  it('asked twice at once to be replicated takes one epoch', async () => {
    const { world, process } = await failedOver();
    const [copy] = process.engine.figures.copies;
    if (copy === undefined) throw new Error('no copy');
    await copy.stopReplication();
    const before = (await world.manifest()).epoch;
    const { signal } = new AbortController();
    await Promise.all([copy.startReplication(signal), copy.startReplication(signal)]);
    expect((await world.manifest()).epoch).toBe(before + 1);
    await process.engine.stop();
    expect(world.replicating.size).toBe(0);
  });
});

describe('another receiver that asks', () => {
  it('is answered although a look takes for ever', async () => {
    const { world, process } = await failedOver(true);
    world.stateGate = new Promise(() => undefined);
    await setTimeout(20);
    const second = new Process(world, { folder: copiesFolder(), receiver: '99999999-2222-4333-8444-000000000002' });
    await second.engine.begin(MACHINE, operationRequestSchema.parse({ operation: 'failover' }));
    await second.engine.settled(MACHINE);
    expect((await world.recovery())?.jobs[0]?.error?.message).toMatch(/which lives/);
    process.die();
    await second.engine.stop();
  });
});

describe('steps', () => {
  const deps = { store: new MemoryStore(), clock: plainClock, randomId: randomUUID };

  it('one that could not be read back is not written', async () => {
    const content = { ...initialRecovery(MACHINE, 1), stateReason: 'x'.repeat(2001) };
    await expect(writeRecovery(deps, null, content)).rejects.toThrow(/stateReason/);
    expect(await loadRecovery(deps.store, MACHINE)).toBeNull();
  });

  it('the output of all jobs fits, newest lines kept', async () => {
    const output = Array.from({ length: 300 }, (_, i) => `${i} ${'\u0001'.repeat(2000)}`);
    let job: Job = {
      id: MACHINE,
      operation: 'failover',
      state: 'Succeeded',
      receiver: MACHINE,
      startedAtMs: 1,
      endedAtMs: 1,
      request: {},
      data: {},
      tasks: Array.from({ length: 9 }, (_, i) => taskNamed(`task ${i}`)),
      error: null,
    };
    for (const { name } of job.tasks) job = withTask(job, name, { output, detail: 'd'.repeat(3000) });
    expect(job.tasks[0]?.output.at(-1)).toMatch(/^299 /);
    const jobs = Array.from({ length: RECOVERY_JOBS_MAX }, () => job);
    const written = await writeRecovery(deps, null, { ...initialRecovery(MACHINE, 1), job, jobs });
    expect(Buffer.byteLength(JSON.stringify(written))).toBeLessThan(RECOVERY_BYTES_MAX);
    expect(recoverySchema.parse(await loadRecovery(deps.store, MACHINE)).jobs).toHaveLength(RECOVERY_JOBS_MAX);
  });
});
