/**
 * What is noted of a disk at shutdown: that it was closed, with all that is needed to go on at the next boot; or why it was not. Pure.
 *
 * A closed disk's marks are noted at one bit per 64 blocks, as the tracker keeps what it has taken: after the reboot a little more is read, and
 * no more is sent.
 */
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { z } from 'zod';
import { BlockSet } from '../../shared/blocks/block-set.js';
import { sha256Hex } from '../../shared/fingerprint.js';
import { isDiskId, isUuid, type DiskId, type SeriesId } from '../../shared/units.js';
import { addGroups, groupImage } from '../tracker/ebpf/maps/group-bitmap.js';
import { GROUP_BLOCKS } from '../tracker/ebpf/maps/layout.js';
import { forEachBit } from '../tracker/ebpf/maps/scan.js';

const count = z.number().int().nonnegative();
const base = {
  disk: z.custom<DiskId>((v) => typeof v === 'string' && isDiskId(v), 'not a disk id'),
  /** Of the boot that ended. */
  bootId: z.string().min(1),
  atMs: z.number(),
};
const openSchema = z.strictObject({ ...base, state: z.literal('open'), reason: z.string() });
const closedSchema = z.strictObject({
  ...base,
  state: z.literal('closed'),
  series: z.custom<SeriesId>((v) => typeof v === 'string' && isUuid(v), 'not a series'),
  sizeBytes: count,
  blockBytes: count,
  /** Name under /sys/class/block, and the kernel's counts, when it was closed: what they are when the machine goes down is compared with these. */
  device: z.string(),
  writeSectors: count,
  discardSectors: count,
  /** Parts of the disk that change when anybody uses it, and SHA-256 over them in this order. */
  trace: z.array(z.strictObject({ offset: count, length: count })).min(1),
  traceSha256: z.string().regex(/^[0-9a-f]{64}$/),
  /** Groups of blocks that no point holds as they are. */
  marks: z.string(),
});
const noteSchema = z.discriminatedUnion('state', [openSchema, closedSchema]);
const VERSION = 1;

export type ClosedNote = z.infer<typeof closedSchema>;
export type OpenNote = z.infer<typeof openSchema>;
export type Note = ClosedNote | OpenNote;

/** Two lines: version and SHA-256 of the second, which is the note. */
export function encodeNote(note: Note): string {
  const text = JSON.stringify(note);
  return `${VERSION} ${sha256Hex(text)}\n${text}\n`;
}

/** Null when it is not whole. */
export function decodeNote(file: string): Note | null {
  const [head, text, ...rest] = file.split('\n');
  if (text === undefined || rest.join('') !== '' || head !== `${VERSION} ${sha256Hex(text)}`) return null;
  try {
    return noteSchema.parse(JSON.parse(text));
  } catch {
    return null;
  }
}

const WORD_BITS = 32;
const imageBytes = (blockCount: number): number =>
  Math.ceil(Math.ceil(blockCount / GROUP_BLOCKS) / WORD_BITS) * (WORD_BITS / 8);

export const encodeMarks = (blocks: BlockSet, blockCount: number): string =>
  deflateRawSync(groupImage(blocks, blockCount, imageBytes(blockCount))).toString('base64');

/** All blocks of the groups. Throws when the text isn't that of a disk of this size. */
export function decodeMarks(text: string, blockCount: number): BlockSet {
  const bytes = imageBytes(blockCount);
  const image = inflateRawSync(Buffer.from(text, 'base64'), { maxOutputLength: bytes });
  if (image.length !== bytes) throw new Error(`marks of ${image.length * 8} groups, the disk has ${blockCount} blocks`);
  const blocks = new BlockSet();
  for (let word = 0; word < bytes / 4; word++) {
    forEachBit(image.readInt32LE(word * 4), (bit) => addGroups(blocks, word * WORD_BITS + bit, 1, blockCount));
  }
  return blocks;
}
