/**
 * How a group's point is coordinated, in virtual time: what is ordered when, and what ends it.
 */
import { describe, expect, it } from 'vitest';
import {
  beginCoordination,
  take,
  type Action,
  type Coordination,
  type Event,
} from '../../receiver/groups/coordination.js';
import { GROUP_COMMIT_MS, GROUP_FREEZE_MS, GROUP_GATHER_MS, GROUP_PREPARE_MS } from '../../shared/limits-groups.js';
import { asMachineId, type MachineId } from '../../shared/units.js';
import type { GroupReached } from '../../shared/wire/messages.js';

const A = asMachineId('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa');
const B = asMachineId('bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb');
const C = asMachineId('cccccccc-cccc-4ccc-8ccc-cccccccccccc');
const WALL_MS = 1_700_000_000_000;
const nameOf = (machine: MachineId): string => machine.slice(0, 1);

class World {
  state: Coordination;
  nowMs = 0;
  readonly actions: Action[] = [];

  constructor(readonly members: readonly MachineId[] = [A, B, C]) {
    this.state = beginCoordination(members, { monotonicMs: 0, wallMs: WALL_MS });
  }

  is(event: Event): Action | null {
    const at = { monotonicMs: this.nowMs, wallMs: WALL_MS + this.nowMs };
    const { state, action } = take(this.state, event, at, nameOf);
    this.state = state;
    if (action !== null) this.actions.push(action);
    return action;
  }

  reached(member: MachineId, step: GroupReached['step']): Action | null {
    return this.is({ is: 'reached', member, step });
  }

  /** All members, up to and with this step; each a millisecond after the other. */
  allReached(last: GroupReached['step']): void {
    for (const step of ['gathered', 'prepared', 'frozen', 'cut'] as const) {
      for (const member of this.members) {
        this.nowMs++;
        this.reached(member, step);
      }
      if (step === last) return;
    }
  }
}

describe('a point of a group', () => {
  it('orders each step when all have come as far, and never before', () => {
    const world = new World();
    const orders = [
      ['gathered', { do: 'go', step: 'prepare' }],
      ['prepared', { do: 'go', step: 'freeze' }],
      ['frozen', { do: 'go', step: 'cut' }],
    ] as const;
    for (const [step, order] of orders) {
      expect(world.reached(A, step)).toBe(null);
      // Said twice is said once.
      expect(world.reached(A, step)).toBe(null);
      expect(world.reached(C, step)).toBe(null);
      expect(world.reached(B, step)).toEqual(order);
    }
    world.nowMs += 7;
    expect(world.reached(B, 'cut')).toBe(null);
    expect(world.reached(A, 'cut')).toBe(null);
    world.nowMs += 5;
    expect(world.reached(C, 'cut')).toMatchObject({ do: 'thaw' });
    for (const [i, member] of [C, A].entries()) {
      world.is({ is: 'committed', member, point: i + 1 });
      expect(world.state.phase).toBe('commit');
    }
    world.is({ is: 'committed', member: B, point: 9 });
    expect(world.state).toMatchObject({ phase: 'done', reason: '' });
    expect([...world.state.points]).toEqual([
      [C, 1],
      [A, 2],
      [B, 9],
    ]);
    expect(world.actions).toHaveLength(4);
  });

  it('measures by one clock: the skew from the order to cut to the last word of a cut, the pause from the order to freeze', () => {
    const world = new World();
    world.allReached('prepared');
    world.nowMs = 1_000;
    world.reached(A, 'frozen');
    world.reached(B, 'frozen');
    world.nowMs = 1_200;
    world.reached(C, 'frozen');
    world.reached(A, 'cut');
    world.nowMs = 1_230;
    world.reached(B, 'cut');
    expect(world.reached(C, 'cut')).toEqual({
      do: 'thaw',
      span: { cutFromMs: WALL_MS + 1_200, cutToMs: WALL_MS + 1_230, skewMs: 30, frozenMs: 1_230 - 6 },
    });
  });

  it.each(['gather', 'prepare', 'freeze', 'cut'] as const)('is absent when a member refuses in phase %s', (phase) => {
    const world = new World();
    const before = { gather: null, prepare: 'gathered', freeze: 'prepared', cut: 'frozen' } as const;
    if (before[phase] !== null) world.allReached(before[phase]);
    expect(world.state.phase).toBe(phase);
    expect(world.is({ is: 'failed', member: B, reason: 'no application is configured' })).toEqual({
      do: 'abort',
      reason: 'b: no application is configured',
    });
    expect(world.state).toMatchObject({ phase: 'failed', reason: 'b: no application is configured' });
    // Whatever comes after it moves nothing.
    expect(world.reached(A, 'cut')).toBe(null);
    expect(world.is({ is: 'committed', member: A, point: 3 })).toBe(null);
    expect(world.state.phase).toBe('failed');
  });

  it.each([
    ['gather', null, GROUP_GATHER_MS, 'b, c was not done with its running cycle within 60 s'],
    ['prepare', 'gathered', GROUP_PREPARE_MS, 'b, c had not prepared its applications within 60 s'],
    ['freeze', 'prepared', GROUP_FREEZE_MS, 'b, c was not frozen within 12 s'],
  ] as const)('is absent when members are late in phase %s', (phase, before, limitMs, reason) => {
    const world = new World();
    if (before !== null) world.allReached(before);
    const step = { gather: 'gathered', prepare: 'prepared', freeze: 'frozen' } as const;
    world.reached(A, step[phase]);
    const startMs = world.nowMs;
    world.nowMs = startMs + limitMs - 1;
    expect(world.is({ is: 'tick' })).toBe(null);
    world.nowMs++;
    // A word that comes with the limit is too late as well, whatever a timer does.
    expect(world.reached(B, step[phase])).toEqual({ do: 'abort', reason });
  });

  it('gives the cut no time of its own: machines are frozen while they wait', () => {
    const world = new World();
    world.allReached('prepared');
    const orderedMs = world.nowMs;
    world.nowMs += GROUP_FREEZE_MS - 1;
    for (const member of world.members) world.reached(member, 'frozen');
    expect(world.state.phase).toBe('cut');
    expect(world.state.deadlineMs).toBe(orderedMs + GROUP_FREEZE_MS);
    world.reached(A, 'cut');
    world.nowMs++;
    expect(world.is({ is: 'tick' })).toEqual({ do: 'abort', reason: 'b, c had not cut within 12 s' });
  });

  it('is absent when a member is disconnected before the cut, and after it', () => {
    const before = new World();
    before.allReached('frozen');
    before.reached(B, 'cut');
    expect(before.is({ is: 'gone', member: B })).toMatchObject({
      do: 'abort',
      reason: 'b was disconnected while all were frozen, before all had cut',
    });
    const after = new World();
    after.allReached('cut');
    after.is({ is: 'committed', member: A, point: 4 });
    // Who has committed may go.
    after.is({ is: 'gone', member: A });
    expect(after.state.phase).toBe('commit');
    // Nothing is called back any more: what the others commit is theirs alone.
    expect(after.is({ is: 'gone', member: B })).toBe(null);
    expect(after.state).toMatchObject({
      phase: 'failed',
      reason: 'b was disconnected after the cut, before its point was committed',
    });
  });

  it('ends when commits do not come, and when the receiver is stopped', () => {
    const late = new World();
    late.allReached('cut');
    late.is({ is: 'committed', member: A, point: 4 });
    late.nowMs += GROUP_COMMIT_MS;
    expect(late.is({ is: 'tick' })).toBe(null);
    expect(late.state.reason).toBe('b, c had not committed its point within 600 s');
    const stopped = new World();
    stopped.allReached('prepared');
    expect(stopped.is({ is: 'stopped' })).toMatchObject({ do: 'abort' });
    expect(stopped.state.reason).toContain('was stopped while machines were being frozen');
  });

  it('trusts no member that is ahead of the order', () => {
    const cut = new World();
    cut.allReached('prepared');
    expect(cut.reached(A, 'cut')).toMatchObject({
      do: 'abort',
      reason: 'a said "cut" while machines were being frozen',
    });
    const committed = new World();
    committed.allReached('frozen');
    expect(committed.is({ is: 'committed', member: A, point: 1 })).toMatchObject({ do: 'abort' });
  });
});
