/**
 * A receiver's orders for points of a group, over one session: each becomes a point that is asked for, with a gate at which it waits for the other machines.
 * One at a time. Holds nothing beyond the session; its end closes the gate, so that nothing stays frozen for a receiver that is gone.
 */
import type { Clock } from '../../shared/clock.js';
import { messageOf } from '../../shared/errors.js';
import type { AgentMessage } from '../../shared/wire/messages.js';
import type { PointRequests } from '../point-requests.js';
import type { Order } from '../session/session.js';
import { GroupGate } from './group-gate.js';

export type GroupOrder = Extract<Order, { type: `group-${string}` }>;
export const isGroupOrder = (order: Order): order is GroupOrder => order.type.startsWith('group-');

export interface GroupOrdersDeps {
  readonly requests: PointRequests;
  readonly say: (message: AgentMessage) => Promise<void>;
  readonly clock: Clock;
  /** Why no point of the whole machine can be had now; null: it can. */
  readonly whyNot: () => string | null;
}

export class GroupOrders {
  readonly #deps: GroupOrdersDeps;
  #gate: GroupGate | null = null;

  constructor(deps: GroupOrdersDeps) {
    this.#deps = deps;
  }

  heard(order: GroupOrder): void {
    if (order.type === 'group-point') return this.#begin(order);
    const gate = this.#gate;
    // Of one that is over here: the receiver knows that, or will.
    if (gate?.request !== order.request) return;
    if (order.type === 'group-go') gate.go(order.step);
    else if (order.type === 'group-thaw') gate.thaw(order.record);
    else gate.close(`the receiver gave the group's point up: ${order.reason}`);
  }

  /** The session is over. */
  end(): void {
    this.#gate?.close('the connection to the receiver ended');
  }

  #begin({ request, consistency, label }: Extract<GroupOrder, { type: 'group-point' }>): void {
    const { requests, say, clock, whyNot } = this.#deps;
    const gate = new GroupGate(request, say, clock);
    const before = this.#gate;
    // A new order means that the receiver has given the one before up, or does not know of it.
    before?.close('the receiver asks for another point of a group');
    this.#gate = gate;
    const reason = whyNot();
    if (reason !== null) return gate.failed(reason);
    requests.ask({ consistency, label, group: { gate } }).then(
      ({ group, cut }) => {
        if (group === null) gate.failed(cut.weaker);
      },
      (error: unknown) => gate.failed(messageOf(error)),
    );
  }
}
