/**
 * Points of groups as the receiver makes them, on demand and by schedule, with members that misbehave; in virtual time.
 */
import { randomUUID } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { groupMetrics } from '../../receiver/group-metrics.js';
import { keepAttempt, listAttempts } from '../../receiver/catalog/group-attempts.js';
import { KnownGroups, saveGroup, type Group } from '../../receiver/catalog/groups.js';
import { GroupService } from '../../receiver/groups/group-service.js';
import type { GroupHearer, GroupMember, GroupPointOrder } from '../../receiver/session/group-link.js';
import { GROUP_FREEZE_MS, GROUP_MEMBERS_WAIT_MS, GROUP_RECHECK_MS, GROUP_TICK_MS } from '../../shared/limits-groups.js';
import { silentLogger } from '../../shared/log.js';
import { asMachineId, type MachineId } from '../../shared/units.js';
import type { GroupRecord } from '../../shared/wire/group-record.js';
import type { GroupReached } from '../../shared/wire/messages.js';
import { Registry } from 'prom-client';
import { ManualClock } from '../helpers/manual-clock.js';
import { MemoryStore } from '../helpers/memory-store.js';

const A = asMachineId('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa');
const B = asMachineId('bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb');
const HOUR_MS = 3_600_000;

type Bad = { readonly at: GroupReached['step'] | 'committed'; readonly how: 'silent' | 'refuses' | 'gone' };

/** Does as it is told, a millisecond after each order, but for what is bad about it. */
class FakeMember implements GroupMember {
  whyNot: string | null = null;
  bad: Bad | null = null;
  readonly orders: string[] = [];
  order: GroupPointOrder | null = null;
  record: GroupRecord | null = null;
  #hearer: GroupHearer | null = null;

  constructor(
    readonly clock: ManualClock,
    readonly point: number,
  ) {}

  begin(order: GroupPointOrder, hearer: GroupHearer): void {
    this.order = order;
    this.#hearer = hearer;
    this.orders.push('begin');
    this.#reach('gathered');
  }

  go(step: 'prepare' | 'freeze' | 'cut'): void {
    this.orders.push(step);
    this.#reach(({ prepare: 'prepared', freeze: 'frozen', cut: 'cut' } as const)[step]);
  }

  thaw(record: GroupRecord): void {
    this.orders.push('thaw');
    this.record = record;
    this.#reach('committed');
  }

  abort(): void {
    this.orders.push('abort');
    this.#hearer = null;
  }

  #reach(step: GroupReached['step'] | 'committed'): void {
    void this.clock.sleep(1).then(() => {
      const how = this.bad?.at === step ? this.bad.how : null;
      if (how === 'silent') return;
      if (how === 'refuses') this.#hearer?.failed('hook 20-bad: exit code 7');
      else if (how === 'gone') this.#hearer?.gone();
      else if (step === 'committed') this.#hearer?.committed(this.point);
      else this.#hearer?.reached(step);
    });
  }
}

let store: MemoryStore;
let clock: ManualClock;
let members: Map<MachineId, FakeMember>;
let isOurs: boolean;
let service: GroupService;
let stop: AbortController;
let running: Promise<void>;

beforeEach(() => {
  store = new MemoryStore();
  clock = new ManualClock();
  members = new Map([
    [A, new FakeMember(clock, 4)],
    [B, new FakeMember(clock, 9)],
  ]);
  isOurs = true;
  service = serviceOf();
  stop = new AbortController();
  running = Promise.resolve();
});
afterEach(async () => {
  stop.abort();
  await clock.pass(GROUP_TICK_MS);
  await running;
});

const serviceOf = (): GroupService =>
  new GroupService({
    ...{ store, groups: new KnownGroups(store, clock), clock, randomId: randomUUID, log: silentLogger() },
    member: (machine) => members.get(machine) ?? null,
    whereIs: async () => 'its agent is not connected here; receiver east had it last: give the command there',
    isOurs: () => isOurs,
  });
const define = (schedule: Group['schedule'] = null): Promise<Group> =>
  saveGroup(
    { store, clock, randomId: randomUUID },
    { name: 'shop', members: [A, B], consistency: 'application', schedule },
  );
const memberOf = (machine: MachineId): FakeMember => members.get(machine) ?? new FakeMember(clock, 0);

/** Asks for a point, and lets so much time pass. */
async function ask(passMs = 1_000): Promise<unknown> {
  const asked = service.pointNow('shop', 'before the move').catch((error: unknown) => error);
  await clock.pass(passMs);
  return asked;
}

describe('on demand', () => {
  it('is made of all members, with one record for all, and its outcome is kept', async () => {
    const group = await define();
    const attempt = await ask();
    expect(attempt).toMatchObject({
      reason: '',
      label: 'before the move',
      by: 'operator',
      members: [
        { machine: A, point: 4 },
        { machine: B, point: 9 },
      ],
    });
    expect(memberOf(A).orders).toEqual(['begin', 'prepare', 'freeze', 'cut', 'thaw']);
    expect(memberOf(A).order).toEqual({ name: 'shop', consistency: 'application', label: 'before the move' });
    const { point, skewMs } = attempt as { point: string; skewMs: number };
    expect(memberOf(A).record).toMatchObject({ point, skewMs, group: group.id, name: 'shop', members: [A, B] });
    expect(memberOf(B).record).toEqual(memberOf(A).record);
    expect(await listAttempts(store, group.id)).toEqual([attempt]);
  });

  it.each([
    ['refuses', { at: 'prepared', how: 'refuses' }, `${B}: hook 20-bad: exit code 7`, ['begin', 'prepare', 'abort']],
    ['is late with the freeze', { at: 'frozen', how: 'silent' }, `${B} was not frozen within 12 s`, null],
    ['is late with the cut', { at: 'cut', how: 'silent' }, `${B} had not cut within 12 s`, null],
    [
      'goes before the cut',
      { at: 'cut', how: 'gone' },
      `${B} was disconnected while all were frozen, before all had cut`,
      null,
    ],
  ] as const)('is absent with the reason when a member %s: all are let go', async (_, bad, reason, orders) => {
    const group = await define();
    memberOf(B).bad = bad;
    expect(await ask(GROUP_FREEZE_MS + 100)).toMatchObject({
      code: 'group-point-absent',
      message: `no point of group shop: ${reason}`,
    });
    expect(memberOf(A).orders.at(-1)).toBe('abort');
    if (orders !== null) expect(memberOf(A).orders).toEqual(orders);
    expect(memberOf(A).record).toBe(null);
    expect(await listAttempts(store, group.id)).toMatchObject([
      { reason, members: [{ point: null }, { point: null }] },
    ]);
  });

  it('is absent when a member goes after the cut; what another has committed is on record as its own', async () => {
    const group = await define();
    memberOf(B).bad = { at: 'committed', how: 'gone' };
    expect(await ask()).toMatchObject({ code: 'group-point-absent' });
    expect(memberOf(A).orders.at(-1)).toBe('thaw');
    expect(await listAttempts(store, group.id)).toMatchObject([
      {
        reason: `${B} was disconnected after the cut, before its point was committed`,
        members: [{ point: 4 }, { point: null }],
      },
    ]);
  });

  it('asks nobody when a member is not here, or too old', async () => {
    await define();
    members.delete(B);
    expect(await ask()).toMatchObject({ message: expect.stringContaining('receiver east had it last') as unknown });
    members.set(B, new FakeMember(clock, 9));
    memberOf(B).whyNot = 'its agent (afterimage-agent 1.0) is too old for groups: upgrade it';
    expect(await ask()).toMatchObject({
      message: `no point of group shop: ${B}: its agent (afterimage-agent 1.0) is too old for groups: upgrade it`,
    });
    expect(memberOf(A).orders).toEqual([]);
  });

  it('is one at a time, and needs a group that is there', async () => {
    await define();
    memberOf(B).bad = { at: 'gathered', how: 'silent' };
    const first = ask(10);
    await clock.pass(10);
    await expect(service.pointNow('shop', null)).rejects.toMatchObject({ code: 'group-busy' });
    await expect(service.pointNow('shoes', null)).rejects.toMatchObject({ code: 'group-unknown', kind: 'usage' });
    await clock.pass(60_000);
    expect(await first).toMatchObject({ code: 'group-point-absent' });
  });

  it('lets all go when the receiver is stopped amid it', async () => {
    await define();
    running = service.run(stop.signal);
    memberOf(B).bad = { at: 'frozen', how: 'silent' };
    const asked = ask(50);
    await clock.pass(50);
    expect(memberOf(A).orders.at(-1)).toBe('freeze');
    stop.abort();
    await clock.pass(10);
    expect(await asked).toMatchObject({
      message: expect.stringContaining('the receiver that coordinated it was stopped') as unknown,
    });
    expect(memberOf(A).orders.at(-1)).toBe('abort');
  });
});

describe('by schedule', () => {
  const every = { by: 'interval', everyMs: HOUR_MS } as const;
  const begins = (): number => memberOf(A).orders.filter((order) => order === 'begin').length;
  const start = async (passMs = GROUP_TICK_MS): Promise<void> => {
    running = service.run(stop.signal);
    await clock.pass(passMs);
  };

  it('makes the first at once, and each as long after the one before', async () => {
    await define(every);
    await start();
    expect(begins()).toBe(1);
    await clock.pass(HOUR_MS - 2 * GROUP_TICK_MS);
    expect(begins()).toBe(1);
    await clock.pass(3 * GROUP_TICK_MS);
    expect(begins()).toBe(2);
    expect(service.figures).toMatchObject([{ name: 'shop', made: 2, absent: 0, lastFailure: '' }]);
  });

  it('knows over a restart, and from other receivers, when the last was tried', async () => {
    const group = await define(every);
    await clock.pass(10 * 60_000);
    const [point, startedAtMs] = [randomUUID(), clock.nowMs()];
    await keepAttempt(store, {
      ...{ version: 1, point, group: group.id, name: 'shop', label: null, by: 'schedule', startedAtMs },
      ...{ endedAtMs: startedAtMs, reason: 'b is late', members: [], skewMs: null, frozenMs: null, asked: true },
    });
    await start(HOUR_MS - 2 * GROUP_TICK_MS);
    expect(begins()).toBe(0);
    await clock.pass(3 * GROUP_TICK_MS);
    expect(begins()).toBe(1);
  });

  it('waits for members that are on their way, and not for ever', async () => {
    const group = await define(every);
    members.delete(B);
    await start(30_000);
    expect(begins()).toBe(0);
    members.set(B, new FakeMember(clock, 9));
    await clock.pass(2 * GROUP_TICK_MS);
    expect(begins()).toBe(1);
    members.delete(B);
    await clock.pass(HOUR_MS + GROUP_MEMBERS_WAIT_MS + 3 * GROUP_TICK_MS);
    expect(begins()).toBe(1);
    expect((await listAttempts(store, group.id)).map(({ reason }) => reason === '')).toEqual([false, true]);
    const registry = new Registry();
    groupMetrics(registry, () => service.figures);
    const text = await registry.metrics();
    for (const line of [
      'points_made_total{group="shop"} 1',
      'points_absent_total{group="shop"} 1',
      'failing{group="shop"} 1',
    ])
      expect(text).toContain(`afterimage_receiver_group_${line}`);
  });

  it('comes later and later while it fails, since members are held back for nothing, and on time again when it was made', async () => {
    await define(every);
    memberOf(B).bad = { at: 'prepared', how: 'refuses' };
    await start();
    const triesIn = async (hours: number): Promise<number> => {
      const before = begins();
      await clock.pass(hours * HOUR_MS);
      return begins() - before;
    };
    // At 0 h, 1 h, 3 h, 7 h.
    expect([begins(), await triesIn(1.5), await triesIn(1), await triesIn(1), await triesIn(4)]).toEqual([
      1, 1, 0, 1, 1,
    ]);
    expect(service.figures).toMatchObject([
      { failuresInARow: 4, nextReason: expect.stringContaining('4 times') as unknown },
    ]);
    memberOf(B).bad = null;
    expect(await triesIn(8)).toBe(1);
    expect(await triesIn(3)).toBe(3);
    expect(service.figures).toMatchObject([{ failuresInARow: 0, lastFailure: '' }]);
  });

  it('is left to the receiver to which the group belongs', async () => {
    await define(every);
    isOurs = false;
    await start(HOUR_MS);
    expect(begins()).toBe(0);
    isOurs = true;
    await clock.pass(GROUP_TICK_MS);
    expect(begins()).toBe(1);
  });

  it('goes by what an operator changes, soon', async () => {
    await define();
    await start(HOUR_MS);
    expect(begins()).toBe(0);
    await define(every);
    await clock.pass(GROUP_RECHECK_MS + GROUP_TICK_MS);
    expect(begins()).toBe(1);
  });
});
