/**
 * Orders to the agent at the other end of one session for its part in a group's point, and what it answers. One order at a time; each ends with the
 * commit, with the agent's refusal, or with the session. Decides nothing: receiver/groups/ does.
 *
 * Promise: a point is committed as one of a group only with the record that was given with the order to thaw, in this session.
 */
import { GROUP_MESSAGE_BYTES_MAX } from '../../shared/limits-groups.js';
import type { GroupRecord } from '../../shared/wire/group-record.js';
import {
  decodeAgentMessage,
  protocolError,
  TAG_CONTROL,
  type AgentMessage,
  type Commit,
  type GroupGo,
  type GroupReached,
  type Hello,
  type ReceiverMessage,
} from '../../shared/wire/messages.js';

export type GroupMessage = Extract<AgentMessage, { type: 'group-reached' | 'group-failed' }>;
export const isGroupMessage = (message: AgentMessage): message is GroupMessage =>
  message.type === 'group-reached' || message.type === 'group-failed';

export type GroupPointOrder = Omit<Extract<ReceiverMessage, { type: 'group-point' }>, 'type' | 'request'>;

/** What an agent says of its part. Nothing is said after `failed` or `gone`. */
export interface GroupHearer {
  reached(step: GroupReached['step']): void;
  failed(reason: string): void;
  /** Its session is over. */
  gone(): void;
  committed(point: number): void;
}

/** The agent of a member, as who coordinates the group sees it. */
export interface GroupMember {
  /** Why nothing can be asked of it; null: it can. */
  readonly whyNot: string | null;
  begin(order: GroupPointOrder, hearer: GroupHearer): void;
  go(step: GroupGo['step']): void;
  thaw(record: GroupRecord): void;
  abort(reason: string): void;
}

interface Current {
  readonly request: number;
  readonly hearer: GroupHearer;
  record: GroupRecord | null;
}

export class GroupLink implements GroupMember {
  readonly #tell: (message: ReceiverMessage) => Promise<void>;
  #whyNot: string | null = 'its session is being opened';
  #numbers = 0;
  #current: Current | null = null;
  #isOver = false;

  constructor(tell: (message: ReceiverMessage) => Promise<void>) {
    this.#tell = tell;
  }

  get whyNot(): string | null {
    if (this.#whyNot !== null) return this.#whyNot;
    return (this.#current?.record ?? null) === null ? null : 'its last point of a group is not committed yet';
  }

  /** The agent was welcomed. */
  opened(hello: Pick<Hello, 'abilities' | 'program'>, mode: 'replicating' | 'restoring'): void {
    if (this.#isOver) return;
    this.#whyNot =
      mode === 'restoring'
        ? 'it runs elsewhere, and is brought home'
        : hello.abilities?.includes('group-points') === true
          ? null
          : `its agent (${hello.program}) is too old for groups: upgrade it`;
  }

  closed(): void {
    this.#isOver = true;
    this.#whyNot = 'it is not connected';
    const { hearer } = this.#current ?? {};
    this.#current = null;
    hearer?.gone();
  }

  begin(order: GroupPointOrder, hearer: GroupHearer): void {
    // Whoever asked before has given up: so does the agent when it hears of another.
    this.#current = { request: ++this.#numbers, hearer, record: null };
    this.#say({ type: 'group-point', request: this.#numbers, ...order });
  }

  go(step: GroupGo['step']): void {
    const { request } = this.#current ?? {};
    if (request !== undefined) this.#say({ type: 'group-go', request, step });
  }

  thaw(record: GroupRecord): void {
    if (this.#current === null) return;
    this.#current.record = record;
    this.#say({ type: 'group-thaw', request: this.#current.request, record });
  }

  abort(reason: string): void {
    const { request } = this.#current ?? {};
    this.#current = null;
    if (request !== undefined) this.#say({ type: 'group-abort', request, reason: reason.slice(0, 1000) });
  }

  heard(message: GroupMessage): void {
    const current = this.#current;
    // Of one that was given up.
    if (current?.request !== message.request) return;
    if (message.type === 'group-reached') {
      current.hearer.reached(message.step);
      return;
    }
    this.#current = null;
    current.hearer.failed(message.reason);
  }

  /** What a frozen machine says is heard at once: it doesn't wait for what was sent before to be stored. True: that is all of this message. */
  hearEarly(bytes: Buffer): boolean {
    if (bytes[0] !== TAG_CONTROL || bytes.length > GROUP_MESSAGE_BYTES_MAX) return false;
    let message: AgentMessage;
    try {
      message = decodeAgentMessage(bytes);
    } catch {
      // It ends the session in its turn.
      return false;
    }
    if (!isGroupMessage(message)) return false;
    this.heard(message);
    return true;
  }

  /** What is committed as one of a group is so with our record, whatever the agent echoes. */
  withRecord(commit: Commit): Commit {
    const { group: said, ...rest } = commit;
    if (said === undefined) return commit;
    const { record = null } = this.#current ?? {};
    if (record?.point !== said.point)
      throw protocolError(`a commit for group point ${said.point}, which was not asked for`);
    return { ...rest, group: record };
  }

  /** A point is in the manifest. */
  committed(point: number, record: GroupRecord | undefined): void {
    const current = this.#current;
    if (record === undefined || current === null) return;
    this.#current = null;
    current.hearer.committed(point);
  }

  /** A connection that is lost ends the session, and that is told. */
  #say(message: ReceiverMessage): void {
    this.#tell(message).catch(() => undefined);
  }
}
