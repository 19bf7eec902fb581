/**
 * What runs on a simulated machine: writers that wait for what they wrote before they write on, bursts, discards, blocks that get back what they
 * held before. Contents are numbers that the whole world counts up, so every block on every disk says what was written to it.
 */
import { whole } from './blocks.js';
import type { SimDisk } from './disk.js';
import type { Rng } from './rng.js';
import type { Scheduler } from './scheduler.js';

export interface WorkloadShape {
  readonly writers: number;
  /** Of one writer between two writes. */
  readonly thinkMs: number;
  /** Of one write, on average. */
  readonly deviceMs: number;
  /** Share of a disk that most writes go to. */
  readonly hotShare: number;
  readonly burstBlocks: number;
  readonly burstChance: number;
  /** How often the machine writes on while a read of the agent's is under way that takes no virtual time. */
  readonly raceChance: number;
}

export class Workload {
  readonly #scheduler: Scheduler;
  readonly #disks: readonly SimDisk[];
  readonly #rng: Rng;
  readonly #shape: WorkloadShape;
  readonly #nextContent: () => number;
  /** False: writes wait. */
  mayWrite: () => boolean = () => true;
  #running = 0;
  #isOn = false;

  constructor(
    scheduler: Scheduler,
    disks: readonly SimDisk[],
    rng: Rng,
    shape: WorkloadShape,
    nextContent: () => number,
  ) {
    this.#scheduler = scheduler;
    this.#disks = disks;
    this.#rng = rng;
    this.#shape = shape;
    this.#nextContent = nextContent;
  }

  start(): void {
    if (this.#isOn) return;
    this.#isOn = true;
    const run = ++this.#running;
    for (let i = 0; i < this.#shape.writers; i++) this.#think(run);
  }

  get isOn(): boolean {
    return this.#isOn;
  }

  /** Nothing new is submitted. */
  stop(): void {
    this.#isOn = false;
    this.#running++;
  }

  /** Lets the machine do something at this very instant: reads and writes of a real one overlap. */
  meanwhile(): void {
    if (!this.#isOn || !this.#rng.chance(this.#shape.raceChance)) return;
    const disk = this.#rng.pick(this.#disks);
    const flights = disk.inFlight;
    if (flights.length > 0 && this.#rng.chance(0.6)) {
      const flight = this.#rng.pick(flights);
      if (this.#rng.chance(0.5)) disk.land(flight, this.#rng.chance(0.5) ? 'low' : 'high');
      else disk.complete(flight);
      return;
    }
    this.#submit(disk, this.#block(disk), () => undefined);
  }

  #think(run: number): void {
    this.#scheduler.after(this.#rng.wait(this.#shape.thinkMs), 'writer', () => {
      if (run === this.#running) this.#write(run);
    });
  }

  #write(run: number): void {
    if (!this.mayWrite()) {
      this.#think(run);
      return;
    }
    const disk = this.#rng.pick(this.#disks);
    const first = this.#block(disk);
    const isBurst = this.#rng.chance(this.#shape.burstChance);
    const count = isBurst ? this.#rng.whole(2, this.#shape.burstBlocks) : 1;
    let open = 0;
    const onDone = (): void => {
      if (--open === 0) this.#think(run);
    };
    const discard = isBurst && this.#rng.chance(0.3);
    for (let i = 0; i < count; i++) {
      const block = first + i;
      if (block >= disk.geometry.blockCount || disk.isInFlight(block)) continue;
      open++;
      this.#submit(disk, block, onDone, discard ? 0 : undefined);
    }
    if (open === 0) this.#think(run);
  }

  #submit(disk: SimDisk, block: number, onDone: () => void, content = this.#content(disk, block)): void {
    if (disk.isInFlight(block)) return;
    const flight = disk.submit(block, whole(content), onDone);
    const landMs = this.#rng.wait(this.#shape.deviceMs);
    const firstHalf = this.#rng.chance(0.5) ? 'low' : 'high';
    this.#scheduler.after(landMs * this.#rng.unit(), 'lands', () => disk.land(flight, firstHalf));
    this.#scheduler.after(landMs, `disk ${disk.number} block ${block} holds ${content}`, () => {
      disk.land(flight, 'low');
      disk.land(flight, 'high');
    });
    // Landed is not complete: the interrupt comes later.
    this.#scheduler.after(landMs + this.#rng.wait(this.#shape.deviceMs / 2), 'completes', () => disk.complete(flight));
  }

  #block(disk: SimDisk): number {
    const { blockCount } = disk.geometry;
    const isHot = this.#rng.chance(0.8);
    const hot = Math.max(1, Math.floor(blockCount * this.#shape.hotShare));
    // The hot part stands at the end: of more than one segment, it is the last one's.
    return isHot ? blockCount - 1 - this.#rng.below(hot) : this.#rng.below(blockCount);
  }

  #content(disk: SimDisk, block: number): number {
    const chance = this.#rng.unit();
    if (chance < 0.08) return 0;
    if (chance < 0.16) return disk.halvesOf(block).low;
    const past = disk.pastContents(block);
    if (chance < 0.3 && past.length > 0) return this.#rng.pick(past);
    return this.#nextContent();
  }
}
