/**
 * Replies on their way to one client. Small ones and reads that are answered at once are gathered in one buffer; all that a turn of the event loop
 * produced goes out in one write. Buffers come from the pool, stand in the connection's account, and go back when the kernel has their bytes.
 */
import type { Duplex } from 'node:stream';
import { NBD_BATCH_BYTES } from '../../../shared/limits.js';
import { pooledBytes, type BufferPool } from './buffer-pool.js';
import type { BudgetAccount } from './memory-budget.js';

const EMPTY = Buffer.alloc(0);
const SMALL_BATCH_BYTES = pooledBytes(4096);
const BATCH_BYTES = pooledBytes(NBD_BATCH_BYTES);

export class Outbox {
  /** Replies are written into it from `used` on, after there was room. */
  batch: Buffer = EMPTY;
  used = 0;
  #ready: { readonly buffer: Buffer; readonly bytes: number }[] = [];
  #queuedBytes = 0;
  #scheduled = false;

  constructor(
    private readonly socket: Duplex,
    private readonly pool: BufferPool,
    private readonly account: BudgetAccount,
    private readonly onSent: () => void,
  ) {}

  /** Bytes that the kernel hasn't taken yet. */
  get queuedBytes(): number {
    return this.#queuedBytes + this.used;
  }

  /** Room for `bytes` in the batch; false: memory is used up for now. */
  room(bytes: number): boolean {
    if (this.batch.length - this.used >= bytes) return true;
    this.#closeBatch();
    const size = pooledBytes(Math.max(bytes, BATCH_BYTES));
    if (!this.account.reserve(size)) return false;
    this.batch = this.pool.take(size);
    return true;
  }

  /** Room for a small reply, at once: how many there can be is bounded by the requests in flight. */
  smallRoom(bytes: number): void {
    if (this.batch.length - this.used >= bytes) return;
    this.#closeBatch();
    const size = pooledBytes(Math.max(bytes, SMALL_BATCH_BYTES));
    this.account.charge(size);
    this.batch = this.pool.take(size);
  }

  /** A whole reply in a buffer of the pool that stands in the account. */
  push(buffer: Buffer, bytes: number): void {
    this.#ready.push({ buffer, bytes });
    this.#queuedBytes += bytes;
  }

  /** Sends at the end of this turn of the event loop, with what other requests finish in it. */
  schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.flush();
    });
  }

  flush(): void {
    this.#closeBatch();
    const ready = this.#ready;
    if (ready.length === 0) return;
    this.#ready = [];
    if (ready.length > 1) this.socket.cork();
    for (const { buffer, bytes } of ready) {
      this.socket.write(buffer.subarray(0, bytes), () => this.#sent(buffer, bytes));
    }
    if (ready.length > 1) this.socket.uncork();
  }

  #closeBatch(): void {
    const { batch, used } = this;
    this.batch = EMPTY;
    this.used = 0;
    if (used > 0) this.push(batch, used);
    else if (batch !== EMPTY) this.#giveBack(batch);
  }

  /** Also called, with an error, for what a connection that broke could not send. */
  #sent(buffer: Buffer, bytes: number): void {
    this.#queuedBytes -= bytes;
    this.#giveBack(buffer);
    this.onSent();
  }

  #giveBack(buffer: Buffer): void {
    this.pool.giveBack(buffer);
    this.account.release(buffer.length);
  }
}
