/**
 * Which disk a device is: a stable DiskId that survives reboots, other device names and other slots. Pure decisions; the caller keeps the records.
 *
 * In this order: the device's own number (WWID, serial, UUID of the mapping layer), if no other present disk claims the same one; else a UUID
 * that we make once and bind to what stays: the backing file of a loop device, the file itself, the slot of a disk without any number.
 * A wrong match is never a wrong copy: after a reboot each disk is compared by hash with its last point before it goes on.
 */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import { usageError } from '../../shared/errors.js';
import { asDiskId, isDiskId, SECTOR_BYTES, type DiskId } from '../../shared/units.js';
import type { BlockDevice } from './sysfs.js';

/** A UUID that we gave to a disk, as kept in the agent's state. */
export const keptIdentitySchema = z.strictObject({
  id: z.custom<DiskId>((value) => typeof value === 'string' && isDiskId(value), 'not a disk id'),
  /** `file:<real path>`, `loop:<real path>+<offset>` or `slot:<topology>`; `as:<id>`: the disk that would have that id took the place of this one. */
  key: z.string().max(8192),
  /** `<device>:<inode>` of the file; null for slots. */
  inode: z.string().nullable(),
  sizeBytes: z.number().int().nonnegative(),
});
export type KeptIdentity = z.infer<typeof keptIdentitySchema>;

/** A file as stat tells it; `path` is its real path. */
export interface FileFacts {
  readonly path: string;
  readonly inode: string;
  readonly sizeBytes: number;
}

export type IdentitySubject =
  | {
      readonly kind: 'block';
      readonly device: BlockDevice;
      readonly parent: BlockDevice;
      readonly backing: FileFacts | null;
    }
  | { readonly kind: 'file'; readonly file: FileFacts };

export interface Identity {
  readonly id: DiskId;
  readonly from: 'device' | 'kept' | 'new';
  /** Record to be kept, when it is new or has changed. */
  readonly record: KeptIdentity | null;
}

const ID_LENGTH_MAX = 64;
const HASH_LENGTH = 12;

/** Text of a device as a DiskId: what is too long keeps its beginning and a hash of the whole. Null when nothing is left. */
export function sanitizeId(text: string, lengthMax = ID_LENGTH_MAX): string | null {
  const plain = text
    .toLowerCase()
    .replace(/[^a-z0-9._-]+/g, '-')
    .replace(/^[^a-z0-9]+|[^a-z0-9]+$/g, '');
  if (plain === '') return null;
  if (plain.length <= lengthMax) return plain;
  const hash = createHash('sha256').update(text).digest('hex').slice(0, HASH_LENGTH);
  return `${plain.slice(0, lengthMax - HASH_LENGTH - 1)}-${hash}`;
}

/** Numbers that makers leave in when they have none: short, of one repeated character, or counting up. */
function isPlaceholder(text: string): boolean {
  const plain = text
    .toLowerCase()
    .replace(/^(naa|eui|t10|uuid)\./, '')
    .replace(/[^a-z0-9]/g, '');
  return plain.length < 4 || /^(.)\1*$/.test(plain) || '0123456789abcdef'.startsWith(plain) || plain === 'none';
}

/** The number that a whole disk carries, in the order of how much it is worth; null when it has none worth believing. */
export function hardwareName(disk: BlockDevice): string | null {
  if (disk.loop !== null) return null;
  if (disk.dmUuid !== null) return disk.dmUuid;
  if (disk.mdUuid !== null) return `md-${disk.mdUuid}`;
  return [disk.wwid, disk.serial].find((text) => text !== null && !isPlaceholder(text)) ?? null;
}

/** Key under which a UUID is kept for a disk that has no number of its own. */
function keptKey(disk: BlockDevice, backing: FileFacts | null): string {
  if (disk.loop === null) return `slot:${disk.topology}`;
  return `loop:${backing?.path ?? disk.loop.backingFile}+${disk.loop.offsetBytes}`;
}

function withPartition(diskId: string, device: BlockDevice): DiskId {
  if (device.partition === null) return asDiskId(diskId);
  const suffix = `-p${device.startSector}`;
  const parent = sanitizeId(diskId, ID_LENGTH_MAX - suffix.length) ?? diskId;
  return asDiskId(parent + suffix);
}

/** Same path first: an image restored by copying is the same disk. Then the same inode: an image that was renamed. */
function findKept(key: string, inode: string | null, kept: readonly KeptIdentity[]): KeptIdentity | undefined {
  const kind = key.slice(0, key.indexOf(':') + 1);
  return (
    kept.find((record) => record.key === key) ??
    kept.find((record) => inode !== null && record.inode === inode && record.key.startsWith(kind))
  );
}

function keptIdentity(
  key: string,
  inode: string | null,
  sizeBytes: number,
  kept: readonly KeptIdentity[],
  newUuid: () => string,
): Identity {
  const found = findKept(key, inode, kept);
  if (found === undefined) {
    const id = asDiskId(newUuid());
    return { id, from: 'new', record: { id, key, inode, sizeBytes } };
  }
  const same = found.key === key && found.inode === inode && found.sizeBytes === sizeBytes;
  return { id: found.id, from: 'kept', record: same ? null : { id: found.id, key, inode, sizeBytes } };
}

const SUCCESSOR = 'as:';

/** The record by which a disk takes the place of another. */
export const successorOf = (id: DiskId, natural: DiskId, sizeBytes: number): KeptIdentity => ({
  id,
  key: `${SUCCESSOR}${natural}`,
  inode: null,
  sizeBytes,
});

export const isSuccession = (record: KeptIdentity): boolean => record.key.startsWith(SUCCESSOR);

/** The id that the device which is this disk now would have by itself. */
export function naturalIdOf(id: DiskId, kept: readonly KeptIdentity[]): DiskId {
  const record = kept.find((r) => r.id === id && isSuccession(r));
  return record === undefined ? id : asDiskId(record.key.slice(SUCCESSOR.length));
}

/** An operator may have given a device the place of another disk; the one that lost its place is no longer that disk. */
function withSuccession(natural: Identity, kept: readonly KeptIdentity[]): Identity {
  const given = kept.find((r) => r.key === `${SUCCESSOR}${natural.id}`);
  if (given !== undefined) return { ...natural, id: given.id };
  if (naturalIdOf(natural.id, kept) === natural.id) return natural;
  return { ...natural, id: asDiskId(sanitizeId(`replaced-${natural.id}`) ?? natural.id) };
}

/** Both can write, and what one writes is at the other as well: two paths to one disk, two loop devices on the same part of a file. */
export function leadToSameBytes(a: BlockDevice, b: BlockDevice): boolean {
  if (a.name === b.name) return false;
  const name = hardwareName(a);
  return name === null ? areOnSameFile(a, b) : hardwareName(b) === name;
}

function areOnSameFile(a: BlockDevice, b: BlockDevice): boolean {
  if (a.loop === null || b.loop === null || a.loop.deleted || b.loop.deleted || a.readOnly || b.readOnly) return false;
  const endOf = ({ loop, sectorCount }: BlockDevice): number => (loop?.offsetBytes ?? 0) + sectorCount * SECTOR_BYTES;
  return a.loop.backingFile === b.loop.backingFile && a.loop.offsetBytes < endOf(b) && b.loop.offsetBytes < endOf(a);
}

function refuseSecondPath(disk: BlockDevice, present: readonly BlockDevice[]): void {
  const twin = present.find((other) => leadToSameBytes(disk, other));
  if (twin === undefined) return;
  const { loop } = disk;
  if (loop !== null)
    throw usageError(
      `${disk.name} and ${twin.name} are the same bytes of ${loop.backingFile}: what is written to one is not seen at the other`,
      'Detach one of them (`losetup -d`).',
    );
  throw usageError(
    `${disk.name} and ${twin.name} carry the same number ${hardwareName(disk) ?? ''}`,
    'Two paths to one disk: join them by multipath and protect the device above them (`protect --as ID` where one path was protected). Two disks: give each its own serial number.',
  );
}

/** The id that a disk has if nothing else leads to it. */
export const idByItself = (subject: IdentitySubject, kept: readonly KeptIdentity[], newUuid: () => string): DiskId =>
  identityOf(subject, [], kept, newUuid).id;

/** `present`: all whole disks of this machine, to see whether there is but one way to this one. */
export function identityOf(
  subject: IdentitySubject,
  present: readonly BlockDevice[],
  kept: readonly KeptIdentity[],
  newUuid: () => string,
): Identity {
  return withSuccession(naturalIdentity(subject, present, kept, newUuid), kept);
}

function naturalIdentity(
  subject: IdentitySubject,
  present: readonly BlockDevice[],
  kept: readonly KeptIdentity[],
  newUuid: () => string,
): Identity {
  if (subject.kind === 'file') {
    const { path, inode, sizeBytes } = subject.file;
    return keptIdentity(`file:${path}`, inode, sizeBytes, kept, newUuid);
  }
  const { device, parent, backing } = subject;
  refuseSecondPath(parent, present);
  const name = hardwareName(parent);
  const id = name === null ? null : sanitizeId(name);
  if (id !== null) return { id: withPartition(id, device), from: 'device', record: null };
  const sizeBytes = parent.sectorCount * SECTOR_BYTES;
  const whole = keptIdentity(keptKey(parent, backing), backing?.inode ?? null, sizeBytes, kept, newUuid);
  return { ...whole, id: withPartition(whole.id, device) };
}
