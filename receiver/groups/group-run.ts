/**
 * One attempt at a point of a group: gives the agents of all members their orders and hears their answers, as coordination.ts decides. Owns nothing durable;
 * when this process dies, the members' sessions end, and each thaws by itself.
 */
import type { Clock } from '../../shared/clock.js';
import { failpoint } from '../../shared/failpoints.js';
import type { MachineId } from '../../shared/units.js';
import type { Group } from '../catalog/groups.js';
import type { GroupMember } from '../session/group-link.js';
import {
  beginCoordination,
  isOver,
  take,
  type Action,
  type At,
  type Coordination,
  type Event,
} from './coordination.js';

export interface GroupRunDeps {
  readonly clock: Clock;
  readonly member: (machine: MachineId) => GroupMember | null;
  readonly nameOf: (machine: MachineId) => string;
  /** Why a machine that has no session here can't be asked. */
  readonly whereIs: (machine: MachineId) => Promise<string>;
  readonly signal: AbortSignal;
}

/** Members that can't be asked now, with the reason of each; empty: all can. */
export async function whyNotNow(
  { members }: Pick<Group, 'members'>,
  { member, nameOf, whereIs }: Pick<GroupRunDeps, 'member' | 'nameOf' | 'whereIs'>,
): Promise<string[]> {
  const reasons: string[] = [];
  for (const machine of members) {
    const found = member(machine);
    const why = found === null ? await whereIs(machine) : found.whyNot;
    if (why !== null) reasons.push(`${nameOf(machine)}: ${why}`);
  }
  return reasons;
}

/** Resolves when it has ended, whatever came of it. All members can be asked. */
export async function runGroup(
  group: Group,
  wish: { readonly point: string; readonly label: string | null },
  deps: GroupRunDeps,
): Promise<Coordination> {
  const run = new GroupRun(group, wish, deps);
  return run.end();
}

class GroupRun {
  readonly #group: Group;
  readonly #point: string;
  readonly #deps: GroupRunDeps;
  readonly #members = new Map<MachineId, GroupMember>();
  #state: Coordination;
  /** Ends the wait for the deadline of a phase. */
  #moved = new AbortController();

  constructor(group: Group, { point, label }: { point: string; label: string | null }, deps: GroupRunDeps) {
    this.#group = group;
    this.#point = point;
    this.#deps = deps;
    this.#state = beginCoordination(group.members, this.#now());
    const { name, consistency } = group;
    for (const member of group.members) {
      const agent = deps.member(member);
      if (agent === null) this.#take({ is: 'gone', member });
      else this.#members.set(member, agent);
    }
    // One has gone just now: then nobody is asked.
    if (isOver(this.#state)) this.#members.clear();
    for (const [member, agent] of this.#members) {
      agent.begin(
        { name, consistency, label },
        {
          reached: (step) => this.#take({ is: 'reached', member, step }),
          failed: (reason) => this.#take({ is: 'failed', member, reason }),
          gone: () => this.#take({ is: 'gone', member }),
          committed: (committed) => this.#take({ is: 'committed', member, point: committed }),
        },
      );
    }
  }

  async end(): Promise<Coordination> {
    const { clock, signal } = this.#deps;
    const onStop = (): void => this.#take({ is: 'stopped' });
    if (signal.aborted) onStop();
    signal.addEventListener('abort', onStop, { once: true });
    while (!isOver(this.#state)) {
      await clock.sleep(Math.max(0, this.#state.deadlineMs - clock.monotonicMs()), this.#moved.signal);
      if (this.#moved.signal.aborted) this.#moved = new AbortController();
      else this.#take({ is: 'tick' });
    }
    signal.removeEventListener('abort', onStop);
    return this.#state;
  }

  #now(): At {
    const { clock } = this.#deps;
    return { monotonicMs: clock.monotonicMs(), wallMs: clock.nowMs() };
  }

  #take(event: Event): void {
    const before = this.#state.phase;
    const { state, action } = take(this.#state, event, this.#now(), this.#deps.nameOf);
    this.#state = state;
    if (action !== null) this.#do(action);
    if (state.phase !== before) this.#moved.abort();
  }

  #do(action: Action): void {
    if (action.do === 'go' && action.step === 'cut') failpoint('receiver.group.frozen');
    if (action.do === 'thaw') failpoint('receiver.group.cut');
    const { id: group, name, members } = this.#group;
    for (const agent of this.#members.values()) {
      if (action.do === 'go') agent.go(action.step);
      else if (action.do === 'abort') agent.abort(action.reason);
      else agent.thaw({ point: this.#point, group, name, members: [...members], ...action.span });
    }
    if (action.do === 'thaw') failpoint('receiver.group.thawed');
  }
}
