/**
 * Rooms of one size that threads compose in, used again: each is memory that every thread has to be told of, and told again when it goes. Bounds what is
 * kept; what is lent is bounded by who takes it. What a lent room holds is old.
 */
import { bytesOfRoom, sharedRoom, type SharedRoom } from './shared-room.js';

export interface LentRoom {
  readonly room: SharedRoom;
  readonly bytes: Buffer;
}

export class SpareRooms {
  readonly #free: LentRoom[] = [];

  /** `leave`: no thread will be given a job for the room any more. */
  constructor(
    readonly sizeBytes: number,
    private readonly keptMax: number,
    private readonly leave: (room: SharedRoom) => void,
  ) {}

  take(): LentRoom {
    const spare = this.#free.pop();
    if (spare !== undefined) return spare;
    const room = sharedRoom(this.sizeBytes);
    return { room, bytes: bytesOfRoom(room).subarray(0, this.sizeBytes) };
  }

  /** Nobody may use it any more. */
  giveBack(lent: LentRoom): void {
    if (this.#free.length < this.keptMax) this.#free.push(lent);
    else this.leave(lent.room);
  }
}
