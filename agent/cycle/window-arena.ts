/**
 * Memory for blocks that wait for a cut: one aligned buffer for all disks, given out from the start to the end.
 */
import { AfterimageError } from '../../shared/errors.js';
import { CUT_WINDOW_BYTES_MAX } from '../../shared/limits.js';
import { alignedBuffer } from '../../shared/native/libc.js';

/** Twice the window: a second try fits beside what the first has read. */
export const ARENA_BYTES = 2 * CUT_WINDOW_BYTES_MAX;

export class WindowArena {
  readonly buffer: Buffer;
  #next = 0;

  constructor(allocate: (bytes: number) => Buffer = alignedBuffer) {
    this.buffer = allocate(ARENA_BYTES);
  }

  /** Whether a read of so many bytes still fits. */
  fits(bytes: number): boolean {
    return this.#next + bytes <= this.buffer.length;
  }

  reserve(bytes: number): number {
    if (!this.fits(bytes)) {
      throw new AfterimageError(`cut window of ${bytes} bytes does not fit`, { code: 'arena-full', kind: 'internal' });
    }
    const offset = this.#next;
    this.#next += bytes;
    return offset;
  }

  clear(): void {
    this.#next = 0;
  }
}
