/**
 * Flushes of one device, shared: however many clients ask for durability, one flush runs and at most one more is due. Who asks while one runs joins
 * the next, never the running one, which may have begun before the write that must be covered.
 */
import type { BlockDevice } from '../block-device.js';

export class FlushGate {
  #running: Promise<void> | null = null;
  #next: Promise<void> | null = null;

  constructor(private readonly device: BlockDevice) {}

  flush(): Promise<void> {
    if (this.#running === null) return this.#start();
    this.#next ??= this.#afterRunning(this.#running);
    return this.#next;
  }

  async #afterRunning(running: Promise<void>): Promise<void> {
    // Its failure is told to those who asked for it.
    await running.catch(() => undefined);
    this.#next = null;
    return this.#start();
  }

  #start(): Promise<void> {
    const run = this.device.flush();
    const running = run.finally(() => {
      if (this.#running === running) this.#running = null;
    });
    this.#running = running;
    return running;
  }
}

/** One gate per device, for as long as the device lives. */
export class FlushGates {
  readonly #gates = new WeakMap<BlockDevice, FlushGate>();

  of(device: BlockDevice): FlushGate {
    const known = this.#gates.get(device);
    if (known !== undefined) return known;
    const gate = new FlushGate(device);
    this.#gates.set(device, gate);
    return gate;
  }
}
