/**
 * Layers of which nobody knows what they held, several of them at once, and what becomes of a repair that was interrupted: what can be had again is had
 * again, however often it is tried, and what can't is named.
 * Proven to be able to fail: with lost layers mended one by one, with blocks taken from the newest point instead of the one that sent them, and without the
 * note of when they were asked for.
 */
import { beforeEach, describe, expect, it } from 'vitest';
import { isOpen, type DamageItem } from '../../receiver/catalog/damage.js';
import { loadDamage } from '../../receiver/catalog/damage-io.js';
import { addHold, removeHold } from '../../receiver/catalog/holds.js';
import type { LayerRef } from '../../receiver/catalog/manifest.js';
import { writtenUnder } from '../../receiver/catalog/names.js';
import { subsetWithXor } from '../../receiver/upkeep/scrub-subset.js';
import { systemClock } from '../../shared/clock.js';
import { AfterimageError } from '../../shared/errors.js';
import { CHUNK_HEADER_BYTES } from '../../shared/layer/chunk.js';
import { LAYER_HEADER_BYTES } from '../../shared/layer/layer.js';
import { MACHINE } from '../session/ingest-fixture.js';
import { storeThrough } from '../helpers/memory-store.js';
import { randomOf } from '../helpers/random.js';
import { scrub } from './finished-store.js';
import { GEOMETRY, MODES, Source, type Blocks } from './source.js';

/** Within the payload of the first chunk. */
const IN_FIRST_CHUNK = LAYER_HEADER_BYTES + CHUNK_HEADER_BYTES + 20;

let source: Source;
let bases: LayerRef[];

const write = (tag: string, ...numbers: number[]): Blocks =>
  new Map(numbers.map((n) => [n, Source.block(`${tag} ${n} `)]));
const items = async (): Promise<readonly DamageItem[]> => (await loadDamage(source.store, MACHINE))?.items ?? [];

async function scrubAndRepair(): Promise<void> {
  await scrub(source.store, MACHINE);
  await source.repair();
}

async function expectWhole(...points: number[]): Promise<void> {
  expect([...(await source.restorable())]).toEqual(points.map((p) => [p, true]));
  const { findings } = await scrub(source.store, MACHINE);
  expect(findings).toEqual([]);
  expect((await items()).filter(isOpen)).toEqual([]);
}

describe('which numbers XOR to a sum', () => {
  const random = randomOf(11);
  const number = (): bigint => (BigInt(Math.floor(random() * 2 ** 32)) << 32n) | BigInt(Math.floor(random() * 2 ** 32));

  it('is told of as many as are asked for', () => {
    for (let n = 0; n <= 32; n++) {
      const numbers = Array.from({ length: n }, number);
      const wanted = numbers.map((_, i) => i).filter(() => random() < 0.5);
      const sum = wanted.reduce((xor, i) => xor ^ (numbers[i] ?? 0n), 0n);
      expect(subsetWithXor(numbers, sum)).toEqual(wanted);
      if (n > 0) expect(subsetWithXor(numbers, number())).toBeNull();
    }
  });

  it('is not told when there are two ways', () => {
    expect(subsetWithXor([5n, 6n, 3n], 3n)).toBeNull();
    expect(subsetWithXor([7n, 7n], 7n)).toBeNull();
    expect(subsetWithXor([], 0n)).toEqual([]);
  });
});

describe.each(MODES)('encryption: %s', (mode) => {
  beforeEach(async () => {
    source = await Source.open(mode);
    source.set(write('first', 0, 1, 2, 3, 4, 5, 20, GEOMETRY.blocksPerSegment + 3));
    bases = await source.bases(0);
    await source.point(write('one', 1, 7));
  });

  describe('two lost layers of one disk', () => {
    it('with blocks of their own are both made anew', async () => {
      const [two, three] = [await source.point(write('two', 2, 8)), await source.point(write('three', 30, 31))];
      await source.point(write('four', 40));
      source.remove(two.layers[0]);
      source.remove(three.layers[0]);
      await scrubAndRepair();
      expect((await items()).map((item) => item.state)).toEqual(['repaired', 'repaired']);
      await expectWhole(1, 2, 3, 4, 5);
    });

    it('of which the second wrote over the first: only the point between them is lost', async () => {
      const [two, three] = [await source.point(write('two', 2, 8)), await source.point(write('three', 8, 31))];
      await source.point(write('four', 40));
      source.remove(two.layers[0]);
      source.remove(three.layers[0]);
      await scrubAndRepair();
      expect((await items()).map(({ state, points }) => [state, points.map((p) => p.first)])).toEqual([
        ['lost', [2]],
        ['lost', [2]],
      ]);
      expect([...(await source.restorable())]).toEqual([1, 3, 4, 5].map((p) => [p, true]));
    });

    it('with more blocks than digests can tell apart: the point between them is lost, by name', async () => {
      const many = (from: number): number[] => Array.from({ length: 20 }, (_, i) => from + i);
      const two = await source.point(write('two', ...many(100)));
      const three = await source.point(write('three', ...many(200)));
      source.remove(two.layers[0]);
      source.remove(three.layers[0]);
      await scrubAndRepair();
      expect((await items())[0]).toMatchObject({ state: 'lost', points: [{ first: 2, last: 2 }] });
      expect([...(await source.restorable())]).toEqual([1, 3, 4].map((p) => [p, true]));
    });

    it('with a whole one between them that wrote over the first', async () => {
      const two = await source.point(write('two', 2, 8));
      await source.point(write('three', 8));
      const four = await source.point(write('four', 8, 31));
      await source.point(write('five', 40));
      source.remove(two.layers[0]);
      source.remove(four.layers[0]);
      await scrubAndRepair();
      // Block 8 as it was at point 2 is nowhere any more; at point 3 it is in that point's own layer.
      expect([...(await source.restorable())]).toEqual([1, 3, 4, 5, 6].map((p) => [p, true]));
    });

    it('of which one is a base', async () => {
      const two = await source.point(write('two', 2, 8));
      await source.point(write('three', 30));
      source.remove(bases[0]);
      source.remove(two.layers[0]);
      await scrubAndRepair();
      // A base has all of its segment: what the lost layer brought can't be told from what was there before it.
      expect([...(await source.restorable())]).toEqual([2, 3, 4].map((p) => [p, true]));
    });

    it('and a damaged one, on which no other waits', async () => {
      const [two, three] = [await source.point(write('two', 2, 8)), await source.point(write('three', 30, 31))];
      const four = await source.point(write('four', 40, 41, 42, 43, 44, 45));
      source.remove(two.layers[0]);
      source.remove(three.layers[0]);
      source.flip(four.layers[0], 150);
      await scrubAndRepair();
      expect((await items()).map((item) => item.state)).toEqual(['repaired', 'repaired', 'repaired']);
      expect((await source.restorable()).size).toBeGreaterThanOrEqual(5);
      expect([...(await source.restorable()).values()].every(Boolean)).toBe(true);
    });
  });

  describe('a layer of which a part was given up', () => {
    const lostInPart = async (): Promise<{ two: LayerRef | undefined; three: LayerRef | undefined }> => {
      const two = await source.point(write('two', 2, 8));
      const three = await source.point(write('three', 2, 8, 31));
      await source.point(write('four', 40));
      source.flip(two.layers[0], IN_FIRST_CHUNK);
      await scrubAndRepair();
      expect(await items()).toMatchObject([{ state: 'lost', points: [{ first: 2, last: 2 }] }]);
      return { two: two.layers[0], three: three.layers[0] };
    };

    it('stays so as long as it is no worse', async () => {
      await lostInPart();
      const [before] = await items();
      await scrubAndRepair();
      expect((await items()).map(({ state, reason }) => [state, reason])).toEqual([['lost', before?.reason]]);
    });

    it('and that is gone altogether later is mended again, and keeps no other from it', async () => {
      const { two, three } = await lostInPart();
      source.remove(two);
      source.remove(three);
      await scrubAndRepair();
      expect(new Set((await items()).map(({ state }) => state))).toEqual(new Set(['lost']));
      const points = await source.restorable();
      expect([...points.values()].every(Boolean)).toBe(true);
      // Point 2 is lost for good, and point 3 with it: nobody knows what of the two layers was whose.
      expect([1, 4].every((p) => points.has(p))).toBe(true);
      expect((await scrub(source.store, MACHINE)).findings).toEqual([]);
    });
  });

  it('two layers with broken indexes are made anew of their own chunks, and nobody is asked', async () => {
    const [two, three] = [await source.point(write('two', 2, 8)), await source.point(write('three', 8, 31))];
    source.flip(two.layers[0], -60);
    source.flip(three.layers[0], -60);
    await scrubAndRepair();
    expect(source.asked).toEqual([]);
    await expectWhole(1, 2, 3);
  });

  describe('a repair that did not come to its end', () => {
    /** The layer of point 2 is lost; point 4 has what was sent. */
    const killedAfterTheAgentHasSent = async (): Promise<void> => {
      const { layers } = await source.point(write('two', 2, 8));
      await source.point(write('three', 30));
      source.remove(layers[0]);
      await scrub(source.store, MACHINE);
      source.through = storeThrough(source.store, (what, work) => {
        // The first thing that is written after it: as if the process had been killed there.
        if (what.startsWith('open ') && source.asked.length > 0)
          throw new AfterimageError('gone', { code: 'x', kind: 'io' });
        return work();
      });
      await source.repair();
      source.through = source.store;
    };

    it('after the agent has sent: the next one finds what was sent, and asks nobody', async () => {
      await killedAfterTheAgentHasSent();
      expect((await items())[0]).toMatchObject({ state: 'found', askedAfter: 3 });
      const asked = source.asked.length;
      expect(asked).toBeGreaterThan(0);
      // The source goes on meanwhile, and writes over what was sent.
      await source.point(write('five', 2));
      await source.repair();
      expect(source.asked.length).toBe(asked);
      await expectWhole(1, 2, 3, 4, 5);
    });

    it('and what was sent is damaged and overwritten since: what can be had is had, and nothing waits for ever', async () => {
      await killedAfterTheAgentHasSent();
      const sent = source.owned.manifest.tail.deltas.at(-1)?.layer;
      expect(sent?.lastPoint).toBe(4);
      await source.point(write('five', 2));
      await source.point(write('six', 40));
      source.flip(sent, IN_FIRST_CHUNK);
      await scrubAndRepair();
      await source.repair();
      expect((await items()).filter(({ state }) => state === 'found' || state === 'asked')).toEqual([]);
      const points = await source.restorable();
      const newest = source.owned.manifest.lastPoint;
      expect([...points].filter(([p]) => p === 1 || p >= 5)).toEqual(
        [1, ...Array.from({ length: newest - 4 }, (_, i) => i + 5)].map((p) => [p, true]),
      );
      // Block 2 as it was is nowhere; what is listed and lacks it fails.
      expect([...points].filter(([p]) => p > 1 && p < 4)).toEqual([]);
    });

    it('because a point was held: it is mended as far as it goes once that is released', async () => {
      const { layers } = await source.point(write('two', 2, 8));
      await source.point(write('three', 2));
      await source.point(write('four', 40));
      source.remove(layers[0]);
      const deps = { store: source.store, clock: systemClock };
      await addHold(deps, MACHINE, { name: 'audit', point: 2, note: '' });
      const before = new Set(source.store.objects.keys());
      await scrubAndRepair();
      expect((await items())[0]).toMatchObject({ state: 'found', reason: expect.stringContaining('held') as string });
      // What it made for nothing is for the collection, and doesn't pile up while somebody holds the point.
      const made = [...source.store.objects.keys()].filter((name) => name.includes('/delta/') && !before.has(name));
      expect(made.length).toBeGreaterThan(1);
      expect(made.filter((name) => source.owned.isInFlight(writtenUnder(name)?.sequence ?? 0))).toEqual([]);
      await removeHold(deps, MACHINE, 'audit');
      await source.repair();
      expect((await items())[0]).toMatchObject({ state: 'lost', points: [{ first: 2, last: 2 }] });
      expect([...(await source.restorable())]).toEqual([1, 3, 4, 5].map((p) => [p, true]));
    });
  });

  it('an object that the receiver has a whole copy of is made anew of that, and is not taken for whole', async () => {
    const { layers } = await source.point(write('two', 2, 8));
    await source.point(write('three', 2));
    const name = source.nameOf(layers[0]);
    const copy = Buffer.from(source.store.objects.get(name) ?? '');
    source.remove(layers[0]);
    // A store that keeps copies, as the receiver's does of a bucket.
    const cached = storeThrough(source.store, (_what, work) => work());
    source.through = {
      ...cached,
      get: async (n, max) => (n === name ? Buffer.from(copy) : cached.get(n, max)),
      read: async (n, offset, length, room) =>
        n === name ? Buffer.from(copy.subarray(offset, offset + length)) : cached.read(n, offset, length, room),
    };
    await scrubAndRepair();
    expect(source.asked).toEqual([]);
    expect((await items())[0]).toMatchObject({ state: 'repaired', reason: expect.stringContaining('copy') as string });
    source.through = source.store;
    await expectWhole(1, 2, 3);
  });
});
