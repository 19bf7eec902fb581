/**
 * One machine's part in a group's point: tells the receiver how far it has come, and waits at each step for all the others.
 *
 * Promises: every wait ends, with the receiver's order, its abort, the end of the session, the caller's signal or the step's own limit; after any end but
 * the order it stays closed, and whatever comes later opens nothing. The record that makes the point one of the group is had only from the receiver's word
 * that all have cut, which comes while this machine is still frozen. What fails is told once, as soon as it is known.
 */
import type { Clock } from '../../shared/clock.js';
import { failpoint } from '../../shared/failpoints.js';
import { GROUP_GATHER_MS, GROUP_PREPARE_MS } from '../../shared/limits-groups.js';
import type { AgentMessage, GroupGo, GroupReached } from '../../shared/wire/messages.js';
import type { GroupRecord } from '../../shared/wire/group-record.js';
import type { GroupPart } from '../cycle/machine-cycle.js';

type Step = GroupGo['step'] | 'thaw';
type PartGate = GroupPart['gate'];
const REASON_CHARS_MAX = 1_000;

export class GroupGate implements PartGate {
  readonly request: number;
  readonly #say: (message: AgentMessage) => Promise<void>;
  readonly #clock: Clock;
  readonly #open = new Set<Step>();
  #closed: string | null = null;
  #wake: () => void = () => undefined;
  #record: GroupRecord | null = null;
  #isTold = false;

  constructor(request: number, say: (message: AgentMessage) => Promise<void>, clock: Clock) {
    this.request = request;
    this.#say = say;
    this.#clock = clock;
  }

  get record(): GroupRecord | null {
    return this.#closed === null ? this.#record : null;
  }

  get whyOver(): string | null {
    return this.#closed;
  }

  go(step: GroupGo['step']): void {
    this.#open.add(step);
    this.#wake();
  }

  thaw(record: GroupRecord): void {
    this.#record = record;
    this.#open.add('thaw');
    this.#wake();
  }

  /** The receiver gave it up, or is gone: nobody has to be told. */
  close(reason: string): void {
    this.#isTold = true;
    this.#shut(reason);
  }

  failed(reason: string): void {
    this.#shut(reason);
    if (this.#isTold) return;
    this.#isTold = true;
    const text = reason.slice(0, REASON_CHARS_MAX);
    // A session that is over tells the receiver as much.
    this.#say({ type: 'group-failed', request: this.request, reason: text }).catch(() => undefined);
  }

  mayPrepare(): Promise<string | null> {
    return this.#wait('gathered', 'prepare', GROUP_GATHER_MS);
  }

  mayFreeze(): Promise<string | null> {
    return this.#wait('prepared', 'freeze', GROUP_PREPARE_MS);
  }

  mayCut(deadline: AbortSignal): Promise<string | null> {
    failpoint('agent.group.frozen');
    return this.#wait('frozen', 'cut', null, deadline);
  }

  async mayThaw(deadline: AbortSignal): Promise<string | null> {
    failpoint('agent.group.cut');
    const whyNot = await this.#wait('cut', 'thaw', null, deadline);
    if (whyNot === null) failpoint('agent.group.thawed');
    return whyNot;
  }

  #shut(reason: string): void {
    this.#closed ??= reason;
    this.#wake();
  }

  async #wait(
    reached: GroupReached['step'],
    next: Step,
    limitMs: number | null,
    deadline?: AbortSignal,
  ): Promise<string | null> {
    if (this.#closed !== null) return this.#closed;
    const over = new AbortController();
    const onDeadline = (): void => this.#shut(`the limit of the freeze passed before it could ${next}`);
    if (deadline?.aborted === true) onDeadline();
    deadline?.addEventListener('abort', onDeadline, { once: true });
    if (limitMs !== null)
      void this.#clock.sleep(limitMs, over.signal).then(() => {
        if (!over.signal.aborted) this.#shut(`nobody said within ${limitMs / 1000} s that it may ${next}`);
      });
    // Not awaited: while this machine is frozen it must not wait for a connection that takes nothing.
    this.#say({ type: 'group-reached', request: this.request, step: reached }).catch(() =>
      this.#shut('its connection is lost'),
    );
    while (this.#closed === null && !this.#open.has(next)) await new Promise<void>((resolve) => (this.#wake = resolve));
    over.abort();
    deadline?.removeEventListener('abort', onDeadline);
    return this.#closed;
  }
}
