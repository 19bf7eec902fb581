/**
 * Replies of the transmission phase, written into buffers that are there. Pure but for those. Each returns the bytes that it wrote.
 */
import type { AllocationRun } from '../block-device.js';
import type { NbdRequest } from './commands.js';
import {
  ALLOCATION_CONTEXT_ID,
  CHUNK,
  CHUNK_FLAG_DONE,
  CHUNK_HEADER_BYTES,
  COMMAND,
  DATA_CHUNK_HEADER_BYTES,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
  STATE,
  STRUCTURED_REPLY_MAGIC,
} from './protocol.js';

export type Cookie = Pick<NbdRequest, 'cookieHigh' | 'cookieLow'>;

const MAX_32 = 0xffff_ffff;
/** An error, or a read of nothing. */
const CHUNK_REPLY_BYTES_MAX = CHUNK_HEADER_BYTES + 6;
/** Enough for any reply without data. */
export const SMALL_REPLY_BYTES_MAX = CHUNK_REPLY_BYTES_MAX;

export const readHeaderBytes = (structured: boolean): number =>
  structured ? DATA_CHUNK_HEADER_BYTES : SIMPLE_REPLY_BYTES;

/** Head of a successful read, before its data. Fields instead of an object: see refusalOf(). */
export function writeReadHeader(
  into: Buffer,
  at: number,
  structured: boolean,
  cookieHigh: number,
  cookieLow: number,
  offset: number,
  length: number,
): void {
  if (!structured) {
    simple(into, at, 0, cookieHigh, cookieLow);
    return;
  }
  chunk(into, at, CHUNK.offsetData, cookieHigh, cookieLow, 8 + length);
  into.writeUInt32BE(Math.floor(offset / 2 ** 32), at + CHUNK_HEADER_BYTES);
  into.writeUInt32BE(offset % 2 ** 32, at + CHUNK_HEADER_BYTES + 4);
}

/** A reply without data: `errno` 0 is success. Reads and block status must be answered in chunks once these are agreed upon. */
export function writeEmptyReply(
  into: Buffer,
  at: number,
  structured: boolean,
  type: number,
  cookie: Cookie,
  errno: number,
): number {
  if (!structured || (type !== COMMAND.read && type !== COMMAND.blockStatus)) {
    return simple(into, at, errno, cookie.cookieHigh, cookie.cookieLow);
  }
  if (errno === 0) return chunk(into, at, CHUNK.none, cookie.cookieHigh, cookie.cookieLow, 0);
  chunk(into, at, CHUNK.error, cookie.cookieHigh, cookie.cookieLow, 6);
  into.writeUInt32BE(errno, at + CHUNK_HEADER_BYTES);
  into.writeUInt16BE(0, at + CHUNK_HEADER_BYTES + 4);
  return CHUNK_REPLY_BYTES_MAX;
}

export const statusReplyBytes = (runs: number): number => CHUNK_HEADER_BYTES + 4 + 8 * runs;

export function writeStatusReply(into: Buffer, at: number, cookie: Cookie, runs: readonly AllocationRun[]): number {
  const bytes = statusReplyBytes(runs.length);
  chunk(into, at, CHUNK.blockStatus, cookie.cookieHigh, cookie.cookieLow, bytes - CHUNK_HEADER_BYTES);
  let to = into.writeUInt32BE(ALLOCATION_CONTEXT_ID, at + CHUNK_HEADER_BYTES);
  for (const { lengthBytes, hole, zero } of runs) {
    to = into.writeUInt32BE(Math.min(lengthBytes, MAX_32), to);
    to = into.writeUInt32BE((hole ? STATE.hole : 0) | (zero ? STATE.zero : 0), to);
  }
  return bytes;
}

function simple(into: Buffer, at: number, errno: number, cookieHigh: number, cookieLow: number): number {
  into.writeUInt32BE(SIMPLE_REPLY_MAGIC, at);
  into.writeUInt32BE(errno, at + 4);
  into.writeUInt32BE(cookieHigh, at + 8);
  into.writeUInt32BE(cookieLow, at + 12);
  return SIMPLE_REPLY_BYTES;
}

/** Each of our replies is one chunk, so that DF (don't fragment) holds for all. */
function chunk(
  into: Buffer,
  at: number,
  type: number,
  cookieHigh: number,
  cookieLow: number,
  dataBytes: number,
): number {
  into.writeUInt32BE(STRUCTURED_REPLY_MAGIC, at);
  into.writeUInt16BE(CHUNK_FLAG_DONE, at + 4);
  into.writeUInt16BE(type, at + 6);
  into.writeUInt32BE(cookieHigh, at + 8);
  into.writeUInt32BE(cookieLow, at + 12);
  into.writeUInt32BE(dataBytes, at + 16);
  return CHUNK_HEADER_BYTES;
}
