/**
 * A disk of a simulated machine: writes are submitted, land in halves, complete; reads see what had landed at some moment between their beginning
 * and their end. Keeps the history that the model needs: what each block held when, and what was in flight. Survives everything but a power cut,
 * which decides by chance what of the writes in flight has landed.
 */
import { geometryOf, type Geometry } from '../../shared/blocks/geometry.js';
import { asDiskId, type DiskId } from '../../shared/units.js';
import { renderBlock, type Halves } from './blocks.js';
import type { Rng } from './rng.js';
import type { Scheduler } from './scheduler.js';

export interface DiskShape {
  readonly sizeBytes: number;
  readonly blockBytes: number;
}

/** What the kernel tells those who track a disk. */
export interface WriteHooks {
  submitted(block: number): void;
  completed(block: number): void;
}

/** A state of a block that lasts until the next; `order` is its place among all that happens. */
interface Settled extends Halves {
  readonly order: number;
}

/** A write that was submitted and is not complete. */
export interface Flight {
  readonly block: number;
  readonly content: Halves;
  readonly submitted: number;
  /** It is lost in a power cut until a sync. */
  readonly isCached: boolean;
  readonly onDone: () => void;
}

interface PastFlight {
  readonly content: Halves;
  readonly submitted: number;
  readonly ended: number;
}

const ZEROES: Halves = { low: 0, high: 0 };

export class SimDisk {
  readonly id: DiskId;
  readonly geometry: Geometry;
  readonly #scheduler: Scheduler;
  readonly #flights = new Map<number, Flight>();
  readonly #now = new Map<number, Halves>();
  readonly #history = new Map<number, Settled[]>();
  readonly #past = new Map<number, PastFlight[]>();
  hooks: WriteHooks = { submitted: () => undefined, completed: () => undefined };
  writes = 0;
  /** Writes that are complete. */
  completed = 0;
  /** When a write last began or ended. */
  lastOrder = 0;
  /** What stands under writes that no sync has made durable, and when those were complete. */
  readonly #unsynced = new Map<number, { readonly before: Halves; order: number }>();

  constructor(
    scheduler: Scheduler,
    readonly number: number,
    name: string,
    shape: DiskShape,
  ) {
    this.#scheduler = scheduler;
    this.id = asDiskId(name);
    this.geometry = geometryOf(shape.sizeBytes, shape.blockBytes);
  }

  get inFlight(): readonly Flight[] {
    return [...this.#flights.values()];
  }

  isInFlight(block: number): boolean {
    return this.#flights.has(block);
  }

  halvesOf(block: number): Halves {
    return this.#now.get(block) ?? ZEROES;
  }

  /** Contents that the block had before. */
  pastContents(block: number): readonly number[] {
    return (this.#history.get(block) ?? []).map((s) => s.low);
  }

  /** What a block holds before anything is written. */
  begin(block: number, halves: Halves): void {
    this.#now.set(block, halves);
    pushTo(this.#history, block, { ...halves, order: this.#scheduler.nextOrder() });
  }

  /** `isCached`: a power cut may take it back until a sync after its end. */
  submit(block: number, content: Halves, onDone: () => void, isCached = false): Flight {
    if (this.#flights.has(block)) throw new Error(`block ${block} is in flight`);
    this.hooks.submitted(block);
    const flight = { block, content, submitted: this.#scheduler.nextOrder(), isCached, onDone };
    this.lastOrder = flight.submitted;
    this.#flights.set(block, flight);
    if (isCached && !this.#unsynced.has(block))
      this.#unsynced.set(block, { before: this.halvesOf(block), order: Infinity });
    else if (!isCached) this.#unsynced.delete(block);
    this.writes++;
    return flight;
  }

  /** Makes durable what was complete at `order`. */
  synced(order: number): void {
    for (const [block, write] of this.#unsynced) if (write.order < order) this.#unsynced.delete(block);
  }

  /** Blocks that a power cut may take back. */
  get unsynced(): number {
    return this.#unsynced.size;
  }

  /** One half reaches the medium. */
  land(flight: Flight, half: 'low' | 'high'): void {
    if (this.#flights.get(flight.block) !== flight || (half === 'high' && this.#endsEarly(flight.block))) return;
    this.#now.set(flight.block, { ...this.halvesOf(flight.block), [half]: flight.content[half] });
  }

  complete(flight: Flight): void {
    if (this.#flights.get(flight.block) !== flight) return;
    this.land(flight, 'low');
    this.land(flight, 'high');
    this.#end(flight);
    this.completed++;
    const cached = this.#unsynced.get(flight.block);
    if (cached !== undefined) cached.order = this.lastOrder;
    this.hooks.completed(flight.block);
    flight.onDone();
  }

  /** What is in flight has landed in part, and nobody hears of its completion. */
  powerCut(rng: Rng): void {
    for (const flight of this.inFlight) {
      if (rng.chance(0.4)) this.land(flight, 'low');
      if (rng.chance(0.4)) this.land(flight, 'high');
      this.#end(flight);
    }
    for (const [block, { before }] of this.#unsynced) {
      const now = { ...this.halvesOf(block) };
      if (rng.chance(0.4)) now.low = before.low;
      if (rng.chance(0.4)) now.high = before.high;
      this.begin(block, now);
    }
    this.#unsynced.clear();
  }

  /** The last block of a disk whose size is no multiple of the block: its second half isn't there. */
  #endsEarly(block: number): boolean {
    return (block + 0.5) * this.geometry.blockBytes >= this.geometry.sizeBytes;
  }

  #end({ block, content, submitted }: Flight): void {
    this.#flights.delete(block);
    const order = this.#scheduler.nextOrder();
    this.lastOrder = order;
    pushTo(this.#history, block, { ...this.halvesOf(block), order });
    pushTo(this.#past, block, { content, submitted, ended: order });
  }

  /** Copies blocks [first, first + count) as they are on the medium now. */
  copy(into: Buffer, offset: number, first: number, count: number): void {
    const { blockBytes } = this.geometry;
    for (let i = 0; i < count; i++) {
      renderBlock(into, offset + i * blockBytes, blockBytes, this.number, first + i, this.halvesOf(first + i));
    }
  }

  /** What a block may be in an image of the instant `order`: each half is what was there, or what was in flight. */
  allowedAt(block: number, order: number): { readonly settled: Halves; readonly inFlight: Halves | null } {
    const history = this.#history.get(block) ?? [];
    let settled: Halves = ZEROES;
    for (let i = history.length - 1; i >= 0; i--) {
      const state = history[i] as Settled;
      if (state.order > order) continue;
      settled = state;
      break;
    }
    const flight = this.#flights.get(block);
    if (flight !== undefined && flight.submitted < order) return { settled, inFlight: flight.content };
    const past = this.#past.get(block)?.find((f) => f.submitted < order && order < f.ended);
    return { settled, inFlight: past?.content ?? null };
  }

  /** Blocks that were ever written. */
  touched(): Iterable<number> {
    return this.#now.keys();
  }
}

function pushTo<T>(map: Map<number, T[]>, key: number, value: T): void {
  const list = map.get(key);
  if (list === undefined) map.set(key, [value]);
  else list.push(value);
}
