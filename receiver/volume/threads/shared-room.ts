/**
 * Memory that all threads of the pool see: one composes a part of a disk in it, another writes it out. Aligned for writes around the page cache.
 */
import { addressOf } from '../../../shared/native/libc.js';

const ALIGN_BYTES = 4096;

/** As it is handed to threads. */
export interface SharedRoom {
  readonly memory: SharedArrayBuffer;
  /** Where the aligned part begins. */
  readonly skip: number;
}

export function sharedRoom(lengthBytes: number): SharedRoom {
  const memory = new SharedArrayBuffer(lengthBytes + ALIGN_BYTES);
  const over = Number(addressOf(Buffer.from(memory)) % BigInt(ALIGN_BYTES));
  return { memory, skip: (ALIGN_BYTES - over) % ALIGN_BYTES };
}

export const bytesOfRoom = ({ memory, skip }: SharedRoom): Buffer => Buffer.from(memory, skip);
