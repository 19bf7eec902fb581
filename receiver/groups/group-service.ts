/**
 * Points of groups, on demand and by schedule: one attempt per group at a time, each with its outcome on record. The receiver to which a group belongs
 * (fleet/placement.ts: its members' agents belong to the same) follows its schedule. Keeps nothing over a restart but what is in the store.
 */
import type { Clock } from '../../shared/clock.js';
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { GROUP_HISTORY_MAX, GROUP_MEMBERS_WAIT_MS, GROUP_TICK_MS } from '../../shared/limits-groups.js';
import { APPLICATION_FAILURES_ALERT } from '../../shared/limits-quiesce.js';
import type { Logger } from '../../shared/log.js';
import { nextDue, type Due, type ScheduleHistory } from '../../shared/schedule-due.js';
import type { MachineId } from '../../shared/units.js';
import { historyOf, keepAttempt, listAttempts, type Attempt } from '../catalog/group-attempts.js';
import { groupNamed, type Group, type KnownGroups } from '../catalog/groups.js';
import { listMachines } from '../catalog/machines.js';
import type { ObjectStore } from '../store/store.js';
import type { GroupMember } from '../session/group-link.js';
import { runGroup, whyNotNow, type GroupRunDeps } from './group-run.js';

export interface GroupServiceDeps {
  readonly store: ObjectStore;
  readonly groups: KnownGroups;
  readonly clock: Clock;
  readonly randomId: () => string;
  readonly log: Logger;
  readonly member: (machine: MachineId) => GroupMember | null;
  /** Why a machine that has no session here has none. */
  readonly whereIs: (machine: MachineId) => Promise<string>;
  /** Whether the group's members belong to this receiver. */
  readonly isOurs: (group: string) => boolean;
}

export interface GroupFigures {
  readonly group: string;
  readonly name: string;
  readonly members: number;
  readonly nextAtMs: number | null;
  readonly nextReason: string;
  /** By schedule; the distance to the next try grows with them. */
  readonly failuresInARow: number;
  /** Since the start of this receiver. */
  readonly made: number;
  readonly absent: number;
  readonly lastPoint: { readonly point: string; readonly cutFromMs: number; readonly skewMs: number } | null;
  /** Why the last attempt came to nothing; '' when it did not. */
  readonly lastFailure: string;
}

interface Known {
  made: number;
  absent: number;
  lastPoint: GroupFigures['lastPoint'];
  lastFailure: string;
  /** Of the attempts before, by whatever receiver; null: not looked up yet. */
  history: ScheduleHistory | null;
  /** Since when (monotonic) a point is due for which members are missing. */
  waitingSinceMs: number | null;
}

export class GroupService {
  readonly #deps: GroupServiceDeps;
  readonly #known = new Map<string, Known>();
  readonly #running = new Map<string, Promise<Attempt>>();
  readonly #stopped = new AbortController();
  #problem = '';

  constructor(deps: GroupServiceDeps) {
    this.#deps = deps;
  }

  get figures(): readonly GroupFigures[] {
    return this.#deps.groups.all.map((group) => {
      const { made, absent, lastPoint, lastFailure, history } = this.#of(group);
      const due = this.#deps.isOurs(group.id) ? this.#due(group) : null;
      const { id, name, members } = group;
      return {
        ...{ group: id, name, members: members.length, made, absent, lastPoint, lastFailure },
        ...{ failuresInARow: history?.failuresInARow ?? 0 },
        ...{ nextAtMs: due?.atMs ?? null, nextReason: due?.reason ?? '' },
      };
    });
  }

  /** Makes a point of the group now, or says why there is none. */
  async pointNow(name: string, label: string | null): Promise<Attempt> {
    const group = groupNamed(await this.#deps.groups.refresh(), name);
    if (this.#running.has(group.id)) {
      throw new AfterimageError(`a point of group ${name} is being made already`, {
        code: 'group-busy',
        kind: 'refused',
        hint: 'Wait for it: see `afterimage group points`.',
      });
    }
    const attempt = await this.#attempt(group, 'operator', label);
    if (attempt.reason === '') return attempt;
    throw new AfterimageError(`no point of group ${name}: ${attempt.reason}`, {
      code: 'group-point-absent',
      kind: 'refused',
      hint: 'Mend the cause and try again. Points that members have of it are their own: see `afterimage group points --incomplete`.',
    });
  }

  /** Follows the schedules until the signal is aborted; what is under way then ends first. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock } = this.#deps;
    while (!signal.aborted) {
      await this.#try(() => this.#beginDue());
      await clock.sleep(GROUP_TICK_MS, signal);
    }
    this.#stopped.abort();
    await Promise.allSettled(this.#running.values());
  }

  async #beginDue(): Promise<void> {
    const { store, groups, clock, isOurs, log } = this.#deps;
    const all = await groups.recent();
    for (const id of this.#known.keys()) if (all.every((group) => group.id !== id)) this.#known.delete(id);
    for (const group of all) {
      if (group.schedule === null || this.#running.has(group.id) || !isOurs(group.id)) continue;
      const known = this.#of(group);
      if (known.history !== null && !this.#isDue(group)) continue;
      // Another receiver may have made it meanwhile.
      known.history = historyOf(await listAttempts(store, group.id, GROUP_HISTORY_MAX));
      if (!this.#isDue(group)) continue;
      // After a start agents are on their way; so they are after a group was made.
      known.waitingSinceMs ??= clock.monotonicMs();
      const isWaiting = clock.monotonicMs() - known.waitingSinceMs < GROUP_MEMBERS_WAIT_MS;
      if (isWaiting && (await whyNotNow(group, await this.#runDeps())).length > 0) continue;
      known.waitingSinceMs = null;
      this.#attempt(group, 'schedule', null).catch((error: unknown) =>
        log.error(
          { err: error, group: group.name },
          `the outcome of a group's point is not on record: ${messageOf(error)}`,
        ),
      );
    }
  }

  #isDue(group: Group): boolean {
    const due = this.#due(group);
    return due !== null && due.atMs <= this.#deps.clock.nowMs();
  }

  #due(group: Group): Due | null {
    const { schedule, changedAtMs } = group;
    const { history } = this.#of(group);
    if (schedule === null || history === null) return null;
    const { lastTryAtMs, failuresInARow } = history;
    const since = lastTryAtMs === null ? null : Math.max(lastTryAtMs, changedAtMs);
    return nextDue(schedule, { lastTryAtMs: since, failuresInARow }, changedAtMs, 0, 0);
  }

  #attempt(group: Group, by: Attempt['by'], label: string | null): Promise<Attempt> {
    const running = this.#make(group, by, label).finally(() => this.#running.delete(group.id));
    this.#running.set(group.id, running);
    return running;
  }

  async #make(group: Group, by: Attempt['by'], label: string | null): Promise<Attempt> {
    const { store, clock, randomId, log } = this.#deps;
    const point = randomId();
    const startedAtMs = clock.nowMs();
    const known = this.#of(group);
    const history = known.history ?? historyOf(await listAttempts(store, group.id, GROUP_HISTORY_MAX));
    known.history = { ...history, lastTryAtMs: startedAtMs };
    const deps = await this.#runDeps();
    const missing = await whyNotNow(group, deps);
    const run = missing.length > 0 ? null : await runGroup(group, { point, label }, deps);
    const reason = run === null ? missing.join('; ') : run.reason;
    const { id, name, members } = group;
    const attempt: Attempt = {
      version: 1,
      ...{ point, group: id, name, label, by, startedAtMs },
      endedAtMs: Math.max(startedAtMs, clock.nowMs()),
      asked: run !== null,
      reason: reason.slice(0, 1000),
      members: members.map((machine) => ({
        machine,
        name: deps.nameOf(machine).slice(0, 300),
        point: run?.points.get(machine) ?? null,
      })),
      skewMs: run?.span?.skewMs ?? null,
      frozenMs: run?.span?.frozenMs ?? null,
    };
    if (attempt.asked && by === 'schedule')
      known.history = { lastTryAtMs: startedAtMs, failuresInARow: reason === '' ? 0 : history.failuresInARow + 1 };
    const facts = { group: name, groupPoint: point, by, label };
    if (reason === '') {
      known.made++;
      known.lastFailure = '';
      const { cutFromMs = startedAtMs, skewMs = 0 } = run?.span ?? {};
      known.lastPoint = { point, cutFromMs, skewMs };
      log.info({ ...facts, skewMs, frozenMs: attempt.frozenMs }, 'point of a group made');
    } else {
      known.absent++;
      known.lastFailure = attempt.reason;
      const failuresInARow = known.history?.failuresInARow ?? 0;
      if (attempt.asked && failuresInARow >= APPLICATION_FAILURES_ALERT)
        log.error({ ...facts, reason, alert: 'group-points-failing', failuresInARow }, 'no point of the group');
      else log.warn({ ...facts, reason }, 'no point of the group');
    }
    await keepAttempt(store, attempt);
    return attempt;
  }

  async #runDeps(): Promise<GroupRunDeps> {
    const { store, clock, member, whereIs } = this.#deps;
    const names = new Map((await listMachines(store)).map(({ id, name }) => [id, name]));
    const nameOf = (machine: MachineId): string => names.get(machine) ?? machine;
    return { clock, member, whereIs, nameOf, signal: this.#stopped.signal };
  }

  #of({ id }: Pick<Group, 'id'>): Known {
    let known = this.#known.get(id);
    if (known === undefined) {
      known = { made: 0, absent: 0, lastPoint: null, lastFailure: '', history: null, waitingSinceMs: null };
      this.#known.set(id, known);
    }
    return known;
  }

  /** A store that doesn't answer costs a look. */
  async #try(work: () => Promise<unknown>): Promise<void> {
    try {
      await work();
      this.#problem = '';
    } catch (error) {
      const problem = messageOf(error);
      if (problem !== this.#problem) this.#deps.log.warn({ err: error }, `groups can't be looked at: ${problem}`);
      this.#problem = problem;
    }
  }
}
