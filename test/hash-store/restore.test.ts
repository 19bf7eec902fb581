/** A store of a disk that is being restored: no point is believed, after whatever ends the process. */
import { describe, expect, it } from 'vitest';
import { HashStore } from '../../agent/cycle/hash-store/store.js';
import { geometryOf } from '../../shared/blocks/geometry.js';
import { digestToText } from '../../shared/blocks/hash.js';
import { systemClock } from '../../shared/clock.js';
import { asDiskId, asPoint, asSeriesId, MIB } from '../../shared/units.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';

removeTempFolders();
const SERIES = asSeriesId('aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeee1');
const CYCLE = '22222222-2222-4333-8444-555555555555';
const geometry = geometryOf(130 * MIB, 4096);
const entries = (...pairs: [number, bigint][]) => ({
  blocks: Uint32Array.from(pairs.map(([b]) => b)),
  hashes: BigUint64Array.from(pairs.map(([, h]) => h)),
  length: pairs.length,
});

async function open(dir: string, bootId = 'boot-1'): Promise<HashStore> {
  const options = { dir, disk: asDiskId('d'), geometry, bootId, clock: systemClock, syncJournal: true };
  return (await HashStore.open(options)).store;
}

async function withPoint(): Promise<{ dir: string; store: HashStore }> {
  const dir = await tempFolder('hash-restore');
  const store = await open(dir);
  await store.reset({ hashes: 'zero', point: asPoint(0), committedSeries: null, reason: 'test' });
  await store.prepare(CYCLE, entries([1, 11n], [20_000, 22n]));
  await store.commit(CYCLE, asPoint(5), SERIES);
  return { dir, store };
}

describe('restoring', () => {
  // Opened again without close: as after a kill; with another boot id: as after a power cut; closed: as after a stop.
  it.each([
    ['killed', 'boot-1', false],
    ['power cut', 'boot-2', false],
    ['stopped', 'boot-1', true],
  ])('%s in the middle: the point is gone, what was learned is there', async (_name, bootId, close) => {
    const { dir, store } = await withPoint();
    const base = { point: asPoint(5), digest: digestToText(store.digest ?? 0n) };
    await store.beginRestore({ series: SERIES, base, exactSegments: 3 });
    await store.learnBlocks(entries([1, 0n], [2, 33n]));
    if (close) await store.close();
    const again = await open(dir, bootId);
    expect([again.point, again.committedSeries, again.pointDigest]).toEqual([0, null, null]);
    expect(again.restore).toEqual({ series: SERIES, base, exactSegments: 3 });
    expect(again.digest).toBe(22n ^ 33n);
    await expect(again.prepare(CYCLE, entries())).rejects.toThrow('being restored');
    await expect(again.beginSweep('comparison', SERIES)).rejects.toThrow('being restored');
    await again.reset({ hashes: 'unknown', point: asPoint(9), committedSeries: SERIES, reason: 'compare' });
    expect(again.restore).toBeNull();
    await again.close();
    if (!close) await store.close().catch(() => undefined);
  });

  it('segments are learned in order, and the end makes a point', async () => {
    const { dir, store } = await withPoint();
    await store.beginRestore({ series: SERIES, base: null, exactSegments: 0 });
    const whole = (segment: number) =>
      new BigUint64Array(Math.min(16_384, geometry.blockCount - segment * 16_384)).fill(1n);
    await store.learnSegment(1, whole(1));
    expect(store.restore?.exactSegments).toBe(0);
    for (const segment of [0, 1, 2]) await store.learnSegment(segment, whole(segment));
    expect(store.restore?.exactSegments).toBe(3);
    await store.endRestore(asPoint(8), SERIES);
    expect([store.point, store.committedSeries, store.restore]).toEqual([8, SERIES, null]);
    await expect(store.learnBlocks(entries([1, 1n]))).rejects.toThrow('no restore');
    const again = await open(dir, 'boot-2');
    expect([again.point, again.committedSeries, again.restore]).toEqual([8, SERIES, null]);
    await again.close();
    await store.close().catch(() => undefined);
  });
});
