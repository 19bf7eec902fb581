/**
 * A disk in memory that knows what a crash of the host would leave of it: `durable` is what the last flush covered.
 */
import type { AllocationRun, BlockDevice } from '../../receiver/volume/block-device.js';

const BLOCK = 4096;

export interface MemoryDeviceOptions {
  readonly readOnly?: boolean;
  /** Reads are answered at once (like from the page cache) or only later. */
  readonly atOnce?: boolean;
  readonly blockBytes?: number;
}

export class MemoryDevice implements BlockDevice {
  readonly bytes: Buffer;
  readonly durable: Buffer;
  readonly blockBytes: number;
  readonly readOnly: boolean;
  flushes = 0;
  reads = 0;
  /** Called before each operation that waits; may throw, or wait. */
  before: (operation: string, offset: number, length: number) => void | Promise<void> = () => undefined;
  readonly #atOnce: boolean;
  readonly #stored: Uint8Array;

  constructor(
    readonly sizeBytes: number,
    options: MemoryDeviceOptions = {},
  ) {
    this.bytes = Buffer.alloc(sizeBytes);
    this.durable = Buffer.alloc(sizeBytes);
    this.blockBytes = options.blockBytes ?? BLOCK;
    this.readOnly = options.readOnly ?? false;
    this.#atOnce = options.atOnce ?? true;
    this.#stored = new Uint8Array(Math.ceil(sizeBytes / BLOCK));
  }

  /** For set-up: content that nobody wrote through a server. */
  fill(offset: number, bytes: Buffer): void {
    bytes.copy(this.bytes, offset);
    this.#mark(offset, bytes.length, 1);
  }

  tryRead(offset: number, into: Buffer): boolean {
    if (!this.#atOnce) return false;
    this.reads++;
    this.bytes.copy(into, 0, offset, offset + into.length);
    return true;
  }

  async read(offset: number, into: Buffer): Promise<void> {
    await this.before('read', offset, into.length);
    this.reads++;
    this.bytes.copy(into, 0, offset, offset + into.length);
  }

  async write(offset: number, bytes: Buffer): Promise<void> {
    await this.before('write', offset, bytes.length);
    this.fill(offset, bytes);
  }

  async zero(offset: number, lengthBytes: number, keepSpace: boolean): Promise<void> {
    await this.before(keepSpace ? 'zero-keep' : 'zero', offset, lengthBytes);
    this.bytes.fill(0, offset, offset + lengthBytes);
    if (keepSpace) this.#mark(offset, lengthBytes, 1);
    else this.#punch(offset, lengthBytes);
  }

  async trim(offset: number, lengthBytes: number): Promise<void> {
    await this.before('trim', offset, lengthBytes);
    this.bytes.fill(0, offset, offset + lengthBytes);
    this.#punch(offset, lengthBytes);
  }

  async flush(): Promise<void> {
    const covered = Buffer.from(this.bytes);
    await this.before('flush', 0, 0);
    this.flushes++;
    covered.copy(this.durable);
  }

  async allocation(offset: number, lengthBytes: number, runsMax: number): Promise<readonly AllocationRun[]> {
    await this.before('allocation', offset, lengthBytes);
    const runs: AllocationRun[] = [];
    const end = offset + lengthBytes;
    for (let at = offset; at < end && runs.length < runsMax;) {
      const hole = this.#stored[Math.floor(at / BLOCK)] === 0;
      let to = at;
      while (to < end && (this.#stored[Math.floor(to / BLOCK)] === 0) === hole)
        to = (Math.floor(to / BLOCK) + 1) * BLOCK;
      to = Math.min(to, end);
      runs.push({ lengthBytes: to - at, hole, zero: hole });
      at = to;
    }
    return runs;
  }

  #mark(offset: number, length: number, value: 0 | 1): void {
    if (length > 0) this.#stored.fill(value, Math.floor(offset / BLOCK), Math.ceil((offset + length) / BLOCK));
  }

  /** Only whole blocks become holes. */
  #punch(offset: number, length: number): void {
    const [first, last] = [Math.ceil(offset / BLOCK), Math.floor((offset + length) / BLOCK)];
    if (last > first) this.#stored.fill(0, first, last);
  }
}
