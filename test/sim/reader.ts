/**
 * Somebody who restores: pins a point and reads all of it, slowly, while retention, merging and collection go on. What is pinned must stay readable,
 * and what is read is proven by its digest.
 */
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { openPinned, type PinnedPoint } from '../../receiver/catalog/pinned-point.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { LayerReader } from '../../receiver/volume/layer-reader.js';
import { planPoint } from '../../receiver/volume/plan-point.js';
import { verifyDisk } from '../../receiver/volume/verify.js';
import type { SimKeys } from './keys.js';
import type { SimMachine } from './machine.js';
import { SimProcess } from './process.js';
import type { Rng } from './rng.js';
import type { Scheduler } from './scheduler.js';
import { StoreClient, type SimStore } from './store.js';

/** Between two readings, and before each part of one. */
const PAUSE_MS = 10_000;
const SLOW_MS = 3_000;

export interface ReaderWorld {
  readonly scheduler: Scheduler;
  readonly store: SimStore;
  readonly storeLatencyMs: number;
  readonly keys: SimKeys;
  readonly machines: readonly SimMachine[];
  readonly violated: (what: string) => void;
  /** Something of a machine has rotted: what can't be read isn't, and that is said. */
  readonly isDamaged: (machine: SimMachine) => boolean;
  readonly wrapStore: (store: ObjectStore) => ObjectStore;
}

export class Reader {
  readonly #world: ReaderWorld;
  readonly #rng: Rng;
  readonly #process: SimProcess;
  readonly #store: ObjectStore;
  #isStopped = false;
  /** Points that were read to the end. */
  readings = 0;

  constructor(world: ReaderWorld, name: string, rng: Rng) {
    const { scheduler, store, storeLatencyMs } = world;
    this.#world = world;
    this.#rng = rng;
    this.#process = new SimProcess(scheduler, name);
    this.#store = world.wrapStore(new StoreClient(scheduler, store, this.#process, rng.fork('store'), storeLatencyMs));
    world.keys.attach(this.#store, this.#process, rng.fork('keys'));
  }

  /** The reading under way is the last. */
  stop(): void {
    this.#isStopped = true;
  }

  /** Reads one point after the other. */
  async run(): Promise<void> {
    const { clock } = this.#process;
    while (!this.#isStopped) {
      await clock.sleep(this.#rng.wait(PAUSE_MS));
      await this.#readOne(this.#rng.pick(this.#world.machines));
    }
  }

  async #readOne(machine: SimMachine): Promise<void> {
    const { clock, name } = this.#process;
    const deps = { store: this.#store, clock, randomId: () => this.#rng.uuid() };
    const atMs = clock.nowMs() - this.#rng.between(0, 120_000);
    let what = '';
    let isPinned = false;
    let pinned: PinnedPoint | null = null;
    try {
      pinned = await openPinned(deps, machine.id, { by: 'time', atMs }, name);
      what = `${machine.name} point ${pinned.point.number}`;
      isPinned = pinned.warning === null;
      for (const at of pinned.point.disks) {
        const { disk, blockBytes } = at;
        const reader = new LayerReader(this.#store, { machine: machine.id, disk, blockBytes });
        await clock.sleep(this.#rng.wait(SLOW_MS));
        const plan = await planPoint(reader, at, await pinned.view.layersFor(disk, pinned.point.number));
        await clock.sleep(this.#rng.wait(SLOW_MS));
        await verifyDisk({ reader, plan, point: pinned.point.number, disk: at, clock });
      }
      this.readings++;
    } catch (error) {
      // A machine without such a point, a store that doesn't answer.
      const isExpected =
        error instanceof AfterimageError && (error.kind !== 'corrupt' || this.#world.isDamaged(machine));
      if (!isExpected && isPinned) this.#world.violated(`${name} could not read ${what}: ${messageOf(error)}`);
    } finally {
      await pinned?.release();
    }
  }
}
