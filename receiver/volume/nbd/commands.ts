/**
 * Requests of the transmission phase: which are valid (pure), and what they do to a device.
 */
import { NBD_PAYLOAD_BYTES_MAX, NBD_SYNC_READ_BYTES_MAX } from '../../../shared/limits.js';
import type { BlockDevice } from '../block-device.js';
import type { FlushGate } from './flush-gate.js';
import type { Session } from './handshake.js';
import { COMMAND, COMMAND_FLAG as FLAG, ERRNO, type Errno } from './protocol.js';

export interface NbdRequest {
  readonly type: number;
  readonly flags: number;
  /** The client's name for the request, sent back as it came. */
  readonly cookieHigh: number;
  readonly cookieLow: number;
  readonly offset: number;
  readonly length: number;
}

/** Flags that a command may carry beside FUA, which means nothing to commands that don't write. */
function allowedFlags(type: number, structured: boolean): number {
  if (type === COMMAND.read) return structured ? FLAG.df : 0;
  if (type === COMMAND.writeZeroes) return FLAG.noHole;
  if (type === COMMAND.blockStatus) return FLAG.reqOne;
  return 0;
}

/** Why a request is refused without touching the device; 0: it is valid. Takes fields, not an object: it is asked for each of 100,000 reads per second. */
export function refusalOf(session: Session, type: number, flags: number, offset: number, length: number): Errno | 0 {
  const { device } = session.export;
  if ((flags & ~(FLAG.fua | allowedFlags(type, session.structured))) !== 0) return ERRNO.EINVAL;
  // An offset beyond 2^53 is not exact, and still beyond any device.
  const isBeyond = offset + length > device.sizeBytes;
  switch (type) {
    case COMMAND.read:
      return isBeyond || length > NBD_PAYLOAD_BYTES_MAX ? ERRNO.EINVAL : 0;
    case COMMAND.write:
    case COMMAND.writeZeroes:
      if (device.readOnly) return ERRNO.EPERM;
      return isBeyond ? ERRNO.ENOSPC : 0;
    case COMMAND.trim:
      if (device.readOnly) return ERRNO.EPERM;
      return isBeyond ? ERRNO.EINVAL : 0;
    case COMMAND.blockStatus:
      return isBeyond || length === 0 || !session.allocation ? ERRNO.EINVAL : 0;
    case COMMAND.cache:
      return isBeyond ? ERRNO.EINVAL : 0;
    case COMMAND.flush:
      return 0;
    default:
      return ERRNO.EINVAL;
  }
}

export interface ExecutionContext {
  readonly device: BlockDevice;
  readonly gate: FlushGate;
  /** Whether the answer is still of use to somebody. */
  readonly isWanted: () => boolean;
}

/** Does what has no data to answer with. Resolved: it is done, and durable if FUA was asked for. */
export async function execute(
  { device, gate, isWanted }: ExecutionContext,
  request: NbdRequest,
  bytes: Buffer,
): Promise<void> {
  const { type, offset, length, flags } = request;
  if (type === COMMAND.flush) return device.readOnly ? undefined : gate.flush();
  if (length === 0) return;
  if (type === COMMAND.cache) return readAhead(device, offset, length, bytes, isWanted);
  if (type === COMMAND.write) await device.write(offset, bytes);
  else if (type === COMMAND.trim) await device.trim(offset, length);
  else await device.zero(offset, length, (flags & FLAG.noHole) !== 0);
  if ((flags & FLAG.fua) !== 0) await gate.flush();
}

/** Buffer that CACHE needs: its reads go nowhere. */
export const readAheadBytes = (length: number): number => Math.min(length, NBD_SYNC_READ_BYTES_MAX);

async function readAhead(
  device: BlockDevice,
  offset: number,
  length: number,
  scratch: Buffer,
  isWanted: () => boolean,
): Promise<void> {
  for (let done = 0; done < length && isWanted(); done += scratch.length) {
    await device.read(offset + done, scratch.subarray(0, Math.min(scratch.length, length - done)));
  }
}
