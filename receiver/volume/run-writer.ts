/**
 * Joins blocks that follow each other into large aligned writes to a restore's target. One per unit of work; flush() at its end.
 */
import { bytesOfBlocks, type Geometry } from '../../shared/blocks/geometry.js';
import { giveBackAligned, takeAligned } from './aligned-pool.js';
import type { RestoreTarget } from './target.js';

export class RunWriter {
  readonly #target: RestoreTarget;
  readonly #geometry: Geometry;
  readonly #buffer = takeAligned();
  #first = 0;
  #blocks = 0;

  constructor(target: RestoreTarget, geometry: Geometry) {
    this.#target = target;
    this.#geometry = geometry;
  }

  /** Takes `count` blocks from `plain` at `start`; they are copied before it resolves. */
  async put(first: number, count: number, plain: Buffer, start: number): Promise<void> {
    const { blockBytes } = this.#geometry;
    const room = this.#buffer.length / blockBytes;
    for (let i = 0; i < count;) {
      if (this.#blocks === room || (this.#blocks > 0 && first + i !== this.#first + this.#blocks)) await this.flush();
      if (this.#blocks === 0) this.#first = first + i;
      const n = Math.min(count - i, room - this.#blocks);
      plain.copy(this.#buffer, this.#blocks * blockBytes, start + i * blockBytes, start + (i + n) * blockBytes);
      this.#blocks += n;
      i += n;
    }
  }

  /** Memory for `count` blocks, to be filled and then taken. */
  async room(first: number, count: number): Promise<Buffer> {
    const { blockBytes } = this.#geometry;
    const full = (this.#blocks + count) * blockBytes > this.#buffer.length;
    if (full || (this.#blocks > 0 && first !== this.#first + this.#blocks)) await this.flush();
    if (this.#blocks === 0) this.#first = first;
    return this.#buffer.subarray(this.#blocks * blockBytes, (this.#blocks + count) * blockBytes);
  }

  /** Takes what was put into the room asked for last. */
  took(count: number): void {
    this.#blocks += count;
  }

  async flush(): Promise<void> {
    if (this.#blocks === 0) return;
    // The last block of an odd-sized disk is stored in full length and written as far as the disk goes.
    const bytes = bytesOfBlocks(this.#geometry, this.#first, this.#blocks);
    this.#blocks = 0;
    await this.#target.write(this.#first * this.#geometry.blockBytes, this.#buffer.subarray(0, bytes));
  }

  /** Gives its memory back. No write may be running. */
  release(): void {
    giveBackAligned(this.#buffer);
  }
}
