/** When a disk counts as closed, and when that is believed: tables. */
import { describe, expect, test } from 'vitest';
import { BlockSet } from '../../shared/blocks/block-set.js';
import { asDiskId, asSeriesId } from '../../shared/units.js';
import { decodeMarks, decodeNote, encodeMarks, encodeNote, type ClosedNote } from '../../agent/reboot/note.js';
import {
  whyNotBelieved,
  whyNotClosed,
  whyNotTheSame,
  type ArmFacts,
  type CloseFacts,
  type Counts,
  type DiskNow,
} from '../../agent/reboot/verdicts.js';

const MINUTE_MS = 60_000;
const counts: Counts = { writeSectors: 80, discardSectors: 8, writesInFlight: 0 };
const zero: Counts = { writeSectors: 0, discardSectors: 0, writesInFlight: 0 };

const note: ClosedNote = {
  state: 'closed',
  disk: asDiskId('abc'),
  bootId: 'the boot before',
  atMs: 100 * MINUTE_MS,
  series: asSeriesId('aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeee1'),
  sizeBytes: 1 << 20,
  blockBytes: 4096,
  device: 'vdb',
  writeSectors: 80,
  discardSectors: 8,
  trace: [{ offset: 0, length: 4096 }],
  traceSha256: 'ab'.repeat(32),
  marks: '',
};

const closed: CloseFacts = {
  user: null,
  broken: null,
  unbalanced: null,
  untraceable: null,
  before: counts,
  after: counts,
};

describe('closed only when nothing is in doubt', () => {
  test('nothing is', () => expect(whyNotClosed(closed)).toBeNull());
  test.each<[Partial<CloseFacts>, RegExp]>([
    [{ user: 'mounted on /' }, /mounted on \//],
    [{ broken: 'the device was replaced' }, /not tracked: the device was replaced/],
    [{ unbalanced: 'writes went on landing' }, /not known to be complete/],
    [{ untraceable: 'swap space' }, /it holds swap space/],
    [{ after: { ...counts, writeSectors: 88 } }, /written while it was being closed/],
    [{ after: { ...counts, discardSectors: 16 } }, /written while it was being closed/],
    [{ before: { ...counts, writesInFlight: 1 } }, /under way/],
    [{ after: { ...counts, writesInFlight: 1 } }, /under way/],
  ])('%j', (change, reason) => expect(whyNotClosed({ ...closed, ...change })).toMatch(reason));
});

const boot: ArmFacts = { bootId: 'this boot', bootedAtMs: 101 * MINUTE_MS, withinMs: 15 * MINUTE_MS };

describe('believed only of the boot before, and soon', () => {
  test.each<[string, Partial<ArmFacts>, RegExp | null]>([
    ['a minute later', {}, null],
    ['at once, with a clock in whole seconds', { bootedAtMs: note.atMs - 999 }, null],
    ['the same boot', { bootId: note.bootId }, /not restarted/],
    ['a clock that was set back', { bootedAtMs: note.atMs - MINUTE_MS }, /after this boot/],
    ['a night later', { bootedAtMs: note.atMs + 600 * MINUTE_MS }, /away for .*another system/],
    ['at the limit', { bootedAtMs: note.atMs + 15 * MINUTE_MS }, null],
    ['beyond the limit', { bootedAtMs: note.atMs + 15 * MINUTE_MS + 1 }, /away/],
  ])('%s', (_what, change, reason) => {
    const why = whyNotBelieved(note, { ...boot, ...change });
    if (reason === null) expect(why).toBeNull();
    else expect(why).toMatch(reason);
  });
});

const now: DiskNow = { sizeBytes: note.sizeBytes, traceSha256: note.traceSha256, counts: [zero, zero] };

describe('the same only when nothing has touched it', () => {
  test('nothing has', () => expect(whyNotTheSame(note, now)).toBeNull());
  test.each<[Partial<DiskNow>, RegExp]>([
    [{ sizeBytes: 1 << 21 }, /size/],
    [{ traceSha256: 'cd'.repeat(32) }, /used by another system/],
    [{ counts: [zero, { ...zero, writeSectors: 8 }] }, /written in this boot/],
    [{ counts: [{ ...zero, discardSectors: 8 }, zero] }, /written in this boot/],
    [{ counts: [zero, { ...zero, writesInFlight: 1 }] }, /written in this boot/],
  ])('%j', (change, reason) => expect(whyNotTheSame(note, { ...now, ...change })).toMatch(reason));
});

describe('a note', () => {
  test('comes back as it was', () => expect(decodeNote(encodeNote(note))).toEqual(note));

  test.each([
    ['cut short', (text: string) => text.slice(0, -20)],
    ['a digit changed', (text: string) => text.replace('"writeSectors":80', '"writeSectors":81')],
    ['another version', (text: string) => text.replace(/^1/, '2')],
    ['nothing', () => ''],
  ])('is none when it is %s', (_what, change) => expect(decodeNote(change(encodeNote(note)))).toBeNull());

  test.each([1, 63, 64, 65, 5_000, 100_000])('holds the marks of a disk of %d blocks, and no less', (blockCount) => {
    const blocks = new BlockSet();
    for (let block = 0; block < blockCount; block += 777) blocks.add(block);
    blocks.add(blockCount - 1);
    const back = decodeMarks(encodeMarks(blocks, blockCount), blockCount);
    for (let block = 0; block < blockCount; block++) {
      // Whole groups of 64, and none that had no mark.
      const group = Math.floor(block / 64) * 64;
      expect(back.has(block)).toBe(blocks.countIn(group, Math.min(64, blockCount - group)) > 0);
    }
    expect(back.blocksIn(blockCount, 64)).toEqual([]);
  });

  test('marks of a disk of another size are refused', () => {
    const text = encodeMarks(new BlockSet(), 100_000);
    expect(() => decodeMarks(text, 5_000)).toThrow();
    expect(() => decodeMarks(text, 1_000_000)).toThrow();
  });
});
