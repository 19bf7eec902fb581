/**
 * Upkeep over a store that keeps every object for days: what is locked is no problem, isn't asked for again and again, and goes once its lock has ended,
 * manifests as well, in the same process; all else goes on meanwhile.
 */
import { expect, it } from 'vitest';
import { loadHead } from '../../receiver/catalog/reader.js';
import { readBoundary, readManifest } from '../../receiver/catalog/manifest-io.js';
import { boundaryPrefix, machinePrefix, manifestPrefix, numberOfName } from '../../receiver/catalog/names.js';
import { namesOf } from '../../receiver/upkeep/gc-plan.js';
import { CatalogCache, loadHistory } from '../../receiver/upkeep/history.js';
import { statusOf } from '../../receiver/upkeep/upkeep-status.js';
import { LOCK_ASKED_AGAIN_MS } from '../../shared/limits-store.js';
import { MANIFESTS_KEPT } from '../../shared/limits-upkeep.js';
import { MIB } from '../../shared/units.js';
import { LockingStore } from '../helpers/locking-store.js';
import { MACHINE } from '../helpers/layers.js';
import { between, randomOf } from '../helpers/random.js';
import { TestClock, World } from './world.js';

const MINUTE = 60_000;
const DAY = 1440 * MINUTE;

class Machine {
  readonly clock = new TestClock();
  readonly store: LockingStore;
  readonly world: World;
  readonly #random = randomOf(5);
  readonly #disk;

  constructor(lockMs: number, tells: boolean) {
    this.store = new LockingStore(this.clock, lockMs, tells);
    this.world = new World(this.store, this.clock);
    this.world.deletionDelayMs = MINUTE;
    this.world.policy = { tiers: [{ everyMs: 120 * MINUTE, upToMs: DAY / 2 }], applicationTiers: [] };
    this.#disk = this.world.addDisk('disk0', MIB, 4096);
  }

  /** A point each ten minutes, upkeep after every third. */
  async live(forMs: number): Promise<void> {
    for (const endMs = this.clock.ms + forMs, n = { points: 0 }; this.clock.ms < endMs;) {
      this.clock.ms += 10 * MINUTE;
      const writes = [{ first: between(this.#random, 0, 250), values: [between(this.#random, 1, 2 ** 31)] }];
      await this.world.point(new Map([[this.#disk, writes]]));
      if (++n.points % 3 === 0) await this.keepUp();
    }
  }

  async keepUp(): Promise<void> {
    const results = await this.world.upkeep.run(this.world.owned, new AbortController().signal);
    expect(results.flatMap((result) => result.problem ?? [])).toEqual([]);
  }

  /** Numbers of manifests up to the boundary that don't begin an epoch. */
  async oldManifests(): Promise<number[]> {
    const boundary = await readBoundary(this.store, MACHINE);
    const found: number[] = [];
    for (const name of this.names(manifestPrefix(MACHINE))) {
      const number = numberOfName(name);
      if (number <= boundary && (await readManifest(this.store, MACHINE, number)).epochStart !== number)
        found.push(number);
    }
    return found;
  }

  /** Layers, pages and lists that no manifest needs. */
  async garbage(): Promise<string[]> {
    const head = await loadHead(this.store, MACHINE);
    if (head === null) throw new Error('no manifest');
    const named = namesOf(await loadHistory(new CatalogCache(this.store), head));
    const all = [...this.names(`${machinePrefix(MACHINE)}disks/`), ...this.names(`${machinePrefix(MACHINE)}history/`)];
    return all.filter((name) => !named.has(name));
  }

  names(prefix: string): string[] {
    return [...this.store.objects.keys()].filter((name) => name.startsWith(prefix));
  }

  get lockedObjects(): number {
    return statusOf(MACHINE, 'web1', this.world.upkeep, false).objects?.['locked by the store']?.objects ?? 0;
  }

  /** Of each refusal and the next question for the same object: the time between them, and from the end of the lock on. */
  askedAgain(): { readonly sinceMs: number; readonly afterLockMs: number }[] {
    const refused = new Map<string, { atMs: number; untilMs: number }>();
    const again: { sinceMs: number; afterLockMs: number }[] = [];
    for (const { name, atMs, lockedUntilMs } of this.store.asked) {
      const before = refused.get(name);
      if (before !== undefined) again.push({ sinceMs: atMs - before.atMs, afterLockMs: atMs - before.untilMs });
      if (lockedUntilMs !== null) refused.set(name, { atMs, untilMs: lockedUntilMs });
    }
    return again;
  }
}

it.each([
  { tells: true, what: 'says until when' },
  { tells: false, what: 'does not say until when' },
])('a store that locks for two days, and $what', { timeout: 120_000 }, async ({ tells }) => {
  const at = new Machine(2 * DAY, tells);
  await at.world.takeOver();
  await at.live(0.75 * DAY);
  // Another epoch, of the same process: a new one would ask for everything once more.
  const { upkeep } = at.world;
  await at.world.takeOver();
  at.world.upkeep = upkeep;
  await at.live(1.1 * DAY);
  // All is locked as yet: nothing went, nothing is wrong, and the boundary moves all the same.
  expect(at.store.asked.length).toBeGreaterThan(100);
  expect(at.store.asked.every(({ lockedUntilMs }) => lockedUntilMs !== null)).toBe(true);
  expect(at.lockedObjects).toBeGreaterThan(50);
  const early = await readBoundary(at.store, MACHINE);
  expect(early).toBeGreaterThanOrEqual(100);
  expect((await at.oldManifests()).length).toBeGreaterThan(90);

  await at.live(3 * DAY);
  expect(await readBoundary(at.store, MACHINE)).toBeGreaterThanOrEqual(early + 300);
  expect((await at.oldManifests())[0]).toBeGreaterThan(early);
  expect(Math.min(...at.names(boundaryPrefix(MACHINE)).map(numberOfName))).toBeGreaterThan(early);
  await at.world.proveAll();

  // When nothing more is written, all that isn't needed goes, two days later and in this process.
  at.clock.ms += 2 * DAY;
  for (let i = 0; i < 4; i++) {
    await at.keepUp();
    at.clock.ms += LOCK_ASKED_AGAIN_MS;
  }
  await at.world.proveAll();
  at.clock.ms += 2 * DAY;
  for (let i = 0; i < 4; i++) {
    await at.keepUp();
    at.clock.ms += LOCK_ASKED_AGAIN_MS;
  }
  expect(await at.garbage()).toEqual([]);
  expect(await at.oldManifests()).toEqual([]);
  expect(at.names(manifestPrefix(MACHINE)).length).toBeLessThan(2 * MANIFESTS_KEPT + 10);
  expect(at.lockedObjects).toBe(0);

  const again = at.askedAgain();
  expect(again.length).toBeGreaterThan(100);
  if (tells) expect(Math.min(...again.map(({ afterLockMs }) => afterLockMs))).toBeGreaterThanOrEqual(0);
  else expect(Math.min(...again.map(({ sinceMs }) => sinceMs))).toBeGreaterThanOrEqual(LOCK_ASKED_AGAIN_MS);
});
