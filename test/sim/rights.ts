/**
 * Who may add points to a machine: its home, or the copy that it was failed over to. The right changes hands by a generation, which only rises; from then
 * on no point of whoever had it before is committed. Knows of the failover what the store says.
 */
import { recoveryName, recoveryPrefix } from '../../receiver/catalog/names.js';
import type { Manifest } from '../../receiver/catalog/manifest.js';
import type { Recovery } from '../../receiver/catalog/recovery.js';
import type { SimMachine } from './machine.js';
import { highest, plainOf } from './needed.js';
import type { SimStore } from './store.js';

/** Jobs that raise the generation for a copy. */
const TO_A_COPY = new Set(['failover', 'planned-failover']);

export type Writer = 'home' | 'copy';

export function recoveryOf(store: SimStore, machine: SimMachine): Recovery | null {
  const bytes = store.objects.get(recoveryName(machine.id, highest(store, recoveryPrefix(machine.id))));
  return bytes === undefined ? null : (plainOf(bytes) as Recovery);
}

export class Rights {
  #generation = 1;
  #writer: Writer = 'home';
  /** How often the right changed hands. */
  changes = 0;

  /** A new head; `added`: who has made each of the points that it adds. What is wrong with it. */
  follow(manifest: Manifest, recovery: Recovery | null, added: ReadonlyMap<number, Writer | null>): string[] {
    const wrong: string[] = [];
    const { generation } = manifest;
    if (generation < this.#generation) wrong.push(`is of generation ${generation}, after ${this.#generation}`);
    if (generation > this.#generation) {
      this.#generation = generation;
      this.#writer = TO_A_COPY.has(recovery?.job?.operation ?? '') ? 'copy' : 'home';
      this.changes++;
    }
    for (const [number, writer] of added) {
      if (writer !== this.#writer)
        wrong.push(
          `adds point ${number} of ${writer ?? 'nobody'}, and its generation ${generation} is that of a ${this.#writer}`,
        );
    }
    return wrong;
  }
}
