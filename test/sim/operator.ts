/**
 * Somebody who looks after points by hand: holds one by a name, waits until the hold is told to be kept, releases it some time later; gives an encrypted
 * machine new keys now and then. What was told to be kept is the model's from then on.
 */
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { addHold, confirmHold, readHolds, removeHold, type HoldDeps } from '../../receiver/catalog/holds.js';
import { MachineReader } from '../../receiver/catalog/reader.js';
import type { MachineKeys } from '../../receiver/keys/machine-keys.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import type { SimKeys } from './keys.js';
import type { SimMachine } from './machine.js';
import { SimProcess } from './process.js';
import type { Rng } from './rng.js';
import type { Scheduler } from './scheduler.js';
import { StoreClient, type SimStore } from './store.js';

/** Between two things that an operator does. */
const PAUSE_MS = 4_000;
/** Holds that one operator has at a time. */
const HOLDS_MAX = 4;
const CHANCE_OF_A_RELEASE = 0.3;
const CHANCE_OF_NEW_KEYS = 0.1;

export interface OperatorWorld {
  readonly scheduler: Scheduler;
  readonly store: SimStore;
  readonly storeLatencyMs: number;
  readonly keys: SimKeys;
  /** Something of a machine has rotted: a point that is lost with it can't be held for ever. */
  readonly isDamaged: (machine: SimMachine) => boolean;
  /** Machines that receivers encrypt. */
  readonly hasReceiverKeys: (machine: SimMachine) => boolean;
  readonly machines: readonly SimMachine[];
  readonly held: (machine: SimMachine, name: string, point: number) => void;
  /** From now on the hold may be gone, whether the release is heard of or not. */
  readonly released: (machine: SimMachine, name: string) => void;
  readonly violated: (what: string) => void;
  readonly wrapStore: (store: ObjectStore) => ObjectStore;
}

export class Operator {
  readonly #world: OperatorWorld;
  readonly #rng: Rng;
  readonly #process: SimProcess;
  readonly #deps: HoldDeps;
  readonly #keys: MachineKeys;
  readonly #held: { readonly machine: SimMachine; readonly name: string }[] = [];
  #number = 0;
  #isStopped = false;
  /** Points that were told to be kept; keys that were added. */
  holds = 0;
  rotations = 0;

  constructor(
    world: OperatorWorld,
    readonly name: string,
    rng: Rng,
  ) {
    const { scheduler, store, storeLatencyMs } = world;
    this.#world = world;
    this.#rng = rng;
    this.#process = new SimProcess(scheduler, name);
    const client = new StoreClient(scheduler, store, this.#process, rng.fork('store'), storeLatencyMs);
    this.#deps = { store: world.wrapStore(client), clock: this.#process.clock };
    this.#keys = world.keys.attach(this.#deps.store, this.#process, rng.fork('keys'));
  }

  /** What is under way is the last. What would keep damage from being mended is released. */
  stop(): void {
    this.#isStopped = true;
  }

  async run(): Promise<void> {
    for (;;) {
      await this.#process.clock.sleep(this.#rng.wait(PAUSE_MS));
      try {
        if (this.#isStopped) for (const machine of this.#world.machines) await this.#clear(machine);
        else await this.#act(this.#rng.pick(this.#world.machines));
      } catch (error) {
        // A machine without points, a store that doesn't answer, somebody who was faster.
        const isExpected = error instanceof AfterimageError && error.kind !== 'corrupt';
        if (!isExpected) this.#world.violated(`${this.name}: ${messageOf(error)}`);
      }
    }
  }

  async #act(machine: SimMachine): Promise<void> {
    if (this.#world.hasReceiverKeys(machine) && this.#rng.chance(CHANCE_OF_NEW_KEYS)) {
      await this.#keys.rotate(machine.id);
      this.rotations++;
    } else if (this.#held.length >= HOLDS_MAX || (this.#held.length > 0 && this.#rng.chance(CHANCE_OF_A_RELEASE)))
      await this.#release(this.#rng.below(this.#held.length));
    else await this.#hold(machine);
  }

  /** Releases all holds of its own on a machine that is damaged, also those that it was never told of. */
  async #clear(machine: SimMachine): Promise<void> {
    if (!this.#world.isDamaged(machine)) return;
    for (const { name } of await readHolds(this.#deps.store, machine.id)) {
      if (!name.startsWith(`${this.name}-`)) continue;
      this.#world.released(machine, name);
      await removeHold(this.#deps, machine.id, name);
    }
  }

  async #release(which: number): Promise<void> {
    const [hold] = this.#held.splice(which, 1);
    if (hold === undefined) return;
    const { machine, name } = hold;
    this.#world.released(machine, name);
    await removeHold(this.#deps, machine.id, name);
  }

  /** Any point: those that retention is about to drop among them. */
  async #hold(machine: SimMachine): Promise<void> {
    const view = await MachineReader.open(this.#deps.store, machine.id);
    const points: number[] = [];
    for await (const { number } of view.points()) points.push(number);
    if (points.length === 0) return;
    const point = this.#rng.pick(points);
    const name = `${this.name}-${++this.#number}`;
    await addHold(this.#deps, machine.id, { name, point, note: '' });
    const said = await confirmHold(this.#deps, machine.id, point);
    if (said === 'gone') {
      await removeHold(this.#deps, machine.id, name);
      return;
    }
    this.#held.push({ machine, name });
    if (said === 'waiting') return;
    this.holds++;
    this.#world.held(machine, name, point);
  }
}
