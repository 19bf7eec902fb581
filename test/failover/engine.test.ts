/** What each operation comes to when nothing disturbs it, and in which order it acts. */
import { afterAll, describe, expect, it } from 'vitest';
import { copiesFolder, Process, removeCopiesFolders, World } from './fakes.js';
import { perform, run, SCENARIOS } from './scenarios.js';

afterAll(removeCopiesFolders);

const scenario = (name: string) => {
  const found = SCENARIOS.find((s) => s.name === name);
  if (found === undefined) throw new Error(name);
  return found;
};

/** After an operation during which something of point 2 and those after it was found damaged, once this was done. */
async function damagedAt(when: string, operation: 'failover' | 'planned-failover'): Promise<World> {
  const world = new World();
  await world.begin();
  const found: Promise<void>[] = [];
  const process = new Process(world, {
    folder: copiesFolder(),
    onDone: (_n, what) => {
      if (what === when) found.push(world.damage(2));
    },
  });
  await perform(process, { operation });
  await Promise.all(found);
  await process.engine.stop();
  return world;
}

describe('operations', () => {
  it('failover: home is cut off first, disks are served and replicated before the guest starts', async () => {
    const { end, world } = await run(scenario('failover'));
    expect(world.effects.slice(0, 4)).toEqual(['disconnect', 'serve', 'replicate', 'start guest']);
    expect(end).toMatchObject({
      state: 'UnplannedFailoverCompleted',
      home: 'refused',
      guests: 1,
      generation: 2,
      checks: 1,
    });
  });

  it('failback: the guest is down, its disks taken away and its last cut made before home is restored for good', async () => {
    const { end, world } = await run(scenario('failback'));
    const order = ['restore', 'shutdown', 'unserve', 'point', 'restore final', 'disconnect', 'kill'];
    expect(world.effects.slice(-order.length)).toEqual(order);
    expect(end).toMatchObject({ state: 'Protected', location: 'Primary', homeGeneration: true, guests: 0, copies: 0 });
    expect(end['series']).toBe('bbbbbbbb-bbbb-4ccc-8ddd-eeeeeeeeeeee');
  });

  it('failback that fails: the guest runs again and is replicated', async () => {
    const { end, world } = await run(scenario('failback whose last restore fails'));
    expect(world.effects.slice(-4)).toEqual(['serve', 'replicate', 'start guest', 'unserve']);
    expect(end).toMatchObject({ state: 'Protected', location: 'Recovery', guests: 1, jobState: 'Failed' });
  });

  it('planned failover without a last cut: the workload goes on at home, nothing else was touched', async () => {
    const { end, world } = await run(scenario('planned failover without a last cut'));
    expect(world.effects).toEqual(['resume home']);
    expect(end).toMatchObject({ state: 'Protected', location: 'Primary', generation: 1, sourceUp: true });
  });

  it('planned failover where the newest point needs what is damaged: nothing is shut down for it', async () => {
    const { end, world } = await run(scenario('planned failover while something is damaged'));
    expect(world.effects).toEqual([]);
    expect(end).toMatchObject({ state: 'Protected', location: 'Primary', generation: 1, sourceUp: true });
    expect((await world.recovery())?.jobs[0]?.error).toMatchObject({
      code: 'last-cut-damaged',
      message: expect.stringMatching(/^point 3, the newest, needs what is damaged: a layer is missing/) as string,
    });
  });

  it('planned failover whose last cut needs what is damaged: no older point stands in for it, home goes on', async () => {
    const world = await damagedAt('final cut', 'planned-failover');
    expect(world.effects).toEqual(['final cut', 'resume home']);
    expect(world.home.sourceUp).toBe(true);
    const recovery = await world.recovery();
    expect(recovery).toMatchObject({ state: 'Protected', activeLocation: 'Primary', failover: null });
    expect(recovery?.jobs[0]?.error?.message).toMatch(/^point 3, the last cut, needs what is damaged/);
  });

  it.each([
    ['planned-failover', 3, /^generation 2$/],
    ['failover', 1, /^generation 2; point 1 is used, since something that newer ones need was found damaged/],
  ] as const)('%s, and damage is found while it takes over: point %i', async (operation, point, detail) => {
    const world = await damagedAt('disconnect', operation);
    const recovery = await world.recovery();
    expect(recovery?.failover?.point).toBe(point);
    expect(recovery?.jobs[0]?.tasks.find(({ name }) => name === 'Take over generation')?.detail).toMatch(detail);
    expect(world.violations).toEqual([]);
  });

  it.each([
    ['reprotect', 'ReprotectFailed'],
    ['failback', 'CommitFailoverCompleted'],
  ] as const)(
    '%s while a disk at home is away: told which, the copy runs on, and it succeeds once the disk is there',
    async (operation, state) => {
      const { end, world, folder } = await run(scenario(`${operation} while a disk at home is away`));
      expect(world.effects.filter((effect) => /shutdown|kill|unserve|disconnect/.test(effect))).toEqual(['unserve']);
      expect(end).toMatchObject({ state, guests: 1, generation: 2, jobState: 'Failed' });
      const recovery = await world.recovery();
      expect(recovery?.jobs[0]?.error).toMatchObject({
        code: 'disk-missing',
        message: expect.stringContaining('/dev/vda (disk disk0)') as string,
      });
      world.home.isDiskAway = false;
      const process = new Process(world, { folder });
      await process.engine.start();
      await perform(process, { operation });
      expect((await world.recovery())?.state).toBe('Protected');
      await process.engine.stop();
      expect(world.violations).toEqual([]);
    },
  );

  it.each(SCENARIOS.map((s) => s.name))('%s: nobody writes who must not', async (name) => {
    expect((await run(scenario(name))).world.violations).toEqual([]);
  });
});
