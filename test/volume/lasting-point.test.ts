/**
 * Volumes over a point whose layers are merged, rebuilt and deleted under them: the bytes stay those of the point, with a pin, after the pin was lost, and
 * without one; and what can't be had is an error, never other bytes.
 */
import { randomUUID } from 'node:crypto';
import { beforeEach, expect, test } from 'vitest';
import { layerName, pinsPrefix } from '../../receiver/catalog/names.js';
import { readPins } from '../../receiver/catalog/pins.js';
import { IndexCache } from '../../receiver/volume/index-cache.js';
import { LastingPoint } from '../../receiver/volume/lasting-point.js';
import { openPointContent } from '../../receiver/volume/point-content.js';
import { AfterimageError } from '../../shared/errors.js';
import { PIN_TTL_MS, REPLAN_RETRY_MS } from '../../shared/limits-retention.js';
import { silentLogger } from '../../shared/log.js';
import { MIB } from '../../shared/units.js';
import { Chain, DISK, MACHINE } from '../helpers/layers.js';
import { ManualClock } from '../helpers/manual-clock.js';
import { MemoryStore, storeThrough, type Around } from '../helpers/memory-store.js';

const BLOCK = 4096;
let memory: MemoryStore;
let clock: ManualClock;
let chain: Chain;
beforeEach(async () => {
  memory = new MemoryStore();
  clock = new ManualClock();
  chain = new Chain(memory, { sizeBytes: 2 * MIB, blockBytes: BLOCK });
  for (let p = 1; p <= 3; p++) {
    const changes = [{ first: 10 * p, blocks: [chain.block(10 * p, `a${p}`), chain.block(10 * p + 1, `b${p}`)] }];
    chain.apply(changes);
    await chain.delta(p, p, changes);
    chain.point(p);
  }
  await chain.publish();
});

function open(around: Around = (_what, work) => work()): Promise<LastingPoint> {
  const store = storeThrough(memory, around);
  const cache = new IndexCache();
  const deps = { store, clock, randomId: randomUUID, log: silentLogger() };
  return LastingPoint.open(
    { ...deps, openContent: (view, point, disk, signal) => openPointContent(store, view, point, disk, cache, signal) },
    MACHINE,
    { by: 'number', number: 2 },
    'test',
  );
}

/** As upkeep does: all deltas up to point 2 become one; the old ones are deleted. */
async function mergeAndCollect(): Promise<void> {
  const old = chain.deltas.splice(0, 2);
  const model = chain.models.get(2) ?? new Map<number, Buffer>();
  const changes = [...model].map(([first, bytes]) => ({ first, blocks: [bytes] }));
  await chain.delta(1, 2, changes);
  await chain.publish();
  for (const layer of old) memory.objects.delete(layerName(MACHINE, DISK, layer));
}

async function expectPoint2(content: {
  read(first: number, count: number, into: Buffer): Promise<void>;
}): Promise<void> {
  const into = Buffer.alloc(40 * BLOCK);
  await content.read(0, 40, into);
  const model = chain.models.get(2) ?? new Map<number, Buffer>();
  for (let b = 0; b < 40; b++) {
    expect(into.subarray(b * BLOCK, (b + 1) * BLOCK).equals(model.get(b) ?? Buffer.alloc(BLOCK)), `block ${b}`).toBe(
      true,
    );
  }
}

test('it is pinned while it is open, and not any longer', async () => {
  const lasting = await open();
  const content = await lasting.content(DISK);
  await clock.pass(3 * PIN_TTL_MS);
  expect((await readPins(memory, MACHINE)).pins).toMatchObject([{ point: 2, manifest: 1, holder: 'test' }]);
  await expectPoint2(content);
  await lasting.release();
  expect([...memory.objects.keys()].filter((n) => n.startsWith(pinsPrefix(MACHINE)))).toEqual([]);
});

test('the pin is lost and the layers go: it is pinned and planned anew before anybody reads', async () => {
  let isDown = false;
  const lasting = await open((_what, work) => (isDown ? Promise.reject(new Error('down')) : work()));
  const content = await lasting.content(DISK);
  isDown = true;
  await clock.pass(2 * PIN_TTL_MS);
  await mergeAndCollect();
  isDown = false;
  await clock.pass(REPLAN_RETRY_MS);
  expect((await readPins(memory, MACHINE)).pins.filter((p) => p.manifest === 2)).toMatchObject([{ point: 2 }]);
  await expectPoint2(content);
  await lasting.release();
});

test('without a pin, layers that go are found out by the read that misses them, which is answered all the same', async () => {
  const denied = new AfterimageError('read-only', { code: 'store-denied', kind: 'io' });
  const lasting = await open((what, work) => (what.startsWith('create') ? Promise.reject(denied) : work()));
  expect(lasting.warning).toContain('read-only');
  const content = await lasting.content(DISK);
  await mergeAndCollect();
  await Promise.all([expectPoint2(content), expectPoint2(content), expectPoint2(content)]);
  await lasting.release();
});

test('a layer that is really gone is an error for those who need it, and planned anew for once in a while only', async () => {
  let listings = 0;
  const lasting = await open((what, work) => {
    // Each is followed by one of the second copies.
    if (what.startsWith('list') && what.includes('manifest') && !what.includes('copies/')) listings++;
    return work();
  });
  const content = await lasting.content(DISK);
  for (const layer of chain.deltas.slice(0, 2)) memory.objects.delete(layerName(MACHINE, DISK, layer));
  const before = listings;
  for (let i = 0; i < 20; i++) {
    await expect(content.read(10, 1, Buffer.alloc(BLOCK))).rejects.toMatchObject({ kind: 'corrupt' });
  }
  expect(listings - before).toBeLessThanOrEqual(3);
  await lasting.release();
});
