/**
 * What is damaged is mended from what is left: the layer's own chunks, other layers, the agent; what is nowhere is named as lost, and never made up. In the
 * clear, encrypted by the receiver, and encrypted by the source, whose key the receiver doesn't have.
 */
import { beforeEach, describe, expect, it } from 'vitest';
import { isOpen, type DamageItem } from '../../receiver/catalog/damage.js';
import { loadDamage } from '../../receiver/catalog/damage-io.js';
import type { LayerRef } from '../../receiver/catalog/manifest.js';
import { holdsName } from '../../receiver/catalog/names.js';
import { MachineReader } from '../../receiver/catalog/reader.js';
import { sealJson } from '../../receiver/catalog/sealed-json.js';
import { CHUNK_HEADER_BYTES } from '../../shared/layer/chunk.js';
import { LAYER_HEADER_BYTES } from '../../shared/layer/layer.js';
import { planOf } from '../helpers/restore.js';
import { DISK, MACHINE } from '../session/ingest-fixture.js';
import { scrub } from './finished-store.js';
import { GEOMETRY, MODES, Source, type Blocks } from './source.js';

let source: Source;
let bases: LayerRef[];

const write = (tag: string, ...numbers: number[]): Blocks =>
  new Map(numbers.map((n) => [n, Source.block(`${tag} ${n} `)]));
const items = async (): Promise<readonly DamageItem[]> => (await loadDamage(source.store, MACHINE))?.items ?? [];
const only = async (): Promise<DamageItem | undefined> => (await items())[0];
/** A byte of the first chunk's stored data. */
const IN_FIRST_CHUNK = LAYER_HEADER_BYTES + CHUNK_HEADER_BYTES + 20;

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

describe.each(MODES)('encryption: %s', (mode) => {
  beforeEach(async () => {
    source = await Source.open(mode);
    source.set(write('first', 0, 1, 2, 3, 4, 5, 20, GEOMETRY.blocksPerSegment + 3));
    bases = await source.bases(0);
    await source.point(write('one', 1, 7));
  });

  describe('a damaged chunk', () => {
    it('whose blocks are still what the source holds is asked for, and all points are whole again', async () => {
      const { layers } = await source.point(write('two', 2, 8, 9, 10, 11, 12));
      await source.point(write('three', 30));
      source.flip(layers[0], IN_FIRST_CHUNK);
      expect([...(await source.restorable()).values()]).toEqual([true, false, false]);
      await scrubAndRepair();
      // The first chunk's blocks, and no others.
      expect(source.asked).toEqual([2, 8, 9, 10]);
      expect(await only()).toMatchObject({ state: 'repaired', points: [{ first: 2, last: null }] });
      await expectWhole(1, 2, 3, 4);
    });

    it('of a base is asked for as well', async () => {
      source.flip(bases[0], IN_FIRST_CHUNK);
      await scrubAndRepair();
      // Block 1 was written since, and point 1 has it.
      expect(source.asked).toEqual([0, 2, 3]);
      // What block 1 was before the first point is nowhere, and no point needs it.
      expect(await only()).toMatchObject({ state: 'repaired' });
      await expectWhole(1, 2);
    });

    it('of a base of which a part is nowhere takes nothing with it that is whole', async () => {
      await source.point(write('two', 0));
      source.flip(bases[0], IN_FIRST_CHUNK);
      await scrubAndRepair();
      expect(source.asked).toEqual([2, 3]);
      expect(await only()).toMatchObject({ state: 'lost', points: [{ first: 1, last: 2 }] });
      // What the base has in other chunks is in the newest point still.
      expect([...(await source.restorable())]).toEqual([
        [1, false],
        [2, false],
        [3, true],
      ]);
    });

    it('is replaced from another layer that has the same blocks, without asking', async () => {
      const { number, layers } = await source.point(write('two', 2, 8));
      await source.bases(number);
      source.flip(layers[0], IN_FIRST_CHUNK);
      // A base of the same point hides it: only its neighbours are read at all.
      await scrubAndRepair();
      expect(source.asked).toEqual([]);
      expect(await only()).toMatchObject({ state: 'repaired' });
      await expectWhole(1, 2);
    });

    it('that was overwritten at the source since is lost for the points in between, by name, and newer ones are whole', async () => {
      const { layers } = await source.point(write('two', 2, 8));
      await source.point(write('three', 2));
      await source.point(write('four', 8));
      await source.point(write('five', 40));
      source.flip(layers[0], IN_FIRST_CHUNK);
      await scrubAndRepair();
      expect(source.asked).toEqual([]);
      const item = await only();
      expect(item).toMatchObject({ state: 'lost', points: [{ first: 2, last: 3 }] });
      expect(item?.reason).toContain('2 blocks');
      expect(item?.points[0]?.firstCutAtMs).toBe(1_700_000_000_000 + 10_000);
      // Never what was there before: reading them fails.
      expect([...(await source.restorable())]).toEqual([
        [1, true],
        [2, false],
        [3, false],
        [4, true],
        [5, true],
      ]);
    });

    it('of which one block is still there is mended as far as that goes', async () => {
      const { layers } = await source.point(write('two', 2, 8));
      await source.point(write('three', 2));
      source.flip(layers[0], IN_FIRST_CHUNK);
      await scrubAndRepair();
      expect(source.asked).toEqual([8]);
      expect(await only()).toMatchObject({ state: 'lost', points: [{ first: 2, last: 2 }] });
      expect([...(await source.restorable())]).toEqual([
        [1, true],
        [2, false],
        [3, true],
        [4, true],
      ]);
      // Never what was there before: also who reads single blocks, as a volume does, meets the damaged layer there.
      const { plan } = await planOf(source.store, MACHINE, DISK, 2);
      const meets = plan.units.find((unit) => unit.kind === 'delta' && unit.runs.includes(2));
      expect(meets).toMatchObject({ layer: layers[0] });
      // The latest is one that is whole.
      const view = await MachineReader.open(source.store, MACHINE);
      expect((await view.findPoint({ by: 'latest', levels: ['crash'] })).number).toBe(4);
    });

    it('that changes while it is asked for is lost for what was before', async () => {
      const { layers } = await source.point(write('two', 2));
      source.flip(layers[0], IN_FIRST_CHUNK);
      source.onAsked = async () => source.set(write('meanwhile', 2));
      await scrubAndRepair();
      expect(await only()).toMatchObject({ state: 'lost', points: [{ first: 2, last: 2 }] });
      expect([...(await source.restorable())]).toEqual([
        [1, true],
        [2, false],
        [3, true],
      ]);
    });

    it('waits for an agent that is not there', async () => {
      const { layers } = await source.point(write('two', 2));
      source.flip(layers[0], IN_FIRST_CHUNK);
      source.isThere = false;
      await scrubAndRepair();
      expect(await only()).toMatchObject({ state: 'found', reason: expect.stringContaining('agent') as string });
      const view = await MachineReader.open(source.store, MACHINE);
      expect((await view.findPoint({ by: 'latest', levels: ['crash'] })).number).toBe(1);
      expect(view.concerns.join()).toContain('point 2 is passed over');
      source.isThere = true;
      await source.repair();
      await expectWhole(1, 2, 3);
    });

    it('in the first of two parts of a point does not come to stand over the second', async () => {
      const { layers } = await source.point(write('part one', 2, 8, 9, 10, 11), write('part two', 11));
      source.flip(layers[0], IN_FIRST_CHUNK);
      await scrubAndRepair();
      await expectWhole(1, 2, 3);
    });

    it('in a history page is replaced there', async () => {
      const { layers } = await source.point(write('two', 2, 8));
      for (let i = 0; i < 70; i++) await source.point(write(`later ${i}`, 50 + (i % 3)));
      expect(source.owned.manifest.pages.length).toBe(1);
      source.flip(layers[0], IN_FIRST_CHUNK);
      await scrubAndRepair();
      expect(await only()).toMatchObject({ state: 'repaired' });
      const view = await MachineReader.open(source.store, MACHINE);
      const numbers: number[] = [];
      for await (const { number } of view.points()) numbers.push(number);
      expect(numbers.length).toBe(73);
      expect((await scrub(source.store, MACHINE)).findings).toEqual([]);
    });
  });

  describe('a damaged header, index or end', () => {
    it.each([
      // The manifest names the index: with it the header is needed by nobody who reads.
      ['header', 20, true],
      ['index', -60, false],
      ['footer', -10, false],
    ])('%s: the layer is made anew from its own chunks, nobody is asked', async (_what, at, isReadable) => {
      const { layers } = await source.point(write('two', 2, 8, 9, 10, 11, 12));
      source.flip(layers[0], at);
      expect((await source.restorable()).get(2)).toBe(isReadable);
      await scrub(source.store, MACHINE);
      expect((await only())?.points).toEqual(isReadable ? [] : [expect.objectContaining({ first: 2, last: null })]);
      await source.repair();
      expect(source.asked).toEqual([]);
      expect(await only()).toMatchObject({ state: 'repaired' });
      await expectWhole(1, 2);
    });
  });

  it('a broken header beside blocks that are nowhere: only points that have those are lost, and said to be', async () => {
    const { layers } = await source.point(write('two', 2, 8));
    await source.point(write('three', 2, 8));
    await source.point(write('four', 40));
    source.flip(layers[0], 20);
    source.flip(layers[0], IN_FIRST_CHUNK);
    await scrubAndRepair();
    expect(await only()).toMatchObject({ state: 'lost', points: [{ first: 2, last: 2 }] });
    expect([...(await source.restorable())]).toEqual([1, 2, 3, 4].map((p) => [p, p !== 2]));
  });

  describe('a lost layer', () => {
    it('whose blocks are all still there is made anew, and the digests prove it', async () => {
      const { layers } = await source.point(new Map([...write('two', 2, 8), [4, null]]));
      await source.point(write('three', 30));
      source.remove(layers[0]);
      expect([...(await source.restorable()).values()]).toEqual([true, false, false]);
      await scrubAndRepair();
      expect(await only()).toMatchObject({ state: 'repaired' });
      await expectWhole(1, 2, 3, 4);
    });

    it('of which blocks were overwritten: points that nobody can tell any more are named and not listed', async () => {
      const { layers } = await source.point(write('two', 2, 8));
      await source.point(write('three', 30));
      await source.point(write('four', 2));
      await source.point(write('five', 31));
      source.remove(layers[0]);
      await scrubAndRepair();
      const item = await only();
      expect(item).toMatchObject({ state: 'lost' });
      expect(item?.points.map((p) => p.first)).toEqual([2, 3]);
      expect([...(await source.restorable())]).toEqual([1, 4, 5, 6].map((p) => [p, true]));
    });

    it('that is a base is made anew from what the source still holds', async () => {
      source.remove(bases[1]);
      await scrubAndRepair();
      expect(await only()).toMatchObject({ state: 'repaired' });
      await expectWhole(1, 2);
    });

    it('is left alone while a held point would be lost with it', async () => {
      const { layers } = await source.point(write('two', 2));
      await source.point(write('three', 2));
      source.remove(layers[0]);
      const hold = { point: 2, name: 'audit', note: 'a case', heldAtMs: 1 };
      await source.store.createIfAbsent(
        holdsName(MACHINE, 1),
        sealJson({ version: 1, number: 1, writtenAtMs: 1, change: 'hold audit', holds: [hold] }),
      );
      await scrubAndRepair();
      expect(await only()).toMatchObject({ state: 'found', reason: expect.stringContaining('held') as string });
      expect([...(await source.restorable()).keys()].slice(0, 3)).toEqual([1, 2, 3]);
    });
  });
});
