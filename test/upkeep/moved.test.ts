/**
 * Work that was planned upon a history which somebody else has changed since is thrown away: nothing is committed of it, no point suffers, and the next run
 * does it anew.
 */
import { expect, it } from 'vitest';
import { MachineUpkeep } from '../../receiver/upkeep/machine-upkeep.js';
import { MANIFEST_TAIL_POINTS_MAX } from '../../shared/limits.js';
import { MIB } from '../../shared/units.js';
import { MemoryStore, storeThrough } from '../helpers/memory-store.js';
import { between, randomOf } from '../helpers/random.js';
import { World } from './world.js';

const MINUTE = 60_000;

it.each([
  { what: 'its inputs were merged by somebody else', points: 30, meanwhile: 'upkeep' },
  {
    what: 'its inputs went into history pages and were merged there',
    points: MANIFEST_TAIL_POINTS_MAX - 5,
    meanwhile: 'both',
  },
])('a merge finds that $what', async ({ points, meanwhile }) => {
  const random = randomOf(4);
  const store = new MemoryStore();
  const world = new World(store);
  world.policy = { tiers: [{ everyMs: 10 * MINUTE, upToMs: 6000 * MINUTE }], applicationTiers: [] };
  await world.takeOver();
  const disk = world.addDisk('disk0', MIB, 4096);
  const point = async (): Promise<void> => {
    world.clock.ms += MINUTE;
    const writes = [{ first: between(random, 0, 200), values: [between(random, 1, 2 ** 31)] }];
    await world.point(new Map([[disk, writes]]));
  };
  for (let i = 0; i < points; i++) await point();
  const run = (upkeep: MachineUpkeep, tasks: readonly ('retention' | 'merge')[]): ReturnType<MachineUpkeep['run']> =>
    upkeep.run(world.owned, new AbortController().signal, tasks);
  await run(world.upkeep, ['retention']);

  const other = new MachineUpkeep(world.upkeepDeps());
  let isFirst = true;
  const slow = storeThrough(store, async (what, work) => {
    // It has planned, and begins to write what it merges.
    if (isFirst && what.startsWith('open ')) {
      isFirst = false;
      if (meanwhile === 'both') for (let i = 0; i < 20; i++) await point();
      expect((await run(other, ['merge']))[0]).toMatchObject({ problem: null });
    }
    return work();
  });
  world.upkeep = new MachineUpkeep(world.upkeepDeps(slow));
  const [result] = await run(world.upkeep, ['merge']);
  expect(isFirst).toBe(false);
  expect(result).toMatchObject({ mergedLayers: 0, problem: expect.stringContaining('history changed') as string });
  expect((await world.proveAll()).length).toBeGreaterThan(2);
  await point();
  expect((await run(world.upkeep, ['retention', 'merge'])).map(({ problem }) => problem)).toEqual([null, null]);
  await world.proveAll();
});
