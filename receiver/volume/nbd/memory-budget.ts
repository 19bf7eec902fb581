/**
 * Memory for payloads and replies of all connections together. Who finds it used up waits in line; while somebody waits, connections that hold
 * memory without moving a byte are cut off. A connection that holds nothing always gets a little, so that hoarders can't stop the others.
 */
import type { Clock } from '../../../shared/clock.js';

export interface BudgetLimits {
  readonly serverBytes: number;
  readonly connectionBytes: number;
  readonly admittedBytes: number;
  readonly stallMs: number;
}

export interface BudgetHolder {
  /** There is room now for what could not be reserved. */
  wake(): void;
  /** Since when it has waited for its client, on the monotonic clock; null while it does not. */
  stalledSinceMs(): number | null;
  evict(): void;
}

export class MemoryBudget {
  readonly #accounts = new Set<BudgetAccount>();
  readonly #line: BudgetAccount[] = [];
  #usedBytes = 0;
  #watching = false;

  constructor(
    readonly limits: BudgetLimits,
    private readonly clock: Clock,
  ) {}

  get usedBytes(): number {
    return this.#usedBytes;
  }

  open(holder: BudgetHolder): BudgetAccount {
    const account = new BudgetAccount(this, holder);
    this.#accounts.add(account);
    return account;
  }

  /** Of accounts only. */
  use(bytes: number): void {
    this.#usedBytes += bytes;
    if (bytes < 0) this.#serveLine();
  }

  hasRoom(bytes: number): boolean {
    return this.#usedBytes === 0 || this.#usedBytes + bytes <= this.limits.serverBytes;
  }

  get hasLine(): boolean {
    return this.#line.length > 0;
  }

  queue(account: BudgetAccount): void {
    this.#line.push(account);
    if (!this.#watching) void this.#watch();
  }

  leave(account: BudgetAccount): void {
    const at = this.#line.indexOf(account);
    if (at >= 0) this.#line.splice(at, 1);
    this.#serveLine();
  }

  close(account: BudgetAccount): void {
    this.#accounts.delete(account);
    this.leave(account);
  }

  #serveLine(): void {
    for (;;) {
      const first = this.#line[0];
      if (first === undefined || !this.hasRoom(first.waitingBytes)) return;
      this.#line.shift();
      first.grant();
    }
  }

  async #watch(): Promise<void> {
    this.#watching = true;
    while (this.#line.length > 0) {
      await this.clock.sleep(this.limits.stallMs / 4);
      const before = this.clock.monotonicMs() - this.limits.stallMs;
      for (const account of [...this.#accounts]) {
        const since = account.heldBytes > 0 ? account.holder.stalledSinceMs() : null;
        if (this.#line.length > 0 && since !== null && since <= before) account.holder.evict();
      }
    }
    this.#watching = false;
  }
}

/** One connection's part. */
export class BudgetAccount {
  #heldBytes = 0;
  #waitingBytes = 0;
  /** Set aside for a connection that waited, until it comes for it. */
  #grantedBytes = 0;

  constructor(
    private readonly budget: MemoryBudget,
    readonly holder: BudgetHolder,
  ) {}

  get heldBytes(): number {
    return this.#heldBytes;
  }

  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  /** False: not now. The holder is woken when others gave back enough; what it gives back itself it knows. */
  reserve(bytes: number): boolean {
    const { connectionBytes, admittedBytes } = this.budget.limits;
    if (this.#useGrant(bytes)) return true;
    if (this.#heldBytes > 0 && this.#heldBytes + bytes > connectionBytes) return false;
    const admitted = this.#heldBytes === 0 && bytes <= admittedBytes;
    if (admitted || (!this.budget.hasLine && this.budget.hasRoom(bytes))) {
      this.#stopWaiting();
      this.charge(bytes);
      return true;
    }
    if (this.#waitingBytes === 0) {
      this.#waitingBytes = bytes;
      this.budget.queue(this);
    }
    return false;
  }

  /** Takes without asking: small replies, whose number is bounded elsewhere. */
  charge(bytes: number): void {
    this.#heldBytes += bytes;
    this.budget.use(bytes);
  }

  release(bytes: number): void {
    this.#heldBytes -= bytes;
    this.budget.use(-bytes);
  }

  /** By the budget: the wait is over. */
  grant(): void {
    this.#grantedBytes = this.#waitingBytes;
    this.#waitingBytes = 0;
    this.budget.use(this.#grantedBytes);
    // Not at once: whoever gave the memory back is in the middle of something.
    setImmediate(() => this.holder.wake());
  }

  /** No new reservations; what is still held is given back by release(). */
  close(): void {
    this.#dropGrant();
    this.#waitingBytes = 0;
    this.budget.close(this);
  }

  #useGrant(bytes: number): boolean {
    if (this.#grantedBytes < bytes) {
      this.#dropGrant();
      return false;
    }
    this.#grantedBytes -= bytes;
    this.#heldBytes += bytes;
    this.#dropGrant();
    return true;
  }

  #stopWaiting(): void {
    if (this.#waitingBytes === 0) return;
    this.#waitingBytes = 0;
    this.budget.leave(this);
  }

  #dropGrant(): void {
    const granted = this.#grantedBytes;
    this.#grantedBytes = 0;
    if (granted > 0) this.budget.use(-granted);
  }
}
