/** Who stays, who is sent on, and who does the upkeep: a table for each. */
import { describe, expect, it } from 'vitest';
import {
  boundTo,
  claimOf,
  directionOf,
  NO_ROUTE,
  placementOf,
  type FleetMember,
  type FleetView,
} from '../../receiver/fleet/placement.js';
import { Handovers, planHandovers } from '../../receiver/fleet/handovers.js';
import type { ReceiverRecord } from '../../receiver/fleet/record.js';
import { Roster, type RosterEntry } from '../../receiver/fleet/roster.js';
import { wantedOwner } from '../../receiver/fleet/wanted.js';
import { HANDOVER_BACK_MS, HANDOVER_PAUSE_MS, REDIRECTS_MAX } from '../../shared/limits-fleet.js';
import { silentLogger } from '../../shared/log.js';
import { asMachineId } from '../../shared/units.js';

const A = 'aaaaaaaa-0000-4000-8000-000000000000';
const B = 'bbbbbbbb-0000-4000-8000-000000000000';
const C = 'cccccccc-0000-4000-8000-000000000000';
const member = (id: string, liveness: FleetMember['liveness'] = 'live'): FleetMember => ({
  ...{ id, name: id.slice(0, 1), addresses: [`${id.slice(0, 1)}:1`], weight: 1, liveness },
});
const viewOf = (self: string, members: readonly FleetMember[], isSettled = true): FleetView => ({
  ...{ self, members, isSettled, settleMs: 50 },
});
/** A machine that the hash gives to one of A and B. */
const machineOf = (receiver: string): ReturnType<typeof asMachineId> => {
  for (let i = 0; ; i++) {
    const id = asMachineId(`11111111-0000-4000-8000-${String(i).padStart(12, '0')}`);
    if (wantedOwner(id, [member(A), member(B)]) === receiver) return id;
  }
};
const atB = machineOf(B);
const atA = machineOf(A);
const owner = (receiver: string): { owner: { receiver: string; name: string; address: string } } => ({
  owner: { receiver, name: 'x', address: 'x:1' },
});

describe('machines of a group', () => {
  const id = machineOf(B);
  const together = new Map([atA, machineOf(A)].map((machine) => [machine, id] as const));
  const both = { ...viewOf(A, [member(A), member(B)]), together };

  it('belong to one receiver: where the hash puts the group, not where it puts each', () => {
    expect(placementOf(atA, null, both).receiver?.name).toBe('b');
    expect(placementOf(atA, null, { ...both, together: new Map() }).receiver?.name).toBe('a');
    // One that is in no group goes on as before.
    const alone = asMachineId('99999999-0000-4000-8000-000000000000');
    expect(placementOf(alone, null, both).receiver).toEqual(placementOf(alone, null, viewOf(A, both.members)).receiver);
  });

  it('go where their copy or job is, all the same', () => {
    expect(placementOf(atA, A, both).receiver?.name).toBe('a');
  });

  it('are handed over when their group was made', () => {
    const plan = planHandovers([{ machine: atA, sinceMs: 0, stranded: null }], both, () => undefined, 1_000);
    expect(plan).toMatchObject([{ machine: atA, toName: 'b', waits: null }]);
  });
});

describe('an agent that dials A', () => {
  const go = (machine: typeof atA, view: FleetView, bound: string | null = null, route = NO_ROUTE): string => {
    const direction = directionOf(placementOf(machine, bound, view), view, route);
    return direction.to === 'elsewhere' ? direction.receiver.name : direction.stranded !== null ? 'stranded' : 'here';
  };
  const both = viewOf(A, [member(A), member(B)]);

  it.each([
    ['stays when A is wanted', atA, both, null, NO_ROUTE, 'here'],
    ['is sent to the wanted one', atB, both, null, NO_ROUTE, 'b'],
    [
      'stays while the wanted one has not shown that it lives',
      atB,
      viewOf(A, [member(A), member(B, 'unknown')]),
      null,
      NO_ROUTE,
      'here',
    ],
    ['stays when the wanted one is gone', atB, viewOf(A, [member(A), member(B, 'gone')]), null, NO_ROUTE, 'here'],
    [
      'stays when it says that it can not reach the wanted one',
      atB,
      both,
      null,
      { redirects: 1, unreachable: [B] },
      'stranded',
    ],
    ['is sent on when it can not reach another', atB, both, null, { redirects: 1, unreachable: [C] }, 'b'],
    ['stays after the last redirect', atB, both, null, { redirects: REDIRECTS_MAX, unreachable: [] }, 'stranded'],
    ['goes where its copy runs', atA, both, B, NO_ROUTE, 'b'],
    ['stays where its copy runs', atB, both, A, NO_ROUTE, 'here'],
    [
      'goes by the hash when the receiver of its copy is gone',
      atB,
      viewOf(A, [member(A), member(B), member(C, 'gone')]),
      C,
      NO_ROUTE,
      'b',
    ],
    [
      'stays while the receiver of its copy has not shown that it lives',
      atB,
      viewOf(A, [member(A), member(B), member(C, 'unknown')]),
      C,
      NO_ROUTE,
      'here',
    ],
  ] as const)('%s', (_what, machine, view, bound, route, expected) => {
    expect(go(machine, view, bound, route)).toBe(expected);
  });

  it('is taken after so many redirects, whatever the receivers think of each other', () => {
    // A sends to B, B to A: their views contradict each other.
    const views = new Map([
      ['a', viewOf(A, [member(A, 'gone'), member(B)])],
      ['b', viewOf(B, [member(B, 'gone'), member(A)])],
    ]);
    let at = 'a';
    for (let redirects = 0; redirects <= REDIRECTS_MAX; redirects++) {
      const to = go(atA, views.get(at) ?? both, null, { redirects, unreachable: [] });
      if (to === 'stranded') return;
      at = to;
    }
    throw new Error('it was never taken');
  });
});

describe('a machine is bound', () => {
  const job = (operation: string, receiver: string): never => ({ operation, receiver }) as never;
  it('to the receiver of its job or copy, but not by a test, in which home has no part', () => {
    const failover = { receiver: B } as never;
    expect(boundTo(null)).toBeNull();
    expect(boundTo({ job: null, failover })).toBe(B);
    expect(boundTo({ job: job('planned-failover', A), failover: null })).toBe(A);
    expect(boundTo({ job: job('failback', A), failover })).toBe(A);
    for (const operation of ['test-failover', 'cleanup']) {
      expect(boundTo({ job: job(operation, A), failover: null })).toBeNull();
      expect(boundTo({ job: job(operation, A), failover })).toBe(B);
    }
  });
});

describe('upkeep of a machine without a session', () => {
  const both = viewOf(A, [member(A), member(B)]);
  const bIsGone = viewOf(A, [member(A), member(B, 'gone')]);
  const bIsUnknown = viewOf(A, [member(A), member(B, 'unknown')]);
  it.each([
    ['had it last', atB, owner(A), null, both, true],
    ['had it last, and others were not watched yet', atB, owner(A), null, viewOf(A, [member(A)], false), true],
    ['is not who had it last, who lives', atA, owner(B), null, both, false],
    ['is not who had it last, who has not shown that he is gone', atA, owner(B), null, bIsUnknown, false],
    ['is wanted, and who had it last is gone', atA, owner(B), null, bIsGone, true],
    ['is the only one that lives', atB, owner(B), null, bIsGone, true],
    ['is wanted, nobody had it', atA, { owner: null }, null, both, true],
    ['is not wanted, nobody had it', atB, { owner: null }, null, both, false],
    ['has not watched the others for long enough', atA, { owner: null }, null, viewOf(A, [member(A)], false), false],
    ['has the copy', atB, owner(B), A, both, true],
    ['had it last, but another has the copy', atA, owner(A), B, both, false],
    ['is wanted, and who has the copy is gone', atA, owner(B), B, bIsGone, true],
  ] as const)('A %s', (_what, machine, manifest, bound, view, ours) => {
    const recovery = bound === null ? null : ({ job: { receiver: bound }, failover: null } as never);
    expect(claimOf(machine, manifest, recovery, view).ours).toBe(ours);
  });

  it('is done by one of them, whatever the state, once all have watched each other', () => {
    for (const machine of [atA, atB]) {
      for (const manifest of [{ owner: null }, owner(A), owner(B), owner(C)]) {
        const members = [member(A), member(B), member(C, 'gone')];
        const ours = [A, B].filter((self) => claimOf(machine, manifest, null, viewOf(self, members)).ours);
        expect(ours).toHaveLength(1);
      }
    }
  });
});

describe('handovers', () => {
  const sessions = [
    { machine: atA, sinceMs: 0, stranded: null },
    { machine: atB, sinceMs: 0, stranded: null },
  ];
  const both = viewOf(A, [member(A), member(B)]);
  const never = (): undefined => undefined;

  it('are planned for what belongs elsewhere, and for nothing else', () => {
    expect(planHandovers(sessions, both, never, 1)).toMatchObject([{ machine: atB, to: B, waits: null }]);
    expect(planHandovers(sessions, viewOf(A, [member(A), member(B, 'unknown')]), never, 1)).toEqual([]);
  });

  it('wait until the others were watched for long enough', () => {
    const [move] = planHandovers(sessions, { ...both, isSettled: false }, never, 1);
    expect(move?.waits).toMatch(/watched/);
  });

  it('leave one that receivers sent in circles alone until they have had time to agree, not for longer', () => {
    const circled = { redirects: REDIRECTS_MAX, unreachable: [] };
    const direction = directionOf(placementOf(atB, null, both), both, circled);
    if (direction.to !== 'here') throw new Error('it was sent on');
    const session = { machine: atB, sinceMs: 5, stranded: direction.stranded };
    expect(planHandovers([session], both, never, 5 + both.settleMs - 1)[0]?.waits).toMatch(/could not get/);
    expect(planHandovers([session], both, never, 5 + both.settleMs)[0]?.waits).toBeNull();
  });

  it('leave a machine alone that could not get there, or stayed when asked, for some time', () => {
    const stranded = [{ machine: atB, sinceMs: 5, stranded: { from: B, pauseMs: HANDOVER_PAUSE_MS } }];
    expect(planHandovers(stranded, both, never, 6)[0]?.waits).toMatch(/could not get/);
    expect(planHandovers(stranded, both, never, 6 + HANDOVER_PAUSE_MS)[0]?.waits).toBeNull();
    const stayed = { to: B, reason: 'it has a job here', atMs: 5 };
    expect(planHandovers(sessions, both, () => stayed, 6)[0]?.waits).toMatch(/it has a job here/);
    expect(planHandovers(sessions, both, () => stayed, 6 + HANDOVER_PAUSE_MS)[0]?.waits).toBeNull();
    // Another receiver is another matter: the one that it could not reach is gone.
    expect(
      planHandovers(
        [{ machine: atB, sinceMs: 5, stranded: { from: C, pauseMs: HANDOVER_PAUSE_MS } }],
        both,
        never,
        6,
      )[0]?.waits,
    ).toBeNull();
    expect(planHandovers(sessions, both, () => ({ ...stayed, to: C }), 6)[0]?.waits).toBeNull();
  });

  describe('to a receiver that was killed and is back', () => {
    // The agent came 5 s after the kill, and had not reached it.
    const sinceMs = 100_000;
    const stranded = [{ machine: atB, sinceMs, stranded: { from: B, pauseMs: HANDOVER_PAUSE_MS } }];
    const goesAt = (back: FleetMember['back'], session = stranded): number => {
      const view = viewOf(A, [member(A), { ...member(B), back }]);
      for (let nowMs = sinceMs; ; nowMs += 1_000)
        if (planHandovers(session, view, never, nowMs)[0]?.waits === null) return nowMs;
    };

    it('begin once it has shown life for half a minute', () => {
      expect(goesAt(undefined)).toBe(sinceMs + HANDOVER_PAUSE_MS);
      expect(goesAt({ atMs: sinceMs + 20_000, recent: 1 })).toBe(sinceMs + 20_000 + HANDOVER_BACK_MS);
      // Seen back a moment before the agent came, which had dialled its last life.
      expect(goesAt({ atMs: sinceMs - 2_000, recent: 1 })).toBe(sinceMs - 2_000 + HANDOVER_BACK_MS);
    });

    it('are the same when it calls: an operator waits for no other time', () => {
      const calledAt = (back: FleetMember['back']): number => {
        let nowMs = sinceMs;
        let asked = false;
        const view = viewOf(A, [member(A), { ...member(B), back }]);
        const handovers = new Handovers({
          sessions: { sessions: stranded, handOver: () => (asked = true) },
          fleet: { view, callers: new Map([[atB, B]]) },
          clock: { monotonicMs: () => nowMs },
          log: silentLogger(),
        } as unknown as ConstructorParameters<typeof Handovers>[0]);
        for (; ; nowMs += 1_000) {
          handovers.answerCalls();
          if (asked) return nowMs;
        }
      };
      for (const back of [undefined, { atMs: sinceMs + 20_000, recent: 1 }]) expect(calledAt(back)).toBe(goesAt(back));
    });

    it('wait the longer, the more often it came back', () => {
      expect(goesAt({ atMs: sinceMs + 20_000, recent: 2 })).toBe(sinceMs + 20_000 + 2 * HANDOVER_BACK_MS);
      expect(goesAt({ atMs: sinceMs + 20_000, recent: 4 })).toBe(sinceMs + 20_000 + 8 * HANDOVER_BACK_MS);
      expect(goesAt({ atMs: sinceMs + 20_000, recent: 40 })).toBe(sinceMs + HANDOVER_PAUSE_MS);
    });

    it('are not tried again when the agent could not reach this life either', () => {
      const atMs = sinceMs - HANDOVER_BACK_MS;
      expect(goesAt({ atMs, recent: 1 })).toBe(sinceMs + HANDOVER_PAUSE_MS);
    });
  });
});

describe('a receiver that comes back', () => {
  const record = (number: number, instance: string): ReceiverRecord =>
    ({ id: B, number, instance, state: 'serving', heartbeatMs: 15_000 }) as ReceiverRecord;
  const seen = (...looks: [nowMs: number, number: number, instance: string][]): RosterEntry['back'] => {
    const roster = new Roster();
    for (const [nowMs, number, instance] of looks) roster.look([record(number, instance)], nowMs);
    return roster.entries(looks.at(-1)?.[0] ?? 0)[0]?.back;
  };

  it('is seen by its process, or by its voice after a silence; one that came first is none', () => {
    expect(seen([0, 1, 'x'])).toBeUndefined();
    expect(seen([0, 1, 'x'], [15_000, 2, 'x'])).toBeUndefined();
    expect(seen([0, 1, 'x'], [15_000, 2, 'y'])).toEqual({ atMs: 15_000, recent: 1 });
    expect(seen([0, 1, 'x'], [15_000, 2, 'y'], [30_000, 3, 'y'])).toEqual({ atMs: 15_000, recent: 1 });
    expect(seen([0, 1, 'x'], [15_000, 1, 'x'], [30_000, 1, 'x'], [45_000, 1, 'x'], [60_000, 2, 'x'])).toEqual({
      atMs: 60_000,
      recent: 1,
    });
  });

  it('counts how often it did of late', () => {
    const times: [number, number, string][] = [0, 1, 2, 3].map((i) => [i * 60_000, i + 1, `life ${i}`]);
    expect(seen(...times)).toEqual({ atMs: 180_000, recent: 3 });
    expect(seen(...times, [180_000 + HANDOVER_PAUSE_MS, 9, 'much later'])?.recent).toBe(1);
  });
});
