/**
 * The steps of a group's point, as the receiver that coordinates it takes them: a state machine without clock, network or store. Events and times go in,
 * what is to be done comes out.
 *
 * gather → prepare → freeze → cut → commit → done. The next step is ordered when all members have come as far; before `commit` whatever fails at one member,
 * or comes too late, ends it for all of them. Why the cuts are one instant: `cut` is ordered when all are frozen, and `thaw` when all have cut, so every
 * cut lies in a time in which nobody could write. An agent commits as a member only if it heard `thaw` while it was still frozen; so even one that thawed
 * by itself, unheard, makes the point incomplete and never wrong.
 */
import { GROUP_COMMIT_MS, GROUP_FREEZE_MS, GROUP_GATHER_MS, GROUP_PREPARE_MS } from '../../shared/limits-groups.js';
import type { MachineId } from '../../shared/units.js';
import type { GroupGo, GroupReached } from '../../shared/wire/messages.js';

export type Phase = 'gather' | 'prepare' | 'freeze' | 'cut' | 'commit' | 'done' | 'failed';

export interface At {
  readonly monotonicMs: number;
  readonly wallMs: number;
}

export interface Coordination {
  readonly phase: Phase;
  readonly members: readonly MachineId[];
  /** Members that have come as far as this phase wants. */
  readonly ready: ReadonlySet<MachineId>;
  /** Points that were committed. */
  readonly points: ReadonlyMap<MachineId, number>;
  /** When this phase must be over (monotonic). */
  readonly deadlineMs: number;
  readonly freezeOrderedAt: At | null;
  readonly cutOrderedAt: At | null;
  readonly span: Span | null;
  /** Why it failed; '' when it has not. */
  readonly reason: string;
}

/** Known when all have cut. */
export interface Span {
  readonly cutFromMs: number;
  readonly cutToMs: number;
  readonly skewMs: number;
  readonly frozenMs: number;
}

export type Event =
  | { readonly is: 'reached'; readonly member: MachineId; readonly step: GroupReached['step'] }
  | { readonly is: 'failed'; readonly member: MachineId; readonly reason: string }
  | { readonly is: 'gone'; readonly member: MachineId }
  | { readonly is: 'committed'; readonly member: MachineId; readonly point: number }
  /** Time has passed; nothing more. */
  | { readonly is: 'tick' }
  /** The receiver is being stopped. */
  | { readonly is: 'stopped' };

export type Action =
  | { readonly do: 'go'; readonly step: GroupGo['step'] }
  | { readonly do: 'thaw'; readonly span: Span }
  /** To all members. */
  | { readonly do: 'abort'; readonly reason: string };

export interface Taken {
  readonly state: Coordination;
  readonly action: Action | null;
}

type Waiting = Exclude<Phase, 'done' | 'failed'>;

/** What ends each phase, how long it may take, and what is said of who is late. */
const STEPS: Readonly<
  Record<
    Waiting,
    { readonly step: GroupReached['step'] | 'committed'; readonly limitMs: number; readonly late: string }
  >
> = {
  gather: { step: 'gathered', limitMs: GROUP_GATHER_MS, late: 'was not done with its running cycle' },
  prepare: { step: 'prepared', limitMs: GROUP_PREPARE_MS, late: 'had not prepared its applications' },
  freeze: { step: 'frozen', limitMs: GROUP_FREEZE_MS, late: 'was not frozen' },
  // No time of its own: frozen machines wait.
  cut: { step: 'cut', limitMs: GROUP_FREEZE_MS, late: 'had not cut' },
  commit: { step: 'committed', limitMs: GROUP_COMMIT_MS, late: 'had not committed its point' },
};

export function beginCoordination(members: readonly MachineId[], at: At): Coordination {
  return {
    phase: 'gather',
    members,
    ready: new Set(),
    points: new Map(),
    deadlineMs: at.monotonicMs + STEPS.gather.limitMs,
    freezeOrderedAt: null,
    cutOrderedAt: null,
    span: null,
    reason: '',
  };
}

export const isOver = ({ phase }: Coordination): boolean => phase === 'done' || phase === 'failed';

export function take(state: Coordination, event: Event, at: At, nameOf: (machine: MachineId) => string): Taken {
  const { phase } = state;
  if (phase === 'done' || phase === 'failed') return { state, action: null };
  const late = at.monotonicMs >= state.deadlineMs;
  switch (event.is) {
    case 'failed':
      return fail(state, `${nameOf(event.member)}: ${event.reason}`);
    case 'gone':
      // What is in the store stays there; whoever has committed may go.
      if (state.points.has(event.member)) return { state, action: null };
      return fail(state, `${nameOf(event.member)} was disconnected ${amid(phase)}`);
    case 'stopped':
      return fail(state, `the receiver that coordinated it was stopped ${amid(phase)}`);
    case 'tick':
      return late ? failLate(state, phase, nameOf) : { state, action: null };
    case 'committed': {
      if (phase !== 'commit') return fail(state, `${nameOf(event.member)} committed before all had cut`);
      const points = new Map(state.points).set(event.member, event.point);
      return ready({ ...state, points }, phase, event.member, at);
    }
    case 'reached':
      // Time decides, not the order in which a timer and a message come.
      if (late) return failLate(state, phase, nameOf);
      if (event.step !== STEPS[phase].step)
        return fail(state, `${nameOf(event.member)} said "${event.step}" ${amid(phase)}`);
      return ready(state, phase, event.member, at);
  }
}

function ready(state: Coordination, phase: Waiting, member: MachineId, at: At): Taken {
  const all = new Set(state.ready).add(member);
  if (all.size < state.members.length) return { state: { ...state, ready: all }, action: null };
  const to = (next: Phase, limitMs: number): Coordination => ({
    ...state,
    phase: next,
    ready: new Set(),
    deadlineMs: at.monotonicMs + limitMs,
  });
  switch (phase) {
    case 'gather':
      return { state: to('prepare', STEPS.prepare.limitMs), action: { do: 'go', step: 'prepare' } };
    case 'prepare':
      return {
        state: { ...to('freeze', STEPS.freeze.limitMs), freezeOrderedAt: at },
        action: { do: 'go', step: 'freeze' },
      };
    case 'freeze': {
      const cut = { ...to('cut', 0), deadlineMs: state.deadlineMs, cutOrderedAt: at };
      return { state: cut, action: { do: 'go', step: 'cut' } };
    }
    case 'cut': {
      const span = spanOf(state, at);
      return { state: { ...to('commit', STEPS.commit.limitMs), span }, action: { do: 'thaw', span } };
    }
    case 'commit':
      return { state: { ...to('done', 0), ready: all }, action: null };
  }
}

/** By one clock, the coordinator's: those of the members need not agree. */
function spanOf({ freezeOrderedAt, cutOrderedAt }: Coordination, at: At): Span {
  const from = cutOrderedAt ?? at;
  return {
    cutFromMs: from.wallMs,
    cutToMs: Math.max(from.wallMs, at.wallMs),
    skewMs: Math.round(at.monotonicMs - from.monotonicMs),
    frozenMs: Math.round(at.monotonicMs - (freezeOrderedAt ?? at).monotonicMs),
  };
}

function failLate(state: Coordination, phase: Waiting, nameOf: (machine: MachineId) => string): Taken {
  const late = state.members.filter((machine) => !state.ready.has(machine)).map(nameOf);
  return fail(state, `${late.join(', ')} ${STEPS[phase].late} within ${STEPS[phase].limitMs / 1000} s`);
}

/** After the order to thaw nothing is called back: a point that is committed nevertheless is for the manifests to count. */
function fail(state: Coordination, reason: string): Taken {
  const action: Action | null = state.phase === 'commit' ? null : { do: 'abort', reason };
  return { state: { ...state, phase: 'failed', reason }, action };
}

const AMID: Readonly<Record<Waiting, string>> = {
  gather: 'before it was gathered',
  prepare: 'while applications were prepared',
  freeze: 'while machines were being frozen',
  cut: 'while all were frozen, before all had cut',
  commit: 'after the cut, before its point was committed',
};
const amid = (phase: Waiting): string => AMID[phase];
