/**
 * Pins: there is a live one at every instant while it is held, whoever loses it learns so in time, and the order of pin, head and plan leaves no gap in
 * which what is planned could be deleted.
 */
import { randomUUID } from 'node:crypto';
import { beforeEach, describe, expect, test } from 'vitest';
import { manifestName, pinName, pinsPrefix } from '../../receiver/catalog/names.js';
import { PinHolder, type PinDeps } from '../../receiver/catalog/pin-holder.js';
import { openPinned } from '../../receiver/catalog/pinned-point.js';
import { endPins, isPinLive, readPins, type Pin } from '../../receiver/catalog/pins.js';
import { LockedNames } from '../../receiver/store/locked-names.js';
import { loadHeld } from '../../receiver/upkeep/retention-held.js';
import { AfterimageError } from '../../shared/errors.js';
import { PIN_TTL_MS } from '../../shared/limits-retention.js';
import { MIB } from '../../shared/units.js';
import { Chain, MACHINE } from '../helpers/layers.js';
import { LockingStore } from '../helpers/locking-store.js';
import { ManualClock } from '../helpers/manual-clock.js';
import { MemoryStore, storeThrough, type Around } from '../helpers/memory-store.js';

let store: MemoryStore;
let clock: ManualClock;
beforeEach(() => {
  store = new MemoryStore();
  clock = new ManualClock();
});

const WISH = { point: 7, manifest: 40, holder: 'restore on host1' };
const depsOf = (around?: Around): PinDeps => ({
  store: around === undefined ? store : storeThrough(store, around),
  clock,
  randomId: randomUUID,
});
const pinNames = (): string[] => [...store.objects.keys()].filter((n) => n.startsWith(pinsPrefix(MACHINE))).sort();
const livePins = async (): Promise<Pin[]> =>
  (await readPins(store, MACHINE)).pins.filter((p) => isPinLive(p, clock.nowMs()));
const denied = new AfterimageError('read-only', { code: 'store-denied', kind: 'io' });

describe('holding one', () => {
  test('it is live for as long as it is held, by one object or two, and gone after release', async () => {
    let least = Infinity;
    const holder = await PinHolder.acquire(
      depsOf(async (_what, work) => {
        const result = await work();
        if (pinNames().length > 0) least = Math.min(least, (await livePins()).length);
        return result;
      }),
      MACHINE,
      WISH,
    );
    for (let i = 0; i < 40; i++) {
      await clock.pass(PIN_TTL_MS / 4);
      expect(await livePins()).toMatchObject([{ id: holder.id, ...WISH }]);
      expect(pinNames().length).toBe(1);
    }
    expect(least).toBe(1);
    expect(holder.lost.aborted).toBe(false);
    await holder.release();
    expect(pinNames()).toEqual([]);
    await clock.pass(10 * PIN_TTL_MS);
    expect(pinNames()).toEqual([]);
  });

  test('one whose holder died is honoured as long again, then no more', async () => {
    const holder = await PinHolder.acquire(depsOf(), MACHINE, WISH);
    const objects = new Map(store.objects);
    await holder.release();
    for (const [name, bytes] of objects) store.objects.set(name, bytes);
    await clock.pass(2 * PIN_TTL_MS - 1);
    expect(await livePins()).toHaveLength(1);
    await clock.pass(1);
    expect(await livePins()).toHaveLength(0);
  });

  test('renewals that fail for less than its life are made up for; for longer, the holder is told', async () => {
    let isDown = false;
    const holder = await PinHolder.acquire(
      depsOf((_what, work) => (isDown ? Promise.reject(new Error('store is down')) : work())),
      MACHINE,
      WISH,
    );
    isDown = true;
    await clock.pass(PIN_TTL_MS * 0.95);
    expect(holder.lost.aborted).toBe(false);
    isDown = false;
    await clock.pass(PIN_TTL_MS * 0.05);
    expect(holder.lost.aborted).toBe(false);
    isDown = true;
    await clock.pass(PIN_TTL_MS);
    expect(holder.lost.aborted).toBe(true);
    expect(holder.lost.reason).toMatchObject({
      code: 'pin-lost',
      message: expect.stringContaining('store is down') as unknown,
    });
    // It is told while others still honour the pin.
    expect(await livePins()).toHaveLength(1);
    await holder.release();
  });

  test('a renewal that hangs is no renewal', async () => {
    let hangs = false;
    const holder = await PinHolder.acquire(
      depsOf((_what, work) => (hangs ? new Promise(() => undefined) : work())),
      MACHINE,
      WISH,
    );
    hangs = true;
    await clock.pass(PIN_TTL_MS);
    expect(holder.lost.aborted).toBe(true);
  });

  test('a pin that somebody removed as ended is lost, though it could be renewed', async () => {
    const holder = await PinHolder.acquire(depsOf(), MACHINE, WISH);
    store.objects.delete(pinName(MACHINE, holder.id, 1));
    await clock.pass(PIN_TTL_MS / 3);
    expect(holder.lost.reason).toMatchObject({
      code: 'pin-lost',
      message: expect.stringContaining('removed it') as unknown,
    });
    await holder.release();
    expect(pinNames()).toEqual([]);
  });

  test('without the right to delete it is renewed all the same, and the newest counts', async () => {
    const holder = await PinHolder.acquire(
      depsOf((what, work) => (what.startsWith('delete') ? Promise.reject(denied) : work())),
      MACHINE,
      WISH,
    );
    await clock.pass(2 * PIN_TTL_MS);
    expect(holder.lost.aborted).toBe(false);
    const { pins, superseded } = await readPins(store, MACHINE);
    expect(pins.map((p) => p.sequence)).toEqual([7]);
    expect(superseded.map((p) => p.sequence)).toEqual([1, 2, 3, 4, 5, 6]);
    await holder.release();
  });

  test('an answer that was lost does not end a pin', async () => {
    let loses = false;
    const holder = await PinHolder.acquire(
      depsOf(async (what, work) => {
        const result = await work();
        if (loses && what.startsWith('create')) {
          loses = false;
          throw new Error('no answer');
        }
        return result;
      }),
      MACHINE,
      WISH,
    );
    loses = true;
    await clock.pass(PIN_TTL_MS);
    expect(holder.lost.aborted).toBe(false);
    expect(await livePins()).toHaveLength(1);
    await holder.release();
  });
});

describe('reading them', () => {
  test('damaged, misnamed and newer ones are told, not passed over', async () => {
    const holder = await PinHolder.acquire(depsOf(), MACHINE, WISH);
    const name = pinName(MACHINE, holder.id, 1);
    const bytes = store.objects.get(name) ?? Buffer.alloc(0);
    store.objects.set(pinName(MACHINE, randomUUID(), 1), bytes);
    store.objects.set(`${pinsPrefix(MACHINE)}what`, bytes);
    const broken = Buffer.from(bytes);
    broken[30] = (broken[30] ?? 0) ^ 1;
    store.objects.set(pinName(MACHINE, randomUUID(), 1), broken);
    const { pins, unreadable } = await readPins(store, MACHINE);
    expect(pins).toHaveLength(1);
    expect(unreadable).toHaveLength(3);
    expect((await loadHeld(store, MACHINE, clock.nowMs())).blockers).toHaveLength(3);
    await holder.release();
  });

  test('one that is renewed between listing and reading is not passed over', async () => {
    const holder = await PinHolder.acquire(depsOf(), MACHINE, WISH);
    let renewals = 3;
    const racing = storeThrough(store, async (what, work) => {
      if (what.startsWith('get') && renewals-- > 0) await clock.pass(PIN_TTL_MS / 3);
      return work();
    });
    expect(await readPins(racing, MACHINE)).toMatchObject({ pins: [{ id: holder.id, sequence: 4 }], unreadable: [] });
    renewals = Infinity;
    expect(await readPins(racing, MACHINE)).toMatchObject({
      pins: [],
      unreadable: [{ why: expect.stringContaining('faster') as unknown }],
    });
    await holder.release();
    expect(await readPins(racing, MACHINE)).toEqual({ pins: [], superseded: [], unreadable: [] });
  });

  test('ended ones are removed, live ones and the signs of their holders stay', async () => {
    const dead = await PinHolder.acquire(depsOf(), MACHINE, WISH);
    const objects = new Map(store.objects);
    await dead.release();
    for (const [name, bytes] of objects) store.objects.set(name, bytes);
    await clock.pass(2 * PIN_TTL_MS);
    const holder = await PinHolder.acquire(
      depsOf((what, work) => (what.startsWith('delete') ? Promise.reject(denied) : work())),
      MACHINE,
      WISH,
    );
    await clock.pass(PIN_TTL_MS);
    expect(await endPins(store, MACHINE, clock.nowMs())).toMatchObject({ pins: [{ id: holder.id, sequence: 4 }] });
    expect(pinNames()).toEqual([pinName(MACHINE, holder.id, 3), pinName(MACHINE, holder.id, 4)]);
    await clock.pass(PIN_TTL_MS);
    expect(holder.lost.aborted).toBe(false);
    await holder.release();
  });

  test.each(['before the deletion', 'before the last look', 'after it'])(
    'a holder that slept through its pin and wakes %s either counts or knows that it does not',
    async (wakes) => {
      const holder = await PinHolder.acquire(depsOf(), MACHINE, WISH);
      // Its host slept: the wall's clock went on, its timers did not.
      clock.jump(2 * PIN_TTL_MS);
      let listings = 0;
      const upkeep = storeThrough(store, async (what, work) => {
        const isLastLook = what.startsWith('list') && ++listings === 2;
        const isNow = what.startsWith('delete')
          ? wakes === 'before the deletion'
          : isLastLook && wakes === 'before the last look';
        if (isNow) await clock.pass(PIN_TTL_MS / 3);
        return work();
      });
      const { pins } = await endPins(upkeep, MACHINE, clock.nowMs());
      if (wakes === 'after it') await clock.pass(PIN_TTL_MS / 3);
      expect([pins.length, holder.lost.aborted]).toEqual(
        wakes === 'before the deletion' ? [1, false] : [wakes === 'after it' ? 0 : 1, true],
      );
      await holder.release();
    },
  );
});

describe('in a store that locks every object', () => {
  const LOCK_MS = 100 * PIN_TTL_MS;
  let locking: LockingStore;
  beforeEach(() => {
    locking = store = new LockingStore(clock, LOCK_MS);
  });

  test('pins end, are not asked for again before their lock ends, and go then', async () => {
    const locked = new LockedNames();
    const holder = await PinHolder.acquire(depsOf(), MACHINE, WISH);
    await clock.pass(3 * PIN_TTL_MS);
    expect(holder.lost.aborted).toBe(false);
    await holder.release();
    await clock.pass(2 * PIN_TTL_MS);
    locking.asked.length = 0;
    for (let i = 0; i < 5; i++) {
      const { pins } = await endPins(store, MACHINE, clock.nowMs(), locked);
      expect(pins.filter((pin) => isPinLive(pin, clock.nowMs()))).toEqual([]);
    }
    const names = locking.asked.map(({ name }) => name);
    expect(names.length).toBeGreaterThan(3);
    expect(new Set(names).size).toBe(names.length);
    await clock.pass(LOCK_MS);
    await endPins(store, MACHINE, clock.nowMs(), locked);
    expect(pinNames()).toEqual([]);
  });

  test.each(['before the deletion', 'before the last look', 'after it'])(
    'a holder that slept through its pin and wakes %s either counts or knows that it does not',
    async (wakes) => {
      const holder = await PinHolder.acquire(depsOf(), MACHINE, WISH);
      clock.jump(2 * PIN_TTL_MS);
      let listings = 0;
      const upkeep = storeThrough(store, async (what, work) => {
        const isLastLook = what.startsWith('list') && ++listings === 2;
        const isNow = what.startsWith('delete')
          ? wakes === 'before the deletion'
          : isLastLook && wakes === 'before the last look';
        if (isNow) await clock.pass(PIN_TTL_MS / 3);
        return work();
      });
      const { pins } = await endPins(upkeep, MACHINE, clock.nowMs());
      if (wakes === 'after it') await clock.pass(PIN_TTL_MS / 3);
      const live = pins.filter((pin) => isPinLive(pin, clock.nowMs()));
      expect([live.length, holder.lost.aborted]).toEqual(wakes === 'before the deletion' ? [1, false] : [0, true]);
      await holder.release();
    },
  );
});

describe('a pinned point', () => {
  const chain = (): Chain => {
    const made = new Chain(store, { sizeBytes: 2 * MIB, blockBytes: 4096 });
    for (let p = 1; p <= 4; p++) made.point(p);
    return made;
  };

  test('the pin stands before the head that is planned from is read, and names a manifest not newer than it', async () => {
    const made = chain();
    await made.publish();
    const asked: string[] = [];
    const deps = depsOf((what, work) => {
      asked.push(what);
      return work();
    });
    const pinned = await openPinned(deps, MACHINE, { by: 'latest', levels: ['crash'] }, 'test');
    const wrote = asked.findIndex((w) => w.startsWith('create'));
    expect(asked.slice(wrote + 1)).toContain(`get ${manifestName(MACHINE, 1)}`);
    const [pin] = await livePins();
    expect(pin).toMatchObject({ point: 4, manifest: 1, holder: 'test' });
    expect(pin?.manifest).toBeLessThanOrEqual(pinned.view.manifest.number);
    await pinned.release();
    expect(pinNames()).toEqual([]);
  });

  test('a point that is dropped between the two looks is not planned from', async () => {
    const made = chain();
    await made.publish();
    let isFirst = true;
    const deps = depsOf(async (what, work) => {
      const result = await work();
      if (isFirst && what.startsWith('create')) {
        isFirst = false;
        made.points.splice(3, 1);
        await made.publish();
      }
      return result;
    });
    const pinned = await openPinned(deps, MACHINE, { by: 'latest', levels: ['crash'] }, 'test');
    expect(pinned.point.number).toBe(3);
    expect(await livePins()).toMatchObject([{ point: 3, manifest: 2 }]);
    await pinned.release();
    isFirst = true;
    made.points.splice(0, 2);
    await made.publish();
    await expect(openPinned(deps, MACHINE, { by: 'number', number: 1 }, 'test')).rejects.toMatchObject({
      code: 'point-unknown',
    });
    expect(pinNames()).toEqual([]);
  });

  test('a store that takes no pin is read without one, and that is said', async () => {
    await chain().publish();
    const readOnly = depsOf((what, work) => (what.startsWith('create') ? Promise.reject(denied) : work()));
    const pinned = await openPinned(readOnly, MACHINE, { by: 'number', number: 2 }, 'test');
    expect(pinned.point.number).toBe(2);
    expect(pinned.warning).toContain('without a pin (read-only)');
    expect(pinned.lost.aborted).toBe(false);
    await pinned.release();
    expect(pinNames()).toEqual([]);
  });
});
