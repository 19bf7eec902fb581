/**
 * Each object of a finished store, with its second copy where it has one, flipped, truncated, removed and swapped with another, one at a time: the damage is
 * found and named, the points that it concerns are marked, and no restore returns wrong bytes or lists fewer points without a word. Damage to one of the two
 * alone is mended: mended.test.ts.
 * Proven to be able to fail: with the check of a chunk's, a page's, a list's or a record's checksum taken out, with the witness left out, or with a point
 * that is concerned not marked.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { damageOf, isOpen } from '../../receiver/catalog/damage.js';
import { MachineReader } from '../../receiver/catalog/reader.js';
import { copyName, originalOf } from '../../receiver/catalog/second-copies.js';
import { ensureFormat } from '../../receiver/store/format.js';
import { LayerReader } from '../../receiver/volume/layer-reader.js';
import { planPoint } from '../../receiver/volume/plan-point.js';
import { AfterimageError } from '../../shared/errors.js';
import { restoreToMemory, wrongBlocks } from '../helpers/memory-target.js';
import { damages, kindOf, namesOfKind } from './damages.js';
import { finishedStore, KINDS_WITH_COPIES, scrub, type FinishedMachine, type FinishedStore } from './finished-store.js';

let finished: FinishedStore;
let whole: ReadonlyMap<string, Buffer>;

beforeAll(async () => {
  finished = await finishedStore();
  whole = new Map(finished.store.objects);
});

/** What the store is worth as it is: what is said of it, and what its points restore to. */
async function look(machine: FinishedMachine): Promise<{ named: string[]; text: string }> {
  const { store } = finished;
  const { findings, items } = await scrub(store, machine.machine);
  const open = items.filter(isOpen);
  const view = await MachineReader.openReadable(store, machine.machine).catch(mustBeCorrupt);
  const text = findings.map((f) => f.what).join('\n');
  if (view === null) return { named: findings.map((f) => f.object), text };
  const listed: number[] = [];
  try {
    for await (const point of view.points()) listed.push(point.number);
  } catch (error) {
    mustBeCorrupt(error);
    listed.push(...view.manifest.tail.points.map((p) => p.number));
  }
  for (const number of machine.models.keys()) {
    // What is not listed any more is spoken of, and "the latest" is not another point of a sudden.
    if (listed.includes(number)) continue;
    expect([...findings, ...view.concerns].length).toBeGreaterThan(0);
  }
  const newest = Math.max(...machine.models.keys());
  const latest = await view.findPoint({ by: 'latest', levels: ['crash'] }).catch(mustBeCorrupt);
  if (latest !== null && latest.number !== newest) expect(damageOf(items, newest)).toBeDefined();
  for (const number of listed) {
    const found = await restored(view, machine, number).catch(mustBeCorrupt);
    if (found !== null) expect(wrongBlocks(found, machine.models.get(number) ?? new Map<number, Buffer>())).toEqual([]);
    else expect(damageOf(open, number), `point ${number} can't be restored and is not marked\n${text}`).toBeDefined();
    if (latest?.number === number) expect(found).not.toBeNull();
  }
  return { named: findings.map((f) => f.object), text };
}

function mustBeCorrupt(error: unknown): null {
  if (error instanceof AfterimageError && error.kind === 'corrupt') return null;
  throw error;
}

async function restored(view: MachineReader, { machine, disk }: FinishedMachine, number: number) {
  const point = await view.findPoint({ by: 'number', number });
  const at = view.diskOf(point, disk);
  const reader = new LayerReader(finished.store, { machine, disk, blockBytes: at.blockBytes });
  const plan = await planPoint(reader, at, await view.layersFor(disk, number));
  return restoreToMemory({ reader, plan, point: number, disk: at });
}

async function expectFound(name: string, how: string): Promise<void> {
  const isOpenable = await ensureFormat(finished.store, false).then(
    () => true,
    () => false,
  );
  // Nothing is read or written by a program that can't tell what the bytes mean; a receiver doesn't make the place a new store either.
  if (!isOpenable) {
    expect(name === 'format' || how.endsWith(' format')).toBe(true);
    await expect(ensureFormat(finished.store, true)).rejects.toBeInstanceOf(AfterimageError);
    return;
  }
  const named: string[] = [];
  for (const machine of finished.machines) named.push(...(await look(machine)).named);
  // Nothing tells that there was a note of the scrub but the note itself. No point needs it; the next pass writes another.
  // The same of what is deleted in the course of things.
  if (['scrub', 'pins', 'boundary'].includes(kindOf(name)) && how === 'removed') expect(named).toEqual([]);
  else expect(named, `${name} ${how}`).toContain(name);
}

const KINDS = [...KINDS_WITH_COPIES, 'boundary', 'manifest', 'pins', 'scrub'].sort();

describe('every object of a finished store', () => {
  it('is what the list of kinds says', () => {
    const kinds = new Set([...whole.keys()].filter((name) => originalOf(name) === null).map(kindOf));
    expect([...kinds].sort()).toEqual(KINDS);
  });

  it.each(KINDS)('of kind %s is found, named and never restored wrongly when it is damaged', async (kind) => {
    let cases = 0;
    for (const name of namesOfKind(whole, kind)) {
      for (const [how, damage] of damages(whole, name)) {
        finished.store.objects.clear();
        for (const [n, bytes] of whole) finished.store.objects.set(n, bytes);
        damage(finished.store.objects);
        damage(finished.store.objects, copyName);
        await expectFound(name, how);
        cases++;
      }
    }
    expect(cases).toBeGreaterThan(8);
  });
});
