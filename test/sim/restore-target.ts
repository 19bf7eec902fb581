/**
 * A disk of a simulated machine as a restore writes it: what was asked of the kernel goes on when the process is gone; a power cut tears what is in flight
 * and takes back what no sync has made durable. Refuses a disk that somebody uses, as an exclusive open does.
 */
import { refusedRestore, type RestoreTarget } from '../../agent/restore/target.js';
import { parseBlock, whole, type Halves } from './blocks.js';
import type { SimDisk } from './disk.js';
import type { SimMachine } from './machine.js';
import type { SimProcess } from './process.js';
import type { Rng } from './rng.js';
import type { Scheduler } from './scheduler.js';

/** Of one write, and of one sync, at most. */
const WRITE_MS = 3;
const SYNC_MS = 10;

export interface TargetWorld {
  readonly scheduler: Scheduler;
  readonly rng: Rng;
  /** A restore writes to the machine's disks now; says what is wrong with that. */
  readonly restoring: (machine: SimMachine) => void;
  readonly violated: (what: string) => void;
}

export class SimTarget implements RestoreTarget {
  readonly #world: TargetWorld;
  readonly #machine: SimMachine;
  readonly #disk: SimDisk;
  readonly #process: SimProcess;
  readonly #scratch: Buffer;
  #isOpen = true;

  constructor(world: TargetWorld, machine: SimMachine, disk: SimDisk, process: SimProcess) {
    if (machine.workload.isOn || disk.inFlight.length > 0)
      throw refusedRestore('disk-in-use', `${disk.id} is in use: nothing was written to it`, 'Stop what uses it.');
    this.#world = world;
    this.#machine = machine;
    this.#disk = disk;
    this.#process = process;
    this.#scratch = Buffer.alloc(disk.geometry.blockBytes);
  }

  write(first: number, count: number, bytes: Buffer): Promise<void> {
    const { number, geometry } = this.#disk;
    const { blockBytes } = geometry;
    return this.#put(first, count, (i) => {
      const block = bytes.subarray(i * blockBytes, (i + 1) * blockBytes);
      const halves = parseBlock(block, number, first + i, this.#scratch);
      if (halves !== null) return halves;
      this.#world.violated(`${this.#what} is restored with what nobody wrote to block ${first + i}`);
      return whole(0);
    });
  }

  zero(first: number, count: number): Promise<void> {
    return this.#put(first, count, () => whole(0));
  }

  async durable(): Promise<void> {
    const order = this.#world.scheduler.nextOrder();
    const { boots } = this.#machine;
    await this.#process.after(this.#world.rng.between(0, SYNC_MS), `syncs disk ${this.#disk.number}`);
    if (boots === this.#machine.boots) this.#disk.synced(order);
  }

  closeWriter(): void {
    // Opened again by the next write.
  }

  close(): void {
    this.#isOpen = false;
  }

  get #what(): string {
    return `${this.#machine.name} ${this.#disk.id}`;
  }

  #put(first: number, count: number, halvesOf: (i: number) => Halves): Promise<void> {
    const { scheduler, rng } = this.#world;
    return new Promise((resolve) => {
      this.#process.act(() => {
        this.#check();
        let open = count;
        const onDone = (): void => {
          if (--open === 0) this.#process.deliver(resolve);
        };
        for (let i = 0; i < count; i++) {
          const block = first + i;
          const flight = this.#disk.submit(block, halvesOf(i), onDone, true);
          const landMs = rng.between(0, WRITE_MS);
          const half = rng.chance(0.5) ? 'low' : 'high';
          scheduler.after(landMs * rng.unit(), 'restored in part', () => this.#disk.land(flight, half));
          scheduler.after(landMs, `disk ${this.#disk.number} block ${block} is restored`, () =>
            this.#disk.complete(flight),
          );
        }
      });
    });
  }

  #check(): void {
    if (!this.#isOpen) this.#world.violated(`${this.#what} is written by a restore that had let it go`);
    if (this.#machine.workload.isOn) this.#world.violated(`${this.#what} is restored while the machine runs on it`);
    this.#world.restoring(this.#machine);
  }
}
