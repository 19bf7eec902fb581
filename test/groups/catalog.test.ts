/** Groups as they lie in the store, and which of their points are whole. */
import { randomUUID } from 'node:crypto';
import { beforeEach, describe, expect, test } from 'vitest';
import { historyOf, keepAttempt, listAttempts, type Attempt } from '../../receiver/catalog/group-attempts.js';
import { groupPoints } from '../../receiver/catalog/group-points.js';
import {
  groupNamed,
  groupsOf,
  KnownGroups,
  removeGroup,
  saveGroup,
  type GroupWish,
} from '../../receiver/catalog/groups.js';
import type { RecoveryPoint } from '../../receiver/catalog/manifest.js';
import { GROUP_ATTEMPTS_KEPT, GROUP_RECHECK_MS, GROUPS_MAX } from '../../shared/limits-groups.js';
import { asMachineId, type MachineId } from '../../shared/units.js';
import type { GroupRecord } from '../../shared/wire/group-record.js';
import { ManualClock } from '../helpers/manual-clock.js';
import { MemoryStore } from '../helpers/memory-store.js';
import { namesOfKind } from '../scrub/damages.js';

const machine = (letter: string): MachineId =>
  asMachineId(
    [8, 4, 4, 4, 12].map((n, i) => (i === 2 ? '4' : i === 3 ? '8' : letter) + letter.repeat(n - 1)).join('-'),
  );
const [A, B, C] = [machine('a'), machine('b'), machine('c')];
const GROUP = '22222222-2222-4222-8222-222222222222';

let store: MemoryStore;
let clock: ManualClock;
beforeEach(() => {
  store = new MemoryStore();
  clock = new ManualClock();
});
const deps = () => ({ store, clock, randomId: randomUUID });
const wish = (name: string, members: readonly MachineId[], more: Partial<GroupWish> = {}): GroupWish => ({
  ...{ name, members: [...members], consistency: 'application', schedule: null },
  ...more,
});

describe('groups', () => {
  test('are made, changed and removed; a changed one keeps its id, and its members are in order', async () => {
    expect(await groupsOf(store)).toEqual([]);
    const made = await saveGroup(deps(), wish('shop', [B, A]));
    expect(made.members).toEqual([A, B]);
    const changed = await saveGroup(deps(), wish('shop', [A, C], { schedule: { by: 'interval', everyMs: 3_600_000 } }));
    expect(changed).toMatchObject({ id: made.id, members: [A, C] });
    expect(groupNamed(await groupsOf(store), 'shop')).toEqual(changed);
    expect(() => groupNamed([changed], 'shoes')).toThrow('there is no group shoes');
    await removeGroup(deps(), 'shop');
    expect(await groupsOf(store)).toEqual([]);
    // The history stays.
    expect(namesOfKind(store.objects, 'groups')).toHaveLength(3);
  });

  test('a machine is in one at most, and there is a limit', async () => {
    await saveGroup(deps(), wish('shop', [A, B]));
    await expect(saveGroup(deps(), wish('more', [B, C]))).rejects.toMatchObject({
      kind: 'usage',
      message: `machine ${B} is in group shop, and can't be in two`,
    });
    expect(await groupsOf(store)).toHaveLength(1);
    for (let i = 1; i < GROUPS_MAX; i++) {
      const members = [randomUUID(), randomUUID()].map(asMachineId);
      await saveGroup(deps(), wish(`g${i}`, members));
    }
    await expect(saveGroup(deps(), wish('last', [C, asMachineId(randomUUID())]))).rejects.toThrow(
      'is the most there can be',
    );
  });

  test('of two changes at once one loses, and says so', async () => {
    const both = await Promise.allSettled([
      saveGroup(deps(), wish('shop', [A, B])),
      saveGroup(deps(), wish('more', [A, C])),
    ]);
    expect(both.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    expect(both.find(({ status }) => status === 'rejected')).toMatchObject({ reason: { code: 'groups-moved' } });
    expect(await groupsOf(store)).toHaveLength(1);
  });

  test('are read again only when they changed', async () => {
    const known = new KnownGroups(store, clock);
    await saveGroup(deps(), wish('shop', [A, B]));
    await known.refresh();
    expect([...known.together.keys()]).toEqual([A, B]);
    await saveGroup(deps(), wish('shop', [A, C]));
    expect((await known.recent())[0]?.members).toEqual([A, B]);
    await clock.pass(GROUP_RECHECK_MS);
    expect((await known.recent())[0]?.members).toEqual([A, C]);
    for (const name of [...store.objects.keys()].slice(-2)) store.objects.set(name, Buffer.from('damaged'));
    expect(await known.refresh()).toHaveLength(1);
    await expect(new KnownGroups(store, clock).refresh()).rejects.toMatchObject({ kind: 'corrupt' });
  });
});

const attempt = (point: string, more: Partial<Attempt> = {}): Attempt => ({
  ...{ version: 1, point, group: GROUP, name: 'shop', label: null, by: 'operator', startedAtMs: 5, endedAtMs: 6 },
  ...{ reason: '', members: [], skewMs: null, frozenMs: null, asked: true },
  ...more,
});

describe('attempts', () => {
  test('are kept up to a limit, newest first; one that is damaged hides no other', async () => {
    for (let i = 0; i < GROUP_ATTEMPTS_KEPT + 3; i++)
      await keepAttempt(store, attempt(randomUUID(), { startedAtMs: 100 + i }));
    const names = [...store.objects.keys()].sort();
    expect(names).toHaveLength(GROUP_ATTEMPTS_KEPT);
    expect((await listAttempts(store, GROUP, 1))[0]?.startedAtMs).toBe(100 + GROUP_ATTEMPTS_KEPT + 2);
    store.objects.set(names.at(-1) ?? '', Buffer.from('damaged'));
    const [newest] = await listAttempts(store, GROUP, 2);
    expect(newest?.startedAtMs).toBe(100 + GROUP_ATTEMPTS_KEPT + 1);
  });
});

describe('what a schedule knows of them', () => {
  const failed = { by: 'schedule', reason: 'b is late' } as const;
  const made = { by: 'schedule' } as const;
  test.each([
    ['none', [], null, 0],
    ['failures since the last that was made', [failed, failed, made, failed], 9, 2],
    ['nothing but failures', [failed, failed, failed], 9, 3],
    ['an operator’s tries', [{ ...failed, by: 'operator' }, failed, { by: 'operator' }, failed], 9, 2],
    ['some for which nobody was asked', [{ ...failed, asked: false }, failed, { ...failed, asked: false }, made], 9, 1],
  ] as const)('%s', (_, before, lastTryAtMs, failuresInARow) => {
    const attempts = before.map((more, i) => attempt(randomUUID(), { ...more, startedAtMs: 9 - i }));
    expect(historyOf(attempts)).toEqual({ lastTryAtMs, failuresInARow });
  });
});

describe('points of a group', () => {
  const record = (
    point: string,
    members: readonly MachineId[] = [A, B],
    more: Partial<GroupRecord> = {},
  ): GroupRecord => ({
    ...{ point, group: GROUP, name: 'shop', members: [...members], cutFromMs: 10, cutToMs: 12, skewMs: 2, frozenMs: 9 },
    ...more,
  });
  const point = (number: number, group?: GroupRecord): RecoveryPoint => ({
    ...{ number, cutAtMs: 11, committedAtMs: 20, generation: 1, cycle: 'x', consistency: 'application', reason: '' },
    ...{ disks: [], stats: { passes: 1, cutMs: 1, freezeMs: 1, changedBytes: 0, storedBytes: 0 } },
    ...(group === undefined ? {} : { group, label: 'x' }),
  });
  const of = (listed: [MachineId, readonly RecoveryPoint[] | string][], attempts: readonly Attempt[] = []) =>
    groupPoints(GROUP, new Map(listed), attempts, (id) => id.slice(0, 1));
  const [one, two, three] = [randomUUID(), randomUUID(), randomUUID()];

  test('are whole when each machine that they name lists its own, and only then', () => {
    const { complete, incomplete } = of([
      [A, [point(1), point(2, record(one)), point(3, record(two, [A, B], { cutFromMs: 50 }))]],
      [B, [point(7, record(two, [A, B], { cutFromMs: 50 })), point(8)]],
    ]);
    expect(complete).toMatchObject([
      {
        id: two,
        label: 'x',
        skewMs: 2,
        frozenMs: 9,
        members: [
          { machine: A, number: 3 },
          { machine: B, number: 7 },
        ],
      },
    ]);
    expect(incomplete).toEqual([
      {
        id: one,
        label: 'x',
        atMs: 10,
        reason: 'b lists no point of it',
        members: [expect.objectContaining({ machine: A, number: 2 })],
      },
    ]);
  });

  test('the manifests decide, not what was said of an attempt', () => {
    const listed: [MachineId, RecoveryPoint[]][] = [
      [A, [point(2, record(one)), point(3, record(two))]],
      [B, [point(7, record(one))]],
    ];
    const late = attempt(one, { reason: 'b had not committed its point within 600 s' });
    const good = attempt(two);
    const never = attempt(three, { reason: 'b: no application is configured', startedAtMs: 99 });
    const { complete, incomplete } = of(listed, [late, good, never]);
    expect(complete.map(({ id }) => id)).toEqual([one]);
    expect(incomplete.map(({ id, reason }) => [id, reason])).toEqual([
      [three, 'b: no application is configured'],
      [two, 'b lists no point of it'],
    ]);
  });

  test('need a machine that is no member any more, and none that has become one', () => {
    const old = record(one, [A, C]);
    expect(
      of([
        [A, [point(1, old)]],
        [B, []],
      ]).complete,
    ).toEqual([]);
    expect(
      of([
        [A, [point(1, old)]],
        [B, []],
        [C, [point(4, old)]],
      ]).complete,
    ).toHaveLength(1);
  });

  test('a machine that the record does not name, or of another group, has no part', () => {
    const other = record(two, [A, B], { group: randomUUID() });
    const found = of([
      [A, [point(1, record(one)), point(2, other)]],
      [B, [point(2, other)]],
      [C, [point(9, record(one))]],
    ]);
    expect(found.complete).toEqual([]);
    expect(found.incomplete.map(({ id, members }) => [id, members.length])).toEqual([[one, 1]]);
  });

  test('of a machine that can not be read are not whole, and the reason says so', () => {
    const { incomplete } = of([
      [A, [point(1, record(one))]],
      [B, 'manifest 7 is damaged'],
    ]);
    expect(incomplete[0]?.reason).toBe("points of b can't be read: manifest 7 is damaged");
  });
});
