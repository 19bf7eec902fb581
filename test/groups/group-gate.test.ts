/**
 * The agent's part: where it waits, and that every wait ends.
 */
import { beforeEach, describe, expect, it } from 'vitest';
import { GroupGate } from '../../agent/group/group-gate.js';
import { GroupOrders } from '../../agent/group/group-orders.js';
import { PointRequests, type AskedFor } from '../../agent/point-requests.js';
import { ApplicationPoints } from '../../agent/quiesce/points/application-points.js';
import { GROUP_GATHER_MS, GROUP_PREPARE_MS } from '../../shared/limits-groups.js';
import { POINT_REQUESTS_MAX } from '../../shared/limits-quiesce.js';
import { asMachineId } from '../../shared/units.js';
import type { GroupRecord } from '../../shared/wire/group-record.js';
import type { AgentMessage } from '../../shared/wire/messages.js';
import { ManualClock } from '../helpers/manual-clock.js';

const RECORD: GroupRecord = {
  point: '11111111-1111-4111-8111-111111111111',
  group: '22222222-2222-4222-8222-222222222222',
  name: 'shop',
  members: [asMachineId('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa'), asMachineId('bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb')],
  cutFromMs: 1,
  cutToMs: 2,
  skewMs: 1,
  frozenMs: 1,
};
const STEPS = ['mayPrepare', 'mayFreeze', 'mayCut', 'mayThaw'] as const;

let clock: ManualClock;
let said: AgentMessage[];
let gate: GroupGate;
let sayFails = false;
const say = async (message: AgentMessage): Promise<void> => {
  if (sayFails) throw new Error('the connection is lost');
  said.push(message);
};
beforeEach(() => {
  clock = new ManualClock();
  said = [];
  sayFails = false;
  gate = new GroupGate(7, say, clock);
});

const never = new AbortController().signal;
const open = { mayPrepare: 'prepare', mayFreeze: 'freeze', mayCut: 'cut' } as const;

describe('the gate of a machine in a group', () => {
  it('says how far it has come, and waits at each step for its order', async () => {
    for (const step of STEPS) {
      let isThrough = false;
      const waiting = gate[step](never).then((why) => {
        isThrough = true;
        return why;
      });
      await clock.pass(10);
      expect(isThrough).toBe(false);
      expect(gate.record).toBe(null);
      if (step === 'mayThaw') gate.thaw(RECORD);
      else gate.go(open[step]);
      expect(await waiting).toBe(null);
    }
    expect(said).toEqual(
      ['gathered', 'prepared', 'frozen', 'cut'].map((step) => ({ type: 'group-reached', request: 7, step })),
    );
    expect(gate.record).toEqual(RECORD);
  });

  it.each(STEPS)('%s ends with the abort of the receiver, and opens never again', async (step) => {
    for (const before of STEPS.slice(0, STEPS.indexOf(step))) {
      const passed = gate[before](never);
      if (before !== 'mayThaw') gate.go(open[before]);
      await passed;
    }
    const waiting = gate[step](never);
    gate.close('the receiver gave it up');
    expect(await waiting).toBe('the receiver gave it up');
    // Orders that were on their way open nothing, and make no record.
    for (const order of ['prepare', 'freeze', 'cut'] as const) gate.go(order);
    gate.thaw(RECORD);
    for (const other of STEPS) expect(await gate[other](never)).toBe('the receiver gave it up');
    expect(gate.record).toBe(null);
    gate.failed('more');
    expect(said.filter(({ type }) => type === 'group-failed')).toEqual([]);
  });

  it.each([
    ['mayPrepare', GROUP_GATHER_MS],
    ['mayFreeze', GROUP_PREPARE_MS],
  ] as const)('%s waits no longer than its limit', async (step, limitMs) => {
    if (step === 'mayFreeze') {
      const passed = gate.mayPrepare();
      gate.go('prepare');
      await passed;
    }
    const waiting = gate[step]();
    await clock.pass(limitMs);
    expect(await waiting).toContain('nobody said within 60 s');
  });

  it.each(['mayCut', 'mayThaw'] as const)(
    '%s ends with the freeze, and the late order makes no record',
    async (step) => {
      const deadline = new AbortController();
      const waiting = gate[step](deadline.signal);
      deadline.abort();
      expect(await waiting).toContain('the limit of the freeze passed');
      gate.thaw(RECORD);
      expect(gate.record).toBe(null);
      // Passed before it began to wait.
      expect(await new GroupGate(8, say, clock).mayCut(deadline.signal)).toContain('the limit of the freeze passed');
    },
  );

  it('does not wait for a connection that is lost', async () => {
    sayFails = true;
    expect(await gate.mayCut(never)).toBe('its connection is lost');
  });

  it('tells once what failed', () => {
    gate.failed('hook 20-bad: exit code 7');
    gate.failed('something else');
    expect(said).toEqual([{ type: 'group-failed', request: 7, reason: 'hook 20-bad: exit code 7' }]);
    expect(gate.whyOver).toBe('hook 20-bad: exit code 7');
  });
});

const requestsOf = (): PointRequests =>
  new PointRequests(new ApplicationPoints({ config: { deadline: 1_000 }, clock, random: () => 0 }));

describe('orders for points of groups', () => {
  const order = { type: 'group-point', request: 1, name: 'shop', consistency: 'application', label: 'x' } as const;
  const orders = (requests: PointRequests, whyNot: string | null = null): GroupOrders =>
    new GroupOrders({ requests, say, clock, whyNot: () => whyNot });

  it('become a point that is asked for, whose gate hears what belongs to it', async () => {
    const requests = requestsOf();
    const heard = orders(requests);
    heard.heard(order);
    const asked = requests.take() as AskedFor;
    expect(asked).toMatchObject({ by: 'group', consistency: 'application', label: 'x' });
    const waiting = asked.group?.gate.mayPrepare();
    heard.heard({ type: 'group-go', request: 99, step: 'prepare' });
    heard.heard({ type: 'group-abort', request: 99, reason: 'another' });
    heard.heard({ type: 'group-go', request: 1, step: 'prepare' });
    expect(await waiting).toBe(null);
    const frozen = asked.group?.gate.mayCut(never);
    heard.end();
    expect(await frozen).toBe('the connection to the receiver ended');
  });

  it('are refused with the reason while the machine is not protected, and when too many points wait', async () => {
    orders(requestsOf(), 'disk sdb is not protected yet (Initial replication)').heard(order);
    expect(said).toEqual([
      { type: 'group-failed', request: 1, reason: 'disk sdb is not protected yet (Initial replication)' },
    ]);
    said = [];
    const requests = requestsOf();
    for (let i = 0; i < POINT_REQUESTS_MAX; i++) void requests.ask({ consistency: 'crash', label: null });
    orders(requests).heard(order);
    await clock.pass(0);
    const reason = `${POINT_REQUESTS_MAX} points that were asked for wait to be made already`;
    expect(said).toEqual([{ type: 'group-failed', request: 1, reason }]);
  });

  it('that were given up before their turn cost no point', async () => {
    const requests = requestsOf();
    const heard = orders(requests);
    heard.heard(order);
    heard.heard({ type: 'group-abort', request: 1, reason: 'db is late' });
    expect(requests.take()).toBe(null);
  });
});

describe('points that wait to be made', () => {
  it('are bounded: one too many is refused, and there is room again when one was taken', async () => {
    const requests = requestsOf();
    const waiting = Array.from({ length: POINT_REQUESTS_MAX }, () =>
      requests.ask({ consistency: 'crash', label: null }),
    );
    await expect(requests.ask({ consistency: 'crash', label: 'one more' })).rejects.toMatchObject({
      code: 'points-waiting',
      kind: 'refused',
      message: `${POINT_REQUESTS_MAX} points that were asked for wait to be made already`,
    });
    expect(requests.take()).toMatchObject({ by: 'operator' });
    waiting.push(requests.ask({ consistency: 'crash', label: 'fits' }));
    requests.rejectAll(new Error('over'));
    const ends = await Promise.allSettled(waiting.slice(1));
    expect(ends.map(({ status }) => status)).toEqual(Array(POINT_REQUESTS_MAX).fill('rejected'));
  });
});
