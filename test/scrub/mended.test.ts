/**
 * Each small object of a finished store, or its second copy, damaged in each way while the other one is whole: readers go on at once, the scrub names it, a
 * receiver mends it by itself, and afterwards all is as it was and a fresh receiver lists and restores everything.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { isOpen } from '../../receiver/catalog/damage.js';
import { loadDamage } from '../../receiver/catalog/damage-io.js';
import { MachineReader } from '../../receiver/catalog/reader.js';
import { copyName, originalOf } from '../../receiver/catalog/second-copies.js';
import { HeadCopy } from '../../receiver/upkeep/head-copy.js';
import { damages, kindOf, namesOfKind } from './damages.js';
import { finishedStore, KINDS_WITH_COPIES, scrub, type FinishedStore } from './finished-store.js';
import { mend, mustHaveEverything } from './mending.js';

let finished: FinishedStore;
let whole: ReadonlyMap<string, Buffer>;

beforeAll(async () => {
  finished = await finishedStore();
  for (const { machine } of finished.machines) {
    const { manifest } = await MachineReader.open(finished.store, machine);
    const copy = new HeadCopy();
    for (let run = 0; run < 2; run++) await copy.keep(finished.store, manifest);
  }
  whole = new Map(finished.store.objects);
});

const namedIn = (findings: readonly { readonly object: string }[]): string[] => findings.map(({ object }) => object);

async function mustBeMended(name: string, how: string): Promise<void> {
  const { store, machines } = finished;
  const isCopyGone = how === 'removed' && originalOf(name) !== null;
  for (const machine of machines) await mustHaveEverything(store, machine);
  const named: string[] = [];
  for (const { machine } of machines) named.push(...namedIn((await scrub(store, machine)).findings));
  // A copy that is gone is no damage: the pass makes it again.
  if (isCopyGone) expect(named).toEqual([]);
  else expect(named, how).toContain(name);
  for (const { machine } of machines) await mend(store, machine);
  for (const machine of machines) {
    const { findings, items } = await scrub(store, machine.machine);
    expect(namedIn(findings), `${name} ${how}`).toEqual([]);
    expect(namedIn(items.filter(isOpen)), `${name} ${how}`).toEqual([]);
    await mustHaveEverything(store, machine);
  }
  for (const [one, bytes] of whole)
    if (kindOf(one) !== 'scrub')
      expect(store.objects.get(one)?.equals(bytes), `${one} after ${name} ${how}`).toBe(true);
}

const isSmall = (name: string): boolean => kindOf(name) !== 'disks' || name.includes('/list/');

describe('every small object of a finished store', () => {
  it.each(KINDS_WITH_COPIES)('of kind %s is mended from its second copy, and the copy from it', async (kind) => {
    let cases = 0;
    for (const name of namesOfKind(whole, kind).filter(isSmall)) {
      for (const [how, damage] of damages(whole, name, true)) {
        const other = /^swapped with (.*)$/.exec(how)?.[1];
        // What is exchanged for a layer costs the layer, which has no copy.
        if (other !== undefined && (kindOf(other) !== kind || !isSmall(other))) continue;
        for (const where of [(same: string) => same, copyName]) {
          finished.store.objects.clear();
          for (const [n, bytes] of whole) finished.store.objects.set(n, bytes);
          damage(finished.store.objects, where);
          await mustBeMended(where(name), how);
          cases++;
        }
      }
    }
    expect(cases).toBeGreaterThan(7);
  });

  it('a newest manifest that stood for a while is read from its copy, and the next one takes its place', async () => {
    for (const { machine } of finished.machines) {
      const head = namesOfKind(whole, 'manifest')
        .filter((name) => name.includes(machine))
        .at(-1);
      for (const [how, damage] of damages(whole, head ?? '')) {
        const other = /^swapped with (.*)$/.exec(how)?.[1] ?? head ?? '';
        if (kindOf(other) !== 'manifest') continue;
        finished.store.objects.clear();
        for (const [n, bytes] of whole) finished.store.objects.set(n, bytes);
        damage(finished.store.objects);
        const of = finished.machines.find((one) => one.machine === machine);
        if (of !== undefined) await mustHaveEverything(finished.store, of);
        expect(namedIn((await scrub(finished.store, machine)).findings), how).toContain(head);
        await mend(finished.store, machine);
        // Its number is taken again, so that an owner who slept in a commit meets it.
        if (how === 'removed') expect(finished.store.objects.get(head ?? '')).toEqual(whole.get(head ?? ''));
        expect((await loadDamage(finished.store, machine))?.items.filter(isOpen) ?? [], how).toEqual([]);
        if (of !== undefined) await mustHaveEverything(finished.store, of);
      }
    }
  });
});
