/**
 * Buffers for reads of disks, aligned for O_DIRECT, made once per process and shared by all disks: they bound what reading may hold in memory.
 * Who takes one gives it back; waiters are served in their order.
 */
import { READS_IN_FLIGHT, READ_BYTES_MAX } from '../../shared/limits.js';
import { alignedBuffer } from '../../shared/native/libc.js';

export class ReadPool {
  readonly bufferBytes: number;
  readonly #free: Buffer[] = [];
  readonly #waiting: ((buffer: Buffer) => void)[] = [];

  constructor(
    buffers = READS_IN_FLIGHT,
    bufferBytes = READ_BYTES_MAX,
    allocate: (bytes: number) => Buffer = alignedBuffer,
  ) {
    this.bufferBytes = bufferBytes;
    for (let i = 0; i < buffers; i++) this.#free.push(allocate(bufferBytes));
  }

  /** Buffers that nobody holds. */
  get free(): number {
    return this.#free.length;
  }

  /** A buffer, if one is free now. */
  tryTake(): Buffer | undefined {
    return this.#free.pop();
  }

  take(): Promise<Buffer> {
    const buffer = this.#free.pop();
    if (buffer !== undefined) return Promise.resolve(buffer);
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  give(buffer: Buffer): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free.push(buffer);
    else next(buffer);
  }
}
