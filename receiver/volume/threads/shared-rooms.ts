/** Memory for decoded chunks that threads fill and the event loop reads. Of one reader, and gone with it; taken from the system as it is used. */
import { CHUNK_PLAIN_BYTES_MAX } from '../../../shared/limits.js';

/** One chunk's, until it is given back. */
export interface SharedRoom {
  /** Offset in the memory. */
  readonly at: number;
  readonly bytes: Buffer;
}

export class SharedRooms {
  readonly memory: SharedArrayBuffer;
  readonly #free: SharedRoom[] = [];

  constructor(count: number) {
    this.memory = new SharedArrayBuffer(count * CHUNK_PLAIN_BYTES_MAX);
    for (let i = count - 1; i >= 0; i--) {
      const at = i * CHUNK_PLAIN_BYTES_MAX;
      this.#free.push({ at, bytes: Buffer.from(this.memory, at, CHUNK_PLAIN_BYTES_MAX) });
    }
  }

  /** So many at once, or undefined. */
  take(count: number): SharedRoom[] | undefined {
    return count <= this.#free.length ? this.#free.splice(-count, count) : undefined;
  }

  /** Nobody may use it any more. */
  giveBack(room: SharedRoom): void {
    this.#free.push(room);
  }
}
