/** The store on a real file system: torn journals, files that can't be believed, a full disk. */
import { cp, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { HashStore, UntrustedSegmentsError } from '../../agent/cycle/hash-store/store.js';
import { geometryOf } from '../../shared/blocks/geometry.js';
import { systemClock } from '../../shared/clock.js';
import { JOURNAL_BYTES_MAX } from '../../shared/limits.js';
import { KIB, MIB, asDiskId, asPoint, asSeriesId } from '../../shared/units.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { checkSame, isState } from './check.js';
import { MemoryFolder } from './memory-folder.js';
import { disk, emptyModel, geometry, openStore, seenOfStore, type Model, type Step } from './model.js';
import { firstSteps } from './plan.js';
import { Random } from './random.js';

removeTempFolders();

const CYCLE = '11111111-2222-3333-4444-555555555555';
const SERIES = asSeriesId('99999999-8888-7777-6666-555555555555');
const zero = { hashes: 'zero', point: asPoint(0), committedSeries: null, reason: 'first copy' } as const;
const entriesOf = (blocks: number[], hashes: bigint[]) => ({
  blocks: Uint32Array.from(blocks),
  hashes: BigUint64Array.from(hashes),
  length: blocks.length,
});
const nameOf = async (folder: string, prefix: string): Promise<string> =>
  join(folder, (await readdir(folder)).find((name) => name.startsWith(prefix)) ?? 'none');

/** A folder as a killed process leaves it after these steps, and the states on the way. */
async function killedAfter(steps: Step[]): Promise<{ folder: string; states: Model[] }> {
  const folder = await tempFolder('hash-store');
  const { store } = await openStore(folder, 'boot');
  for (const step of steps) await step.run(store);
  const copy = join(await tempFolder('hash-store'), 'store');
  await cp(folder, copy, { recursive: true });
  await store.close();
  return { folder: copy, states: [emptyModel, ...steps.map((step) => step.after)] };
}

describe('journal', () => {
  test('cut at every length: a state that was, and hashes that are its own', async () => {
    const random = new Random(1);
    const run = await smallCycles(random);
    const { bytes } = run.folder.content('journal');
    let cuts = 0;
    for (let length = bytes.length; length >= Math.max(16, bytes.length - 1200); length--) {
      const copy = run.folder.afterKill();
      copy.content('journal').bytes = bytes.subarray(0, length);
      // Another boot: `hashes` holds what the cut records did, and that must be seen.
      const { store: cut, state } = await openStore(copy, 'other');
      expect(state).toBe('recovered');
      const fits = [];
      for (const model of run.states) if (await isState(cut, model)) fits.push(model);
      expect(fits.length, `length ${length}`).toBeGreaterThan(0);
      if (length < bytes.length) cuts++;
      await cut.close();
    }
    expect(cuts).toBeGreaterThan(300);
  }, 60_000);

  test('a flipped bit anywhere in the last records is found', async () => {
    const random = new Random(2);
    const run = await smallCycles(random);
    const { bytes } = run.folder.content('journal');
    for (let at = bytes.length - 1; at > bytes.length - 1200; at -= 3) {
      const copy = run.folder.afterKill();
      const damaged = copy.content('journal').bytes;
      damaged[at] = (damaged[at] ?? 0) ^ (1 << random.below(8));
      // The same boot: the cut tail alone must be reason enough for doubt.
      const { store } = await openStore(copy, 'boot');
      expect(seenOfStore(store)).not.toBe(run.seen);
      let fits = false;
      for (const model of run.states) fits ||= await isState(store, model);
      expect(fits, `offset ${at}`).toBe(true);
      await store.close();
    }
  }, 60_000);

  test('is emptied by itself', async () => {
    const folder = await tempFolder('hash-store');
    const big = geometryOf(64 * MIB, 4 * KIB);
    const options = { dir: folder, disk, geometry: big, bootId: 'boot', clock: systemClock, syncJournal: false };
    const { store } = await HashStore.open(options);
    await store.reset(zero);
    const hashes = new BigUint64Array(big.blockCount);
    for (let i = 1; i <= 300; i++) {
      hashes.fill(BigInt(i));
      hashes[0] = BigInt(i * 1000);
      await store.replaceSegment(0, hashes, 'take');
    }
    expect((await stat(await nameOf(folder, 'journal'))).size).toBeLessThan(JOURNAL_BYTES_MAX);
    const copy = await copied(folder);
    await store.close();
    const { store: again } = await HashStore.open({ ...options, dir: copy });
    expect(await again.readSegment(0)).toEqual(hashes);
    await again.close();
  });
});

async function copied(folder: string): Promise<string> {
  const copy = join(await tempFolder('hash-store'), 'store');
  await cp(folder, copy, { recursive: true });
  return copy;
}

/** A few cycles with few blocks, and nothing that empties the journal. */
async function smallCycles(random: Random): Promise<{ folder: MemoryFolder; states: Model[]; seen: string }> {
  const folder = new MemoryFolder();
  const { store } = await openStore(folder, 'boot');
  await store.reset(zero);
  let model: Model = { ...emptyModel, unknown: new Set() };
  const states = [model];
  for (let cycle = 1; cycle <= 6; cycle++) {
    const changes = new Map(
      Array.from({ length: 8 }, () => [random.below(geometry.blockCount), random.hash()] as const),
    );
    const id = random.uuid();
    await store.prepare(id, entriesOf([...changes.keys()], [...changes.values()]));
    model = { ...model, prepared: { cycle: id, changes } };
    states.push(model);
    const hashes = model.hashes.slice();
    for (const [block, hash] of changes) hashes[block] = hash;
    await store.commit(id, asPoint(cycle), SERIES);
    const pointDigest = hashes.reduce((sum, hash) => sum ^ hash, 0n);
    model = { ...model, hashes, prepared: null, point: asPoint(cycle), series: SERIES, pointDigest };
    states.push(model);
  }
  return { folder, states, seen: seenOfStore(store) };
}

describe('files that are not believed', () => {
  const open = (dir: string, change: object = {}) =>
    HashStore.open({ dir, disk, geometry, bootId: 'boot', clock: systemClock, syncJournal: true, ...change });

  test.each([
    ['another disk', { disk: asDiskId('vdb') }, /belongs to disk vda/],
    ['a larger disk', { geometry: geometryOf(192 * MIB, 64 * KIB) }, /had 167804928 bytes and now has 201326592/],
    ['another block size', { geometry: geometryOf(160 * MIB + 32 * KIB, 32 * KIB) }, /block size was 65536/],
  ])('%s', async (_, change, reason) => {
    const { folder } = await killedAfter(firstSteps(3, 10));
    const { store, state, reason: why } = await open(folder, change);
    expect(state).toBe('invalid');
    expect(why).toMatch(reason);
    expect([store.point, store.digest, store.sweep]).toEqual([0, null, null]);
    await expect(store.readSegment(0)).rejects.toBeInstanceOf(UntrustedSegmentsError);
    await store.close();
  });

  test.each([
    ['checkpoint', (bytes: Buffer) => bytes.fill(0x55, 60, 61), /corrupt/],
    ['checkpoint', (bytes: Buffer) => bytes.subarray(0, 10), /too short/],
    ['checkpoint', (bytes: Buffer) => bytes.fill(0x39, 0, 1), /unknown format/],
    ['journal', (bytes: Buffer) => bytes.subarray(0, 9), /header/],
    ['hashes', (bytes: Buffer) => bytes.subarray(0, 800), /size/],
  ])('%s damaged', async (name, damage, reason) => {
    const { folder } = await killedAfter(firstSteps(3, 10));
    const path = await nameOf(folder, name);
    await writeFile(path, damage(await readFile(path)));
    const opened = await open(folder);
    expect(opened.state).toBe('invalid');
    expect(opened.reason).toMatch(reason);
    expect(opened.store.origin).toBe(opened.reason);
    await opened.store.close();
  });

  test('hashes changed while the machine was off', async () => {
    const { folder, states } = await killedAfter(firstSteps(5, 40));
    const path = await nameOf(folder, 'hashes');
    const bytes = await readFile(path);
    bytes[8 * 5] = (bytes[8 * 5] ?? 0) ^ 1;
    await writeFile(path, bytes);
    const { store } = await openStore(folder, 'other');
    expect(await store.verifySegment(0)).toBe(false);
    expect(await isState(store, states.at(-1) ?? emptyModel)).toBe(true);
    await store.close();
  });
});

describe('calls', () => {
  const fresh = async (): Promise<HashStore> => (await openStore(new MemoryFolder(), 'boot')).store;

  test('a new store knows nothing, and says so', async () => {
    const store = await fresh();
    expect(store.unknownSegments).toBe(3);
    expect(store.digest).toBeNull();
    await expect(store.prepare(CYCLE, entriesOf([], []))).rejects.toMatchObject({ code: 'hash-store-incomplete' });
    await expect(store.lookup(Uint32Array.of(2000, 3), 2, new BigUint64Array(2))).rejects.toMatchObject({
      code: 'hash-segment-untrusted',
      segments: [1, 0],
    });
    expect(store.failure).toBeNull();
  });

  test('a comparison fills in what was unknown', async () => {
    const store = await fresh();
    const random = new Random(9);
    await store.reset({
      hashes: 'unknown',
      point: asPoint(41),
      committedSeries: SERIES,
      reason: 'state directory was lost',
    });
    await store.beginSweep('comparison', SERIES);
    const all = new BigUint64Array(geometry.blockCount);
    for (let segment = 0; segment < 3; segment++) {
      const first = segment * geometry.blocksPerSegment;
      const hashes = random.hashes(Math.min(geometry.blocksPerSegment, geometry.blockCount - first));
      await store.replaceSegment(segment, hashes, 'take');
      hashes[7] = 77n;
      await store.stageSegment(segment, hashes, true);
      all.set(hashes, first);
    }
    expect(store.sweep).toEqual({ kind: 'comparison', series: SERIES, nextSegment: 3, stagedLayers: 3 });
    expect(store.digest).toBe(all.reduce((sum, hash) => sum ^ hash, 0n));
    await expect(store.endSweep()).rejects.toMatchObject({ code: 'hash-store-misuse' });
    await store.prepare(CYCLE, entriesOf([], []));
    await store.commit(CYCLE, asPoint(42), SERIES);
    expect([store.point, store.sweep, store.pointDigest]).toEqual([42, null, store.digest]);
  });

  test('hashes of the receiver that differ from what was committed are a dispute', async () => {
    const store = await fresh();
    await store.reset(zero);
    const hashes = new BigUint64Array(geometry.blocksPerSegment);
    hashes[3] = 5n;
    await expect(store.replaceSegment(1, hashes, 'must-agree')).rejects.toMatchObject({
      code: 'hash-segment-disputed',
    });
    expect(store.digest).toBe(0n);
    await store.replaceSegment(1, hashes, 'take');
    expect(store.digest).toBe(5n);
  });

  test.each([
    ['committed', 3n, asPoint(1)],
    ['dropped', 0n, asPoint(0)],
  ])('a cycle in doubt, %s', async (outcome, digest, point) => {
    const folder = new MemoryFolder();
    const { store } = await openStore(folder, 'boot');
    await store.reset(zero);
    const blocks = entriesOf([9, 2000, 9], [8n, 2n, 1n]);
    expect(await store.prepare(CYCLE, blocks)).toEqual({ digest: 3n });
    await store.checkpoint();
    let last = folder.afterKill();
    const opened = (await openStore(last, 'boot-2')).store;
    expect([opened.inDoubtCycle, opened.digest, opened.point]).toEqual([CYCLE, 0n, 0]);
    await expect(opened.prepare(SERIES, blocks)).rejects.toMatchObject({ code: 'hash-store-misuse' });
    await expect(opened.commit(SERIES, asPoint(1), null)).rejects.toMatchObject({ code: 'hash-store-misuse' });
    if (outcome === 'committed') await opened.commit(CYCLE, asPoint(1), SERIES);
    else await opened.drop(CYCLE);
    last = last.afterKill();
    const { store: final } = await openStore(last, 'boot-2');
    expect([final.inDoubtCycle, final.digest, final.point]).toEqual([null, digest, point]);
  });

  test('wrong calls change nothing', async () => {
    const store = await fresh();
    await store.reset(zero);
    const wrong = [
      store.prepare(CYCLE, entriesOf([geometry.blockCount], [1n])),
      store.lookup(Uint32Array.of(geometry.blockCount), 1, new BigUint64Array(1)),
      store.lookup(Uint32Array.of(0, 1), 2, new BigUint64Array(1)),
      store.readSegment(3),
      store.stageSegment(0, new BigUint64Array(geometry.blocksPerSegment), false),
      store.replaceSegment(2, new BigUint64Array(geometry.blocksPerSegment), 'take'),
      store.commit(CYCLE, asPoint(1), null),
    ];
    for (const call of wrong) await expect(call).rejects.toMatchObject({ code: 'hash-store-misuse' });
    await checkSame(store, { ...emptyModel, unknown: new Set() }, new Random(1));
    await store.close();
    await expect(store.checkpoint()).rejects.toMatchObject({ code: 'hash-store-misuse' });
  });

  test('a full disk: one clear failure, and all is there again when there is room', async () => {
    for (let extra = 1; extra < 12; extra++) {
      const folder = new MemoryFolder();
      const { store } = await openStore(folder, 'boot');
      const steps = firstSteps(77, 60);
      let [before, after] = [emptyModel, emptyModel];
      folder.fullAt(folder.operations + extra * 5);
      const failure = await (async () => {
        for (const step of steps) {
          after = step.after;
          await step.run(store);
          before = after;
        }
        return null;
      })().catch((error: unknown) => error);
      expect(failure).toMatchObject({ code: 'hash-store-full', kind: 'io' });
      await expect(store.verifySegment(0)).rejects.toBe(failure);
      expect(store.failure).toBe(failure);
      await store.close();
      folder.fullAt(Infinity);
      const again = (await openStore(folder, 'boot')).store;
      await checkSame(again, (await isState(again, before)) ? before : after, new Random(extra));
    }
  });
});
