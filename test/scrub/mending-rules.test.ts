/**
 * What mending of small objects must never do, and what stands in its way: nothing unproven is put back, only the owner removes anything, a crash between
 * removal and creation is made up for, and a store that deletes nothing keeps the damaged object beside a copy that is read.
 */
import { beforeEach, describe, expect, it } from 'vitest';
import { isOpen } from '../../receiver/catalog/damage.js';
import { loadDamage } from '../../receiver/catalog/damage-io.js';
import { copyName } from '../../receiver/catalog/second-copies.js';
import { DeleteError } from '../../receiver/store/delete-error.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import type { MachineId } from '../../shared/units.js';
import { namesOfKind } from './damages.js';
import { finishedStore, scrub, type FinishedStore } from './finished-store.js';
import { mend, mendBy, mustHaveEverything, takeOver } from './mending.js';

let finished: FinishedStore;
let machine: MachineId;
let page: string;

beforeEach(async () => {
  finished = await finishedStore();
  machine = finished.machines[0]?.machine ?? machine;
  page = namesOfKind(finished.store.objects, 'history').find((name) => name.includes(machine)) ?? '';
  expect(page).not.toBe('');
});

const open = async () => ((await loadDamage(finished.store, machine))?.items ?? []).filter(isOpen);
const rubbish = Buffer.from('rubbish');

/** The same store with another way to do one thing. */
const withOther = (other: Partial<ObjectStore>): ObjectStore =>
  new Proxy<ObjectStore>(finished.store, {
    get(target, key): unknown {
      const value: unknown = Reflect.get(other, key) ?? Reflect.get(target, key, target);
      return typeof value === 'function' ? (value.bind(target) as unknown) : value;
    },
  });

describe('nothing unproven is put back', () => {
  it('of a page whose copy is another', async () => {
    const { store } = finished;
    const other = namesOfKind(store.objects, 'history').find((name) => name !== page) ?? '';
    store.objects.set(copyName(page), store.objects.get(other) ?? rubbish);
    store.objects.delete(page);
    await scrub(store, machine);
    await mend(store, machine);
    expect(store.objects.has(page)).toBe(false);
    expect(await open()).toMatchObject([{ object: page, state: 'lost', points: [{ first: 1, last: null }] }]);
  });

  it.each([
    ['says that it is another', 'policy'],
    ['is whole by itself, and not what the scrub has seen', 'jobs'],
  ])('of a record whose copy %s', async (_, kind) => {
    const { store, machines } = finished;
    machine = machines[1]?.machine ?? machine;
    const [other = '', name = ''] = namesOfKind(store.objects, kind).filter((one) => one.includes(machine));
    store.objects.set(copyName(name), store.objects.get(other) ?? rubbish);
    store.objects.delete(name);
    await scrub(store, machine);
    await mend(store, machine);
    expect(store.objects.has(name)).toBe(false);
    expect((await open()).map(({ object }) => object)).toEqual([name]);
  });
});

it('who was taken over removes nothing', async () => {
  const { store } = finished;
  const owned = await takeOver(store, machine);
  store.objects.set(page, rubbish);
  await scrub(store, machine);
  await takeOver(store, machine);
  await expect(mendBy(store, owned)).rejects.toMatchObject({ kind: 'fenced' });
  expect(store.objects.get(page)).toEqual(rubbish);
});

it('what a crash leaves between removal and creation is made again by the next scrub', async () => {
  const { store } = finished;
  const whole = store.objects.get(page);
  store.objects.set(page, rubbish);
  await scrub(store, machine);
  const killed = withOther({
    createIfAbsent: (name, bytes) =>
      name === page ? Promise.reject(new Error('killed')) : store.createIfAbsent(name, bytes),
  });
  await expect(mend(killed, machine)).rejects.toThrow('killed');
  expect(store.objects.has(page)).toBe(false);
  for (const one of finished.machines) await mustHaveEverything(store, one);
  await scrub(store, machine);
  await mend(store, machine);
  expect(store.objects.get(page)).toEqual(whole);
  expect(await open()).toEqual([]);
});

it('a store that deletes nothing keeps it, and says so; the copy is read', async () => {
  const { store } = finished;
  store.objects.set(page, rubbish);
  await scrub(store, machine);
  const refused = new DeleteError([{ name: page, reason: 'failed', lockedUntilMs: null, message: 'Access Denied' }]);
  await mend(withOther({ deleteMany: () => Promise.reject(refused) }), machine);
  expect(await open()).toMatchObject([
    { object: page, state: 'found', points: [], reason: expect.stringContaining('Access Denied') as string },
  ]);
  for (const one of finished.machines) await mustHaveEverything(store, one);
});
