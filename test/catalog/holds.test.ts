/** Holds: a point that is confirmed as held is kept, whatever retention was deciding at that moment; of two changes at once one loses. */
import { beforeEach, describe, expect, test } from 'vitest';
import { addHold, confirmHold, loadHolds, readHolds, removeHold } from '../../receiver/catalog/holds.js';
import { holdsName } from '../../receiver/catalog/names.js';
import { DEFAULT_RETENTION } from '../../receiver/catalog/policy.js';
import { MachineReader } from '../../receiver/catalog/reader.js';
import { initialRecovery, type Job, type Recovery } from '../../receiver/catalog/recovery.js';
import { planRetention } from '../../receiver/upkeep/retention.js';
import { heldPoints, loadHeld } from '../../receiver/upkeep/retention-held.js';
import { HOLD_CONFIRM_MS, HOLDS_MAX } from '../../shared/limits-retention.js';
import { MIB } from '../../shared/units.js';
import { Chain, MACHINE } from '../helpers/layers.js';
import { ManualClock } from '../helpers/manual-clock.js';
import { MemoryStore } from '../helpers/memory-store.js';
import { namesOfKind } from '../scrub/damages.js';

let store: MemoryStore;
let clock: ManualClock;
let chain: Chain;
beforeEach(async () => {
  store = new MemoryStore();
  clock = new ManualClock();
  chain = new Chain(store, { sizeBytes: 2 * MIB, blockBytes: 4096 });
  for (let p = 1; p <= 4; p++) chain.point(p);
  await chain.publish();
});

const deps = () => ({ store, clock });
const LEGAL = { name: 'LEGAL-17', point: 2, note: 'case 17' };

describe('numbers', () => {
  test('held, seen by retention with its name, released; the history stays', async () => {
    expect(await loadHolds(store, MACHINE)).toBeNull();
    await addHold(deps(), MACHINE, LEGAL);
    await addHold(deps(), MACHINE, { name: 'second', point: 2, note: '' });
    expect(await readHolds(store, MACHINE)).toMatchObject([LEGAL, { name: 'second' }]);
    const { points } = await loadHeld(store, MACHINE, clock.nowMs());
    expect([...points]).toEqual([[2, ['held as LEGAL-17', 'held as second']]]);
    expect(await removeHold(deps(), MACHINE, 'LEGAL-17')).toMatchObject(LEGAL);
    expect((await loadHeld(store, MACHINE, clock.nowMs())).points.get(2)).toEqual(['held as second']);
    expect(namesOfKind(store.objects, 'holds')).toHaveLength(3);
  });

  test('a name holds one point; one that is not held can not be released; nothing changes', async () => {
    await addHold(deps(), MACHINE, LEGAL);
    await expect(addHold(deps(), MACHINE, { ...LEGAL, point: 3 })).rejects.toMatchObject({
      code: 'hold-exists',
      kind: 'refused',
    });
    await expect(removeHold(deps(), MACHINE, 'LEGAL-18')).rejects.toMatchObject({
      kind: 'usage',
      hint: expect.stringContaining('LEGAL-17') as unknown,
    });
    expect(await loadHolds(store, MACHINE)).toMatchObject({ number: 1 });
  });

  test('two at once: one loses and says so', async () => {
    const both = await Promise.allSettled([
      addHold(deps(), MACHINE, LEGAL),
      addHold(deps(), MACHINE, { ...LEGAL, name: 'other' }),
    ]);
    expect(both.map((r) => r.status).sort()).toEqual(['fulfilled', 'rejected']);
    expect(both.find((r) => r.status === 'rejected')?.reason).toMatchObject({ code: 'holds-moved' });
    expect(await readHolds(store, MACHINE)).toHaveLength(1);
  });

  test('as many as a person can overlook', async () => {
    for (let i = 0; i < HOLDS_MAX; i++) await addHold(deps(), MACHINE, { name: `h${i}`, point: 1, note: '' });
    await expect(addHold(deps(), MACHINE, LEGAL)).rejects.toMatchObject({ code: 'holds-full' });
  });

  test('holds that can not be read stop whoever would drop points', async () => {
    await addHold(deps(), MACHINE, LEGAL);
    store.objects.set(holdsName(MACHINE, 2), Buffer.from('{}'));
    await expect(loadHeld(store, MACHINE, clock.nowMs())).rejects.toMatchObject({ kind: 'corrupt' });
  });
});

/**
 * A receiver as upkeep has to be: reads the holds after manifest N stood, and drops points in N+1 or not at all. `between` runs after it has read them.
 */
async function retain(between: () => Promise<unknown>): Promise<void> {
  const view = await MachineReader.open(store, MACHINE);
  const { points } = await loadHeld(store, MACHINE, clock.nowMs());
  await between();
  const listed = [];
  for await (const point of view.points()) listed.push(point);
  const nowMs = (listed.at(-1)?.committedAtMs ?? 0) + 1;
  const plan = planRetention(listed, { ...DEFAULT_RETENTION, tiers: [{ everyMs: 0, upToMs: 1 }] }, nowMs, points);
  chain.points.splice(0, chain.points.length, ...plan.keep.map((k) => k.point));
  await chain.publish();
}

describe('against a retention that is deciding', () => {
  const listed = async (): Promise<boolean> => (await MachineReader.open(store, MACHINE)).hasPoint(LEGAL.point);

  test.each(['before it read the holds', 'after it read them', 'after it dropped the point', 'never'])(
    'held %s: confirmed means kept, for good',
    async (when) => {
      const hold = (): Promise<unknown> => addHold(deps(), MACHINE, LEGAL);
      if (when === 'before it read the holds') await hold();
      if (when !== 'never') await retain(when === 'after it read them' ? hold : () => Promise.resolve());
      if (when === 'after it dropped the point' || when === 'never') await hold();
      const confirming = confirmHold(deps(), MACHINE, LEGAL.point);
      await clock.pass(1_000);
      await retain(() => Promise.resolve());
      await clock.pass(HOLD_CONFIRM_MS);
      const confirmed = await confirming;
      expect(confirmed).toBe(when === 'after it read them' || when === 'after it dropped the point' ? 'gone' : 'kept');
      for (let i = 0; i < 3; i++) await retain(() => Promise.resolve());
      expect(await listed()).toBe(confirmed === 'kept');
    },
  );

  test('the retention that has not seen the hold commits after the first look: not confirmed before', async () => {
    let confirming: Promise<string> = Promise.resolve('not asked');
    await retain(async () => {
      await addHold(deps(), MACHINE, LEGAL);
      confirming = confirmHold(deps(), MACHINE, LEGAL.point);
      await clock.pass(1_000);
    });
    await clock.pass(HOLD_CONFIRM_MS);
    expect(await confirming).toBe('gone');
  });

  test('nothing is committed: it waits no longer than it says, and promises nothing', async () => {
    await addHold(deps(), MACHINE, LEGAL);
    const confirming = confirmHold(deps(), MACHINE, LEGAL.point);
    await clock.pass(HOLD_CONFIRM_MS);
    expect(await confirming).toBe('waiting');
  });
});

test('points of running copies and of running jobs stay as well', () => {
  const job = { operation: 'failover', state: 'InProgress', data: { point: 5, finalPoint: 6 } } as unknown as Job;
  const instance = (point: number) => ({ point }) as unknown as Recovery['failover'];
  const recovery = {
    ...initialRecovery(MACHINE, 1),
    failover: instance(3),
    testFailover: { state: 'TestFailoverCompleted', instance: instance(4) },
    job,
  } as unknown as Recovery;
  expect([...heldPoints([], [], recovery).keys()]).toEqual([3, 4, 5, 6]);
  expect([...heldPoints([], [], { ...recovery, job: { ...job, state: 'Succeeded' } }).keys()]).toEqual([3, 4]);
});
