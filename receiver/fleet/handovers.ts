/**
 * Brings machines to where they belong when receivers come and go: which session here is to be handed over next, and the loop that asks for it.
 *
 * One machine at a time, at a bounded rate with jitter: each costs the other receiver a takeover, and a hundred agents shall not arrive at once. What
 * is asked for happens between two cycles of the machine (session/ingest.ts); its bindings are looked up just then. Keeps nothing over a restart.
 */
import type { Clock } from '../../shared/clock.js';
import { messageOf } from '../../shared/errors.js';
import { HANDOVER_PAUSE_MS } from '../../shared/limits-fleet.js';
import type { Logger } from '../../shared/log.js';
import type { MachineId } from '../../shared/units.js';
import { loadRecovery } from '../catalog/recovery-io.js';
import type { ObjectStore } from '../store/store.js';
import type { Fleet } from './fleet.js';
import {
  directionOf,
  mayReturnAtMs,
  NO_ROUTE,
  placementOf,
  type Direction,
  type FleetMember,
  type FleetView,
  type Stranded,
} from './placement.js';

export interface SessionHere {
  readonly machine: MachineId;
  /** Tells one session of a machine from the next. */
  readonly sinceMs: number;
  readonly stranded: Stranded | null;
}

export interface Sessions {
  readonly sessions: readonly SessionHere[];
  handOver(machine: MachineId, decide: () => Promise<Direction>): void;
}

export interface Handover {
  readonly machine: MachineId;
  readonly to: string;
  readonly toName: string;
  readonly reason: string;
  /** Why not now; null: it may go. */
  readonly waits: string | null;
}

/** It was to go to a receiver, and it turned out that it belongs here. */
export interface Stayed {
  readonly to: string;
  readonly reason: string;
  readonly atMs: number;
}

/** Machines with a session here that belong elsewhere. Pure; of bindings to a copy or a job nothing is known yet. */
export function planHandovers(
  sessions: readonly SessionHere[],
  view: FleetView,
  stayed: (machine: MachineId) => Stayed | undefined,
  nowMs: number,
): Handover[] {
  const plan: Handover[] = [];
  for (const { machine, sinceMs, stranded } of sessions) {
    const direction = directionOf(placementOf(machine, null, view), view, NO_ROUTE);
    if (direction.to === 'here') continue;
    const { receiver, reason } = direction;
    const isTooSoon = (since: number): boolean => nowMs - since < HANDOVER_PAUSE_MS;
    const last = stayed(machine);
    const waits = !view.isSettled
      ? 'the other receivers were not watched for long enough yet'
      : stranded?.from === receiver.id && nowMs < strandedUntilMs(receiver, sinceMs, stranded.pauseMs)
        ? `its agent could not get to ${receiver.name}`
        : last?.to === receiver.id && isTooSoon(last.atMs)
          ? `it stays: ${last.reason}`
          : null;
    plan.push({ machine, to: receiver.id, toName: receiver.name, reason, waits });
  }
  return plan;
}

/** Until its time is over, or the receiver has come back and shown that it stays. */
const strandedUntilMs = (receiver: FleetMember, sinceMs: number, pauseMs: number): number =>
  Math.min(sinceMs + pauseMs, mayReturnAtMs(receiver, sinceMs) ?? Infinity);

export interface HandoverDeps {
  readonly store: ObjectStore;
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Logger;
  readonly fleet: Pick<Fleet, 'view' | 'direction' | 'callers' | 'onLook' | 'counters'>;
  readonly sessions: Sessions;
  readonly perMinute: number;
}

export class Handovers {
  readonly #deps: HandoverDeps;
  /** Sessions that were asked to go and have not gone yet. */
  readonly #asked = new Map<MachineId, number>();
  /** Sessions whose machines another receiver has called for. */
  readonly #called = new Map<MachineId, number>();
  readonly #stayed = new Map<MachineId, Stayed>();
  #handedOver = 0;

  constructor(deps: HandoverDeps) {
    this.#deps = deps;
  }

  get handedOver(): number {
    return this.#handedOver;
  }

  get plan(): Handover[] {
    const { sessions, fleet, clock } = this.#deps;
    return planHandovers(sessions.sessions, fleet.view, (machine) => this.#stayed.get(machine), clock.monotonicMs());
  }

  async run(signal: AbortSignal): Promise<void> {
    const { clock, random, perMinute, fleet } = this.#deps;
    const unfollow = fleet.onLook(() => this.answerCalls());
    while (!signal.aborted) {
      await clock.sleep((60_000 / perMinute) * (0.5 + random()), signal);
      if (!signal.aborted) this.next();
    }
    unfollow();
  }

  /** Asks for one handover, if there is one to ask for. */
  next(): void {
    const here = new Map(this.#deps.sessions.sessions.map((session) => [session.machine, session.sinceMs]));
    for (const [machine, sinceMs] of this.#asked) if (here.get(machine) !== sinceMs) this.#asked.delete(machine);
    for (const [machine, sinceMs] of this.#called) if (here.get(machine) !== sinceMs) this.#called.delete(machine);
    for (const machine of this.#stayed.keys()) if (!here.has(machine)) this.#stayed.delete(machine);
    const next = this.plan.find(({ machine, waits }) => waits === null && !this.#asked.has(machine));
    const sinceMs = next === undefined ? undefined : here.get(next.machine);
    if (next === undefined || sinceMs === undefined) return;
    this.#asked.set(next.machine, sinceMs);
    this.#deps.sessions.handOver(next.machine, () => this.#decide(next));
  }

  /** Asks for the handover of every machine here that another receiver calls for. An operator waits for it: at no rate, and asked again at each look. */
  answerCalls(): void {
    const { sessions, fleet, clock, log } = this.#deps;
    const { callers, view } = fleet;
    for (const { machine, sinceMs, stranded } of callers.size === 0 ? [] : sessions.sessions) {
      const to = callers.get(machine);
      if (to === undefined) continue;
      // It was sent there and could not get there, and nothing has changed since: whoever called is told so when the time is over.
      const caller = view.members.find(({ id }) => id === to);
      const isStranded = stranded?.from === to && caller !== undefined;
      if (isStranded && clock.monotonicMs() < strandedUntilMs(caller, sinceMs, stranded.pauseMs)) continue;
      if (this.#called.get(machine) === sinceMs) continue;
      this.#called.set(machine, sinceMs);
      log.info({ machine, receiver: to }, 'another receiver calls the agent over');
      sessions.handOver(machine, async () => {
        const direction = await this.#direction(machine);
        if (direction.to === 'here') this.#called.delete(machine);
        else fleet.counters.calledAway++;
        return direction;
      });
    }
  }

  /** With what is known now: receivers may have gone since, a job may have begun. A store that doesn't answer moves nobody. */
  async #direction(machine: MachineId): Promise<Direction> {
    const { store, log, fleet } = this.#deps;
    try {
      return fleet.direction(machine, await loadRecovery(store, machine), NO_ROUTE);
    } catch (error) {
      log.warn({ err: error, machine }, 'a machine is not handed over: its state could not be read');
      return { to: 'here', reason: messageOf(error), stranded: null };
    }
  }

  async #decide({ machine, to }: Handover): Promise<Direction> {
    const direction = await this.#direction(machine);
    this.#asked.delete(machine);
    const { reason } = direction;
    if (direction.to === 'here') this.#stayed.set(machine, { to, reason, atMs: this.#deps.clock.monotonicMs() });
    else this.#handedOver++;
    return direction;
  }
}
