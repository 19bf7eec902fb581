/**
 * Where machines must be once receivers know of each other: each with one, and with the one that the placement names among those that live. Looks at the
 * receivers and at the heads in the store; nobody is asked what it believes of the others.
 */
import { wantedOwner } from '../../receiver/fleet/wanted.js';
import type { SimMachine } from './machine.js';
import { headOf } from './needed.js';
import type { ReceiverNode } from './receiver-node.js';
import type { SimStore } from './store.js';

export interface Sharing {
  readonly store: SimStore;
  readonly machines: readonly SimMachine[];
  readonly receivers: readonly ReceiverNode[];
  /** Whether the machine's agent can ever get to a receiver. */
  readonly canReach: (machine: SimMachine, receiver: ReceiverNode) => boolean;
}

/** What is not yet as it must be; empty: all is. */
export function misplaced({ store, machines, receivers, canReach }: Sharing): string[] {
  const leaving = receivers.filter(({ isAway, isUp }) => isAway && isUp);
  return [
    ...leaving.map(({ name }) => `${name} was stopped, and has not ended`),
    ...machines.flatMap((machine) => {
      const wrong = misplacedOf(machine);
      return wrong === null ? [] : [`${machine.name} ${wrong}`];
    }),
  ];

  function misplacedOf(machine: SimMachine): string | null {
    const live = receivers.filter(({ isUp }) => isUp);
    const nameOf = (id: string | null | undefined): string => receivers.find((r) => r.id === id)?.name ?? 'nobody';
    const [serving, ...more] = live.filter((receiver) => receiver.serves(machine.id));
    if (serving === undefined) return 'is served by no receiver';
    if (more.length > 0) return `is served by ${[serving, ...more].map(({ name }) => name).join(' and ')}`;
    const owner = headOf(store, machine.id)?.owner?.receiver;
    if (owner !== serving.id) return `is served by ${serving.name}, and its manifest names ${nameOf(owner)}`;
    const wanted = wantedOwner(
      machine.id,
      live.map(({ candidate }) => candidate),
    );
    const belongs = live.find(({ id }) => id === wanted);
    if (belongs === undefined || belongs === serving || !canReach(machine, belongs)) return null;
    return `is at ${serving.name}, and belongs to ${belongs.name}`;
  }
}
