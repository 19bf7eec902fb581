/**
 * Memory that all threads of the pool see: one composes a part of a disk in it, another writes it out. Aligned for writes around the page cache.
 */
import { addressOf } from '../../../shared/native/libc.js';

const ALIGN_BYTES = 4096;

/**
 * As it is handed to threads: once to each, which then know it by its number. To hand it over with each job costs more than a small job itself, as V8 counts
 * its whole length anew each time and collects garbage for it.
 */
export interface SharedRoom {
  /** Of this process. */
  readonly number: number;
  readonly memory: SharedArrayBuffer;
  /** Where the aligned part begins. */
  readonly skip: number;
}

let rooms = 0;

export function sharedRoom(lengthBytes: number): SharedRoom {
  const memory = new SharedArrayBuffer(lengthBytes + ALIGN_BYTES);
  const over = Number(addressOf(Buffer.from(memory)) % BigInt(ALIGN_BYTES));
  return { number: rooms++, memory, skip: (ALIGN_BYTES - over) % ALIGN_BYTES };
}

export const bytesOfRoom = ({ memory, skip }: SharedRoom): Buffer => Buffer.from(memory, skip);

export const isRoom = (outlet: object | null): outlet is SharedRoom => outlet !== null && 'memory' in outlet;
