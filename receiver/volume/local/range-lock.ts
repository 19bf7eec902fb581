/**
 * Locks on runs of blocks, shared or exclusive, in memory. First come, first served: who waits is not overtaken by a later request for the same
 * blocks. Few are held at a time (requests in flight are bounded by the server), so a list is enough.
 */
export interface RangeHold {
  readonly first: number;
  readonly end: number;
  readonly exclusive: boolean;
}

interface Waiter {
  readonly hold: RangeHold;
  readonly go: () => void;
}

const conflict = (a: RangeHold, b: RangeHold): boolean =>
  (a.exclusive || b.exclusive) && a.first < b.end && b.first < a.end;

export class RangeLock {
  readonly #held = new Set<RangeHold>();
  #waiting: Waiter[] = [];

  /** The lock if it is free now, else undefined. */
  tryAcquire(first: number, count: number, exclusive: boolean): RangeHold | undefined {
    const hold: RangeHold = { first, end: first + count, exclusive };
    if (!this.#free(hold, this.#waiting)) return undefined;
    this.#held.add(hold);
    return hold;
  }

  async acquire(first: number, count: number, exclusive: boolean): Promise<RangeHold> {
    const now = this.tryAcquire(first, count, exclusive);
    if (now !== undefined) return now;
    const hold: RangeHold = { first, end: first + count, exclusive };
    await new Promise<void>((go) => this.#waiting.push({ hold, go }));
    return hold;
  }

  release(hold: RangeHold): void {
    this.#held.delete(hold);
    if (this.#waiting.length === 0) return;
    const still: Waiter[] = [];
    for (const waiter of this.#waiting) {
      if (this.#free(waiter.hold, still)) {
        this.#held.add(waiter.hold);
        waiter.go();
      } else still.push(waiter);
    }
    this.#waiting = still;
  }

  #free(hold: RangeHold, before: readonly Waiter[]): boolean {
    for (const other of this.#held) if (conflict(hold, other)) return false;
    return !before.some((waiter) => conflict(hold, waiter.hold));
  }
}
