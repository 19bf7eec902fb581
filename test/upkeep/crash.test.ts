/**
 * A whole run of upkeep, stopped at each of its requests to the store in turn, before the request did anything or after it has. Then a fresh owner: every
 * point that is listed reads as before, a later run finishes the work, and nothing is left over. The same where one request fails and the owner lives on.
 */
import { expect, it } from 'vitest';
import { AfterimageError } from '../../shared/errors.js';
import { MIB } from '../../shared/units.js';
import { readHighestManifest } from '../../receiver/catalog/manifest-io.js';
import { machinePrefix } from '../../receiver/catalog/names.js';
import { namesOf } from '../../receiver/upkeep/gc-plan.js';
import { CatalogCache, loadHistory } from '../../receiver/upkeep/history.js';
import { MACHINE } from '../helpers/layers.js';
import { MemoryStore, storeThrough } from '../helpers/memory-store.js';
import { randomOf } from '../helpers/random.js';
import { randomWrites, World } from './world.js';

const MINUTE = 60_000;

/** A machine with history pages, points to drop, layers to merge, bases to build, garbage that is due and old manifests. */
async function machine(): Promise<World> {
  const random = randomOf(7);
  const world = new World(new MemoryStore());
  world.policy = {
    tiers: [
      { everyMs: 0, upToMs: 20 * MINUTE },
      { everyMs: 30 * MINUTE, upToMs: 150 * MINUTE },
    ],
    applicationTiers: [],
  };
  world.deletionDelayMs = 0;
  await world.takeOver();
  const disk = world.addDisk('disk0', 66 * MIB, 4096);
  for (let block = 0; block < 60; block++) disk.apply([{ first: block, values: [block + 1] }]);
  for (let i = 0; i < 210; i++) {
    world.clock.ms += MINUTE;
    // Now and then all of the base is overwritten, so that it is built anew.
    const writes =
      i % 40 === 39
        ? [{ first: 0, values: Array.from({ length: 60 }, (_, b) => i * 100 + b) }]
        : randomWrites(disk, random).slice(0, 2);
    await world.point(new Map([[disk, writes]]));
    if (i === 120 || i === 160) await world.upkeep.run(world.owned, new AbortController().signal);
  }
  return world;
}

const copyOf = (store: MemoryStore): MemoryStore => {
  const copy = new MemoryStore();
  for (const [name, bytes] of store.objects) copy.objects.set(name, bytes);
  return copy;
};

/** The same machine over another store, with an owner and upkeep of its own. */
async function over(
  store: MemoryStore,
  world: World,
  through = storeThrough(store, (_, work) => work()),
): Promise<World> {
  const other = new World(store);
  other.clock.ms = world.clock.ms;
  other.policy = world.policy;
  other.deletionDelayMs = 0;
  for (const [point, digests] of world.digests) other.digests.set(point, digests);
  await other.takeOver(through);
  return other;
}

async function leftover(store: MemoryStore): Promise<string[]> {
  const manifest = await readHighestManifest(store, MACHINE);
  if (manifest === null) throw new Error('no manifest');
  const named = namesOf(await loadHistory(new CatalogCache(store), manifest));
  return [...store.objects.keys()].filter(
    (name) =>
      (name.startsWith(`${machinePrefix(MACHINE)}disks/`) || name.startsWith(`${machinePrefix(MACHINE)}history/`)) &&
      !named.has(name),
  );
}

/** Until nothing is left to do: bases hide layers that the next run trims, and a run deletes what the one before left unnamed. */
async function allRuns(world: World): Promise<void> {
  for (let i = 0; i < 4; i++) await world.upkeep.run(world.owned, new AbortController().signal);
}

it('killed at any request: nothing listed is lost, a fresh owner finishes the work', async () => {
  const world = await machine();
  const store = world.store as MemoryStore;
  // What an undisturbed run does, and how many requests it takes.
  let requests = 0;
  const whole = copyOf(store);
  const calm = await over(
    whole,
    world,
    storeThrough(whole, (_, work) => (requests++, work())),
  );
  const before = requests;
  await allRuns(calm);
  const wanted = await calm.proveAll();
  const results = [...calm.upkeep.results.values()];
  expect(results.flatMap((r) => r.problem ?? [])).toEqual([]);
  expect(await leftover(whole)).toEqual([]);
  const total = requests - before;
  expect(total).toBeGreaterThan(60);
  // Every request is a place to die at; each is tried in one of the two ways.
  for (let dieAt = 1; dieAt <= total; dieAt += STRIDE) {
    for (const late of [false, true]) {
      const copy = copyOf(store);
      let count = -Infinity;
      const dead = new AfterimageError('test: the process is dead', { code: 'test-dead', kind: 'cancelled' });
      const through = storeThrough(copy, async (_, work) => {
        count++;
        if (count > dieAt || (count === dieAt && !late)) throw dead;
        const result = await work();
        if (count === dieAt) throw dead;
        return result;
      });
      const victim = await over(copy, world, through);
      count = 0;
      await allRuns(victim).catch((error: unknown) => expect(error).toBe(dead));
      const fresh = await over(copy, world);
      const listed = await fresh.proveAll();
      expect(
        wanted.filter((point) => !listed.includes(point)),
        `${dieAt} ${late}`,
      ).toEqual([]);
      await allRuns(fresh);
      expect(await fresh.proveAll(), `${dieAt} ${late}`).toEqual(wanted);
      expect(await leftover(copy), `${dieAt} ${late}`).toEqual([]);
    }
  }
}, 120_000);

/** As a process sees a store that fails for a moment: the task fails, the same owner goes on. */
it('a request that fails: the same owner finishes the work, and nothing is left over', async () => {
  const world = await machine();
  const store = world.store as MemoryStore;
  let requests = -Infinity;
  const whole = copyOf(store);
  const calm = await over(
    whole,
    world,
    storeThrough(whole, (_, work) => (requests++, work())),
  );
  requests = 0;
  await allRuns(calm);
  const wanted = await calm.proveAll();
  const total = requests;
  for (let failAt = 1; failAt <= total; failAt += STRIDE) {
    for (const late of [false, true]) {
      const copy = copyOf(store);
      let count = -Infinity;
      const through = storeThrough(copy, async (_, work) => {
        if (++count !== failAt) return work();
        if (late) await work();
        throw new AfterimageError('test: the store is away', { code: 'test-away', kind: 'io' });
      });
      const owner = await over(copy, world, through);
      count = 0;
      await allRuns(owner);
      await allRuns(owner);
      expect(await owner.proveAll(), `${failAt} ${late}`).toEqual(wanted);
      expect(await leftover(copy), `${failAt} ${late}`).toEqual([]);
    }
  }
}, 120_000);

/** Every so many requests; with 3 it takes minutes. */
const STRIDE = Number(process.env['AFTERIMAGE_CRASH_STRIDE'] ?? 13);
