/**
 * What lies at the beginning of a device, by its magic numbers. Pure on the bytes given. Only what whoever writes to the device must change is
 * of use here, so most of the world's formats are just "other".
 */
export type Signature =
  | { readonly kind: 'ext'; readonly isClean: boolean }
  | { readonly kind: 'xfs' }
  | { readonly kind: 'btrfs' }
  | { readonly kind: 'lvm' }
  | { readonly kind: 'table' }
  /** Something else, or nothing that we know. */
  | { readonly kind: 'other'; readonly what: string };

/** Up to the end of btrfs' superblock, which lies furthest in. */
export const SIGNATURE_BYTES = 68 * 1024;

const EXT = { superblock: 1024, magicAt: 56, magic: 0xef53, stateAt: 58, valid: 1, incompatAt: 96, needsRecovery: 4 };
const BTRFS_MAGIC_AT = 64 * 1024 + 64;
const SECTOR_BYTES = 512;
/** An LVM label may stand in any of the first four sectors. */
const LABEL_SECTORS = [0, 1, 2, 3];
const MD_MAGIC = 0xa92b4efc;

const hasText = (bytes: Buffer, at: number, text: string): boolean =>
  bytes.toString('latin1', at, at + text.length) === text;

function ext(bytes: Buffer): Signature | null {
  const at = EXT.superblock;
  if (bytes.readUInt16LE(at + EXT.magicAt) !== EXT.magic) return null;
  const isValid = (bytes.readUInt16LE(at + EXT.stateAt) & EXT.valid) !== 0;
  const isRecovered = (bytes.readUInt32LE(at + EXT.incompatAt) & EXT.needsRecovery) === 0;
  return { kind: 'ext', isClean: isValid && isRecovered };
}

/** Offset of the LVM label; null when there is none. */
export const lvmLabelAt = (bytes: Buffer): number | null =>
  LABEL_SECTORS.map((sector) => sector * SECTOR_BYTES).find(
    (at) => hasText(bytes, at, 'LABELONE') && hasText(bytes, at + 24, 'LVM2 001'),
  ) ?? null;

/** Formats that lie under something else, or whose users leave no trace at a known place. */
function foreign(bytes: Buffer): string | null {
  if (hasText(bytes, 0, 'LUKS\xba\xbe')) return 'encrypted by LUKS: what lies inside is not seen';
  if (bytes.readUInt32LE(4096) === MD_MAGIC || bytes.readUInt32LE(0) === MD_MAGIC) return 'a member of an md array';
  if (hasText(bytes, 4096 - 10, 'SWAPSPACE2')) return 'swap space';
  return null;
}

export function signatureOf(bytes: Buffer): Signature {
  if (bytes.length < SIGNATURE_BYTES) return { kind: 'other', what: 'too small for a filesystem' };
  const strange = foreign(bytes);
  if (strange !== null) return { kind: 'other', what: strange };
  const found: Signature[] = [];
  const extents = ext(bytes);
  if (extents !== null) found.push(extents);
  if (hasText(bytes, 0, 'XFSB')) found.push({ kind: 'xfs' });
  if (hasText(bytes, BTRFS_MAGIC_AT, '_BHRfS_M')) found.push({ kind: 'btrfs' });
  if (lvmLabelAt(bytes) !== null) found.push({ kind: 'lvm' });
  const [first, second] = found;
  if (first !== undefined && second !== undefined) {
    return { kind: 'other', what: `signs of both ${first.kind} and ${second.kind}` };
  }
  if (first !== undefined) return first;
  const isTable = hasText(bytes, SECTOR_BYTES, 'EFI PART') || hasText(bytes, 4096, 'EFI PART');
  if (isTable || bytes.readUInt16LE(510) === 0xaa55) return { kind: 'table' };
  return { kind: 'other', what: 'nothing whose use leaves a known trace' };
}
