/**
 * Orders to the agent at the other end of one session, and its answers: a final cut, a restore. Every order ends: with an answer, with the caller's
 * signal, or with the session (`home-absent`). Holds nothing that matters beyond the session.
 */
import type { Clock } from '../../shared/clock.js';
import { AfterimageError } from '../../shared/errors.js';
import { RESUME_ANSWER_MS } from '../../shared/limits.js';
import type { DiskId } from '../../shared/units.js';
import type { CloseReason } from '../../shared/wire/close-codes.js';
import type { AgentMessage, ReceiverMessage, Restored, RestoreGoal } from '../../shared/wire/messages.js';
import type { HomeCall } from './home-agent.js';
import type { PullCounters, RestoreSession } from './restore-session.js';

export type HomeMessage = Extract<
  AgentMessage,
  {
    type:
      'final-cut-step' | 'final-cut-done' | 'home-resumed' | 'restore-step' | 'restored' | 'restore-failed' | 'resent';
  }
>;

const HOME_TYPES = new Set<string>([
  'final-cut-step',
  'final-cut-done',
  'home-resumed',
  'restore-step',
  'restored',
  'restore-failed',
  'resent',
]);
export const isHomeMessage = (message: AgentMessage): message is HomeMessage => HOME_TYPES.has(message.type);

export const homeAbsent = (why: string): AfterimageError =>
  new AfterimageError(`the agent at home is not there: ${why}`, {
    code: 'home-absent',
    kind: 'disconnected',
    hint: 'Start the agent on the machine at home and see its `afterimage-agent status`.',
  });

const cancelled = (what: string): AfterimageError =>
  new AfterimageError(`${what} was cancelled`, { code: 'cancelled', kind: 'cancelled' });

interface Order<T> {
  readonly number: number;
  readonly call: HomeCall;
  readonly resolve: (value: T) => void;
  readonly reject: (error: Error) => void;
  /** It is over: nothing waits for the caller's signal any more. */
  readonly forget: () => void;
}

const forget = (order: Order<never> | null | undefined): void => order?.forget();

/** What came of a goal within this session. */
export interface GoalEnd {
  readonly restored: Restored;
  readonly counters: PullCounters;
}

export class HomeSession {
  readonly #tell: (message: ReceiverMessage) => Promise<void>;
  readonly #end: (reason: CloseReason, text: string) => Promise<void>;
  #mode: 'replicating' | 'restoring' | null = null;
  #restoring: RestoreSession | null = null;
  #numbers = 0;
  #over: AfterimageError | null = null;
  #finalCut: Order<number> | null = null;
  #goal: Order<GoalEnd> | null = null;
  readonly #resends = new Map<number, Order<number>>();
  #resumes: { readonly number: number; readonly done: () => void }[] = [];
  readonly #onMode: () => void;
  readonly #clock: Clock;

  constructor(
    clock: Clock,
    tell: (message: ReceiverMessage) => Promise<void>,
    end: (reason: CloseReason, text: string) => Promise<void>,
    onMode: () => void,
  ) {
    this.#clock = clock;
    this.#tell = tell;
    this.#end = end;
    this.#onMode = onMode;
  }

  get mode(): 'replicating' | 'restoring' | null {
    return this.#over === null ? this.#mode : null;
  }

  /** Bytes for the running goal so far. */
  get counters(): PullCounters {
    return this.#restoring?.counters ?? { dataBytes: 0, sentBytes: 0, blocks: 0 };
  }

  /** The agent was welcomed. */
  opened(restoring: RestoreSession | null): void {
    this.#restoring = restoring;
    this.#mode = restoring === null ? 'replicating' : 'restoring';
    this.#onMode();
  }

  /** The session is over: whoever waits learns it. */
  closed(): void {
    const over = homeAbsent('its session has ended');
    this.#over = over;
    this.#finalCut?.reject(over);
    this.#goal?.reject(over);
    for (const order of this.#resends.values()) order.reject(over);
    for (const { done } of this.#resumes) done();
    this.#onMode();
  }

  end(reason: CloseReason, text: string): Promise<void> {
    return this.#end(reason, text);
  }

  async finalCut(call: HomeCall & { readonly hookTimeoutMs: number }): Promise<{ readonly point: number }> {
    const number = ++this.#numbers;
    if (this.#finalCut !== null) throw homeBusy('a final cut');
    const done = this.#order<number>(number, call, 'the final cut', (order) => (this.#finalCut = order));
    try {
      await this.#say({ type: 'final-cut', request: number, hookTimeoutMs: call.hookTimeoutMs });
      return { point: await done };
    } catch (error) {
      // The agent may be amid its hook: it must not leave the workload down for an order that nobody waits for.
      if (call.signal.aborted) await this.resume();
      throw error;
    } finally {
      forget(this.#finalCut);
      this.#finalCut = null;
    }
  }

  /** Resolved: the agent has let the workload run again, or is gone, or takes longer than it may. */
  async resume(): Promise<void> {
    if (this.#over !== null) return;
    const number = ++this.#numbers;
    const answered = new Promise<void>((resolve) => this.#resumes.push({ number, done: resolve }));
    await this.#say({ type: 'final-cut-resume', request: number });
    const settled = new AbortController();
    await Promise.race([answered, this.#clock.sleep(RESUME_ANSWER_MS, settled.signal)]);
    settled.abort();
  }

  async restore(goal: { readonly point: number; readonly final: boolean }, call: HomeCall): Promise<GoalEnd> {
    const restoring = this.#restoring;
    if (restoring === null || this.#over !== null) throw this.#over ?? homeAbsent('its session is not a restoring one');
    if (this.#goal !== null) throw homeBusy('a restore');
    const number = ++this.#numbers;
    const done = this.#order<GoalEnd>(number, call, 'the restore', (order) => (this.#goal = order));
    try {
      const message = await restoring.setGoal(number, goal.point, goal.final);
      await this.#say(message);
      const end = await done;
      const missing = whyNotReached(message, end.restored);
      if (missing !== null) throw notReached(goal.point, missing);
      return end;
    } catch (error) {
      if (call.signal.aborted) await this.#tell({ type: 'restore-stop', goal: number }).catch(() => undefined);
      throw error;
    } finally {
      forget(this.#goal);
      this.#goal = null;
    }
  }

  /** Blocks that the store has lost, once more; resolves to the point that holds them. */
  async resend(
    disk: DiskId,
    extents: readonly (readonly [number, number])[],
    signal: AbortSignal,
  ): Promise<{ readonly point: number }> {
    const number = ++this.#numbers;
    const call = { signal, onStep: () => undefined };
    const done = this.#order<number>(number, call, 'asking for blocks', (order) => this.#resends.set(number, order));
    try {
      const runs = extents.map(([first, count]): [number, number] => [first, count]);
      await this.#say({ type: 'resend', request: number, disk, extents: runs });
      return { point: await done };
    } finally {
      forget(this.#resends.get(number));
      this.#resends.delete(number);
    }
  }

  /** What the agent pulls can't be had: asking again would not help, so whoever waits for the goal learns why. */
  goalFailed(error: Error): void {
    this.#goal?.reject(error);
  }

  heard(message: HomeMessage): void {
    switch (message.type) {
      case 'final-cut-step': {
        const { step, detail } = message;
        if (this.#finalCut?.number === message.request) this.#finalCut.call.onStep({ step, detail, percent: null });
        return;
      }
      case 'final-cut-done':
        if (this.#finalCut?.number !== message.request) return;
        if (message.ok) this.#finalCut.resolve(message.point);
        else this.#finalCut.reject(finalCutFailed(message.reason));
        return;
      case 'home-resumed':
        for (const { number, done } of this.#resumes) if (number <= message.request) done();
        this.#resumes = this.#resumes.filter((r) => r.number > message.request);
        return;
      case 'resent':
        this.#resends.get(message.request)?.resolve(message.point);
        return;
      case 'restore-step': {
        const { step, detail, percent } = message;
        if (this.#goal?.number === message.goal) this.#goal.call.onStep({ step, detail, percent });
        return;
      }
      case 'restored':
        if (this.#goal?.number === message.goal)
          this.#goal.resolve({ restored: message, counters: this.#restoring?.counters ?? this.counters });
        return;
      case 'restore-failed':
        if (this.#goal?.number === message.goal) {
          const { code, reason, hint } = message;
          this.#goal.reject(new AfterimageError(reason, { code, kind: 'refused', hint }));
        }
        return;
    }
  }

  #order<T>(number: number, call: HomeCall, what: string, keep: (order: Order<T>) => void): Promise<T> {
    const done = new Promise<T>((resolve, reject) => {
      const onAbort = (): void => reject(cancelled(what));
      // The signal of who follows lives for as long as home does.
      const forget = (): void => call.signal.removeEventListener('abort', onAbort);
      keep({ number, call, resolve, reject, forget });
      if (this.#over !== null) reject(this.#over);
      else if (call.signal.aborted) onAbort();
      else call.signal.addEventListener('abort', onAbort, { once: true });
    });
    // It may end before anybody waits for it, while it is being prepared or told: that must not count as unhandled.
    done.catch(() => undefined);
    return done;
  }

  async #say(message: ReceiverMessage): Promise<void> {
    await this.#tell(message).catch(() => {
      throw homeAbsent('its connection is lost');
    });
  }
}

/** Why what an agent reports is not the goal that it was given; null when it is. */
function whyNotReached(goal: RestoreGoal, restored: Restored): string | null {
  if (restored.point !== goal.point) return `it reports point ${restored.point}`;
  for (const { disk, digest } of goal.disks) {
    const found = restored.disks.find((d) => d.disk === disk);
    if (found === undefined) return `it reports nothing of disk ${disk}`;
    if (found.digest !== digest) return `disk ${disk} has digest ${found.digest}, the point has ${digest}`;
  }
  return null;
}

const notReached = (point: number, why: string): AfterimageError =>
  new AfterimageError(`the agent at home says that its disks hold point ${point}, but ${why}`, {
    code: 'restore-report',
    kind: 'corrupt',
    hint: 'Install the same version on agent and receiver, and try again.',
  });

const homeBusy = (what: string): AfterimageError =>
  new AfterimageError(`${what} of this machine is under way already`, {
    code: 'home-busy',
    kind: 'refused',
    hint: 'Wait for it, or cancel it.',
  });

const finalCutFailed = (reason: string): AfterimageError =>
  new AfterimageError(reason, {
    code: 'final-cut-failed',
    kind: 'refused',
    hint: 'Nothing was switched; the workload at home runs on. Mend the cause and try again, or fail over unplanned and lose what was written last.',
  });
