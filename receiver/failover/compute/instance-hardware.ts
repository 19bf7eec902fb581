/**
 * Hardware identity of a running copy, derived from its instance: the same at each start, never that of the source or of another copy. An agent
 * that boots inside sees other hardware than it was enrolled on, and is refused as a clone. Pure.
 */
import { createHash } from 'node:crypto';

const bytesOf = (instance: string, what: string): Buffer =>
  createHash('sha256').update(`afterimage ${what} ${instance}`).digest();

/** For SMBIOS. Version 8: "custom", as what is derived from a hash should say. */
export function hardwareUuid(instance: string): string {
  const bytes = bytesOf(instance, 'hardware').subarray(0, 16);
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x80;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

/** A locally administered unicast address for the card of this index. */
export function derivedMac(instance: string, index: number): string {
  const bytes = bytesOf(instance, `card ${index}`).subarray(0, 6);
  bytes[0] = ((bytes[0] ?? 0) & 0xfc) | 0x02;
  return bytes.toString('hex').replace(/(..)(?=.)/g, '$1:');
}

/** Serial number of a disk for a bus that has room for `charsMax`: the id, or its beginning and a part of its hash. */
export function diskSerial(disk: string, charsMax: number): string {
  if (disk.length <= charsMax) return disk;
  const hash = createHash('sha256').update(disk).digest('hex').slice(0, 8);
  return `${disk.slice(0, charsMax - 9)}-${hash}`;
}
