/**
 * Buffers for payloads and replies, used again: fresh memory costs as many page faults as a copy costs time. Sizes are powers of two with room for
 * a header, so that a reply to an aligned read wastes nothing. What is kept is bounded; what is lent is the business of the memory budget.
 */
const HEADROOM_BYTES = 64;
const SMALLEST_BYTES = 4096;

/** Bytes of the buffer that take() lends for `bytes`. */
export function pooledBytes(bytes: number): number {
  let size = SMALLEST_BYTES;
  while (size + HEADROOM_BYTES < bytes) size *= 2;
  return size + HEADROOM_BYTES;
}

export class BufferPool {
  readonly #free = new Map<number, Buffer[]>();
  #keptBytes = 0;

  constructor(private readonly keptBytesMax: number) {}

  /** `bytes` is a result of pooledBytes(). What the buffer holds is old. */
  take(bytes: number): Buffer {
    const buffer = this.#free.get(bytes)?.pop();
    if (buffer === undefined) return Buffer.allocUnsafeSlow(bytes);
    this.#keptBytes -= bytes;
    return buffer;
  }

  giveBack(buffer: Buffer): void {
    const bytes = buffer.length;
    if (this.#keptBytes + bytes > this.keptBytesMax) return;
    const list = this.#free.get(bytes);
    if (list === undefined) this.#free.set(bytes, [buffer]);
    else list.push(buffer);
    this.#keptBytes += bytes;
  }
}
