/**
 * What is served, and what is said about it in a negotiation. Pure.
 */
import { BLOCK_BYTES_MIN, NBD_PAYLOAD_BYTES_MAX } from '../../../shared/limits.js';
import type { BlockDevice } from '../block-device.js';
import { TRANSMISSION_FLAG as FLAG } from './protocol.js';

export interface NbdExport {
  readonly name: string;
  /** For people, shown by `nbdinfo --list`. */
  readonly description: string;
  readonly device: BlockDevice;
}

/** The export that a client asks for. The empty name is the protocol's default export: the first. */
export const findExport = (exports: readonly NbdExport[], name: string): NbdExport | null =>
  exports.find((e) => e.name === name) ?? (name === '' ? (exports[0] ?? null) : null);

/** FLUSH and FUA on one connection cover the writes of all: a device has one flush for everybody. */
export function transmissionFlags(device: BlockDevice, structured: boolean): number {
  const both = FLAG.hasFlags | FLAG.sendFlush | FLAG.sendFua | FLAG.sendCache | FLAG.canMultiConn;
  const kind = device.readOnly ? FLAG.readOnly : FLAG.sendTrim | FLAG.sendWriteZeroes;
  return both | kind | (structured ? FLAG.sendDf : 0);
}

export interface BlockSizes {
  readonly minimum: number;
  readonly preferred: number;
  readonly maximum: number;
}

export const blockSizes = (device: BlockDevice): BlockSizes => ({
  minimum: 1,
  preferred: Math.max(device.blockBytes, BLOCK_BYTES_MIN),
  maximum: NBD_PAYLOAD_BYTES_MAX,
});
