/**
 * Numbers of the NBD protocol (doc/proto.md of NetworkBlockDevice/nbd), as far as they are used here. All integers on the wire are big-endian.
 */

/** `NBDMAGIC` and `IHAVEOPT`; the second also begins each option of a client. */
export const GREETING_MAGIC = 0x4e42444d41474943n;
export const OPTION_MAGIC = 0x49484156454f5054n;
export const OPTION_REPLY_MAGIC = 0x0003e889045565a9n;
export const REQUEST_MAGIC = 0x25609513;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;

export const OPTION_HEADER_BYTES = 16;
export const REQUEST_HEADER_BYTES = 28;
export const SIMPLE_REPLY_BYTES = 16;
export const CHUNK_HEADER_BYTES = 20;
/** A structured read's data begin after the chunk's header and their offset. */
export const DATA_CHUNK_HEADER_BYTES = CHUNK_HEADER_BYTES + 8;
/** After the answer to EXPORT_NAME, for clients that want it so. */
export const EXPORT_NAME_PADDING_BYTES = 124;

export const HANDSHAKE_FLAG = { fixedNewstyle: 1, noZeroes: 2 } as const;

export const OPTION = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
} as const;

export const OPTION_REPLY = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  errorUnsupported: 0x8000_0001,
  errorPolicy: 0x8000_0002,
  errorInvalid: 0x8000_0003,
  errorTlsRequired: 0x8000_0005,
  errorUnknown: 0x8000_0006,
} as const;

export const INFO = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

export const TRANSMISSION_FLAG = {
  hasFlags: 1 << 0,
  readOnly: 1 << 1,
  sendFlush: 1 << 2,
  sendFua: 1 << 3,
  sendTrim: 1 << 5,
  sendWriteZeroes: 1 << 6,
  sendDf: 1 << 7,
  canMultiConn: 1 << 8,
  sendCache: 1 << 10,
} as const;

export const COMMAND = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

export const COMMAND_FLAG = { fua: 1 << 0, noHole: 1 << 1, df: 1 << 2, reqOne: 1 << 3 } as const;

export const CHUNK_FLAG_DONE = 1;
export const CHUNK = { none: 0, offsetData: 1, blockStatus: 5, error: 0x8001 } as const;

export const STATE = { hole: 1, zero: 2 } as const;
export const ALLOCATION_CONTEXT = 'base:allocation';
export const ALLOCATION_CONTEXT_ID = 1;

/** Values of errors on the wire: Linux' numbers, the only ones that the protocol knows. */
export const ERRNO = { EPERM: 1, EIO: 5, EINVAL: 22, ENOSPC: 28 } as const;
export type Errno = (typeof ERRNO)[keyof typeof ERRNO];
