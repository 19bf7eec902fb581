import { execFileSync } from 'node:child_process';
import { closeSync, constants, fsyncSync, openSync, readFileSync, readSync, truncateSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { planReads } from '../../agent/cycle/read-plan.js';
import { ReadPool } from '../../agent/cycle/read-pool.js';
import { DiskReader } from '../../agent/cycle/reader.js';
import { BlockSet, type Extent } from '../../shared/blocks/block-set.js';
import { geometryOf } from '../../shared/blocks/geometry.js';
import { isRoot, LoopDisks } from '../quiesce/loop-disks.js';

const KIB = 1024;
const MIB = 1 << 20;
const BLOCK = 4 * KIB;

/** Small and repeatable: the tests want many cases, not randomness. */
function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

function randomSet(random: () => number, blocks: number): BlockSet {
  const set = new BlockSet();
  const runs = Math.floor(random() * 12);
  for (let i = 0; i < runs; i++) {
    const first = Math.floor(random() * blocks);
    set.addRange(first, Math.min(blocks - first, 1 + Math.floor(random() ** 3 * 700)));
  }
  if (random() < 0.5) set.add(blocks - 1);
  return set;
}

describe('plan of reads', () => {
  const plan = (extents: Extent[]): unknown => [...planReads(extents, { blocksMax: 8, gapBlocksMax: 2 })];
  it.each<[string, Extent[], unknown]>([
    ['nothing', [], []],
    ['one block', [{ first: 5, count: 1 }], [{ first: 5, count: 1, runs: [{ first: 5, count: 1 }] }]],
    [
      'joins over a small gap',
      [
        { first: 0, count: 2 },
        { first: 4, count: 1 },
      ],
      [
        {
          first: 0,
          count: 5,
          runs: [
            { first: 0, count: 2 },
            { first: 4, count: 1 },
          ],
        },
      ],
    ],
    [
      'not over a large one',
      [
        { first: 0, count: 2 },
        { first: 5, count: 1 },
      ],
      [
        { first: 0, count: 2, runs: [{ first: 0, count: 2 }] },
        { first: 5, count: 1, runs: [{ first: 5, count: 1 }] },
      ],
    ],
    [
      'cuts a long run and joins its rest with the next',
      [
        { first: 0, count: 10 },
        { first: 11, count: 1 },
      ],
      [
        { first: 0, count: 8, runs: [{ first: 0, count: 8 }] },
        {
          first: 8,
          count: 4,
          runs: [
            { first: 8, count: 2 },
            { first: 11, count: 1 },
          ],
        },
      ],
    ],
    [
      'cuts a run that begins in a read with no room for it',
      [
        { first: 0, count: 5 },
        { first: 7, count: 3 },
      ],
      [
        {
          first: 0,
          count: 8,
          runs: [
            { first: 0, count: 5 },
            { first: 7, count: 1 },
          ],
        },
        { first: 8, count: 2, runs: [{ first: 8, count: 2 }] },
      ],
    ],
    [
      'begins anew where a gap reaches the end of a read',
      [
        { first: 0, count: 7 },
        { first: 8, count: 1 },
      ],
      [
        { first: 0, count: 7, runs: [{ first: 0, count: 7 }] },
        { first: 8, count: 1, runs: [{ first: 8, count: 1 }] },
      ],
    ],
  ])('%s', (_, extents, expected) => expect(plan(extents)).toEqual(expected));
});

/** One pool for all: its memory is never freed. */
const pool = new ReadPool();
let disks: LoopDisks;
const readers: DiskReader[] = [];
beforeEach(() => (disks = new LoopDisks()));
afterEach(() => {
  for (const reader of readers.splice(0)) reader.close();
  disks.cleanUp();
  expect(pool.free).toBe(4);
});

function readerOf(path: string, sizeBytes: number, blockBytes = BLOCK, isPresent = () => true): DiskReader {
  const reader = new DiskReader({ path, geometry: geometryOf(sizeBytes, blockBytes), pool, isPresent });
  readers.push(reader);
  return reader;
}

function fill(path: string, sizeBytes: number): Buffer {
  const random = randomOf(sizeBytes);
  const content = Buffer.alloc(sizeBytes);
  for (let i = 0; i < sizeBytes - 3; i += 4) content.writeUInt32LE(Math.floor(random() * 2 ** 32), i);
  const fd = openSync(path, 'r+');
  writeSync(fd, content);
  fsyncSync(fd);
  closeSync(fd);
  return content;
}

async function expectModel(reader: DiskReader, content: Buffer, rounds: number): Promise<void> {
  const { blockBytes, blockCount } = reader.geometry;
  const model = Buffer.alloc(blockCount * blockBytes);
  content.copy(model);
  const random = randomOf(rounds + blockBytes);
  for (let round = 0; round < rounds; round++) {
    const wanted = round === 0 ? BlockSet.of(Array(blockCount).keys()) : randomSet(random, blockCount);
    const extents = [...wanted.extents()];
    const seen = new BlockSet();
    const totals = await reader.readRuns(extents, async (blocks, first, count) => {
      if (random() < 0.3) await new Promise((resolve) => setImmediate(resolve));
      expect(blocks.length).toBe(count * blockBytes);
      expect(blocks.equals(model.subarray(first * blockBytes, (first + count) * blockBytes))).toBe(true);
      for (let block = first; block < first + count; block++) expect(seen.has(block)).toBe(false);
      seen.addRange(first, count);
    });
    expect([...seen.extents()]).toEqual(extents);
    expect(totals.blocks).toBe(wanted.size);
    const into = Buffer.alloc(wanted.size * blockBytes, 0xee);
    expect(await reader.readSmall(extents, into)).toEqual(totals);
    const expected = Buffer.concat(
      extents.map(({ first, count }) => model.subarray(first * blockBytes, (first + count) * blockBytes)),
    );
    expect(into.equals(expected)).toBe(true);
  }
}

describe('reader of files', () => {
  it.each([
    [4 * MIB, BLOCK],
    [3 * MIB + 512, BLOCK],
    [2 * MIB + 3584, BLOCK],
    [5 * MIB + 512, 64 * KIB],
    [MIB, 64 * KIB],
  ])('equals a model: %i bytes in blocks of %i', async (sizeBytes, blockBytes) => {
    const folder = execFileSync('mktemp', ['-d', join(tmpdir(), 'afterimage-reader-XXXXXX')], {
      encoding: 'utf8',
    }).trim();
    disks.undo(() => execFileSync('rm', ['-r', folder]));
    const path = disks.image(sizeBytes, folder);
    await expectModel(readerOf(path, sizeBytes, blockBytes), fill(path, sizeBytes), 40);
  });

  it('does not show what a file has beyond its size', async () => {
    const path = disks.image(2 * MIB);
    fill(path, 2 * MIB);
    const reader = readerOf(path, MIB + 512);
    const into = Buffer.alloc(BLOCK);
    await reader.readSmall([{ first: 256, count: 1 }], into);
    expect(into.subarray(512).every((byte) => byte === 0)).toBe(true);
    expect(into.subarray(0, 512).equals(readFileSync(path).subarray(MIB, MIB + 512))).toBe(true);
  });

  it('says when a file is shorter than it was', async () => {
    const path = disks.image(2 * MIB);
    const reader = readerOf(path, 2 * MIB);
    truncateSync(path, MIB);
    const failed = { code: 'disk-read', message: expect.stringContaining('ends at byte') as string };
    await expect(reader.readRuns([{ first: 0, count: 512 }], () => undefined)).rejects.toMatchObject(failed);
    await expect(reader.readSmall([{ first: 300, count: 1 }], Buffer.alloc(BLOCK))).rejects.toMatchObject(failed);
  });

  it('refuses a window that is too small, before it reads', async () => {
    const reader = readerOf(disks.image(2 * MIB), 2 * MIB);
    await expect(reader.readSmall([{ first: 0, count: 2 }], Buffer.alloc(BLOCK))).rejects.toThrow(RangeError);
  });

  it('stops at the first error of the callback, and when it is cancelled', async () => {
    const reader = readerOf(disks.image(32 * MIB), 32 * MIB);
    let calls = 0;
    const all = [{ first: 0, count: 8192 }];
    const failing = reader.readRuns(all, () => {
      calls++;
      throw new Error('full');
    });
    await expect(failing).rejects.toThrow('full');
    expect(calls).toBeLessThan(9);
    const cancel = new AbortController();
    const cancelled = reader.readRuns(all, () => cancel.abort(new Error('enough')), { signal: cancel.signal });
    await expect(cancelled).rejects.toThrow('enough');
  });

  it('takes turns with other readers when the pool is empty', async () => {
    const path = disks.image(16 * MIB);
    const content = fill(path, 16 * MIB);
    const sums = await Promise.all(
      Array.from({ length: 3 }, async () => {
        const parts = Buffer.alloc(16 * MIB);
        await readerOf(path, 16 * MIB).readRuns([{ first: 0, count: 4096 }], async (blocks, first) => {
          await new Promise((resolve) => setImmediate(resolve));
          blocks.copy(parts, first * BLOCK);
        });
        return parts.equals(content);
      }),
    );
    expect(sums).toEqual([true, true, true]);
  });
});

describe.skipIf(!isRoot)('reader of devices', () => {
  it.each([
    [8 * MIB, BLOCK],
    [3 * MIB + 512, BLOCK],
    [2 * MIB + 3584, 64 * KIB],
  ])('equals a model: %i bytes in blocks of %i', async (sizeBytes, blockBytes) => {
    const path = disks.image(sizeBytes);
    const content = fill(path, sizeBytes);
    const reader = readerOf(disks.attach(path), sizeBytes, blockBytes);
    expect(reader.bufferedReason).toBeNull();
    await expectModel(reader, content, 30);
  });

  it('sees what a mounted filesystem wrote, where a buffered read of the device does not', async () => {
    const device = disks.attach(disks.image(32 * MIB));
    const mount = disks.mount(device, 'ext4');
    const write = (text: string): void => {
      const fd = openSync(join(mount, 'file'), constants.O_RDWR | constants.O_CREAT);
      writeSync(fd, Buffer.alloc(BLOCK, text));
      fsyncSync(fd);
      closeSync(fd);
    };
    const buffered = openSync(device, 'r');
    disks.undo(() => closeSync(buffered));
    const cached = (): Buffer => {
      const all = Buffer.alloc(32 * MIB);
      readSync(buffered, all, 0, all.length, 0);
      return all;
    };
    write('first version ');
    expect(cached().includes('first version first version ')).toBe(true);
    write('second version ');
    expect(cached().includes('second version second version ')).toBe(false);
    const direct = Buffer.alloc(32 * MIB);
    await readerOf(device, 32 * MIB).readSmall([{ first: 0, count: 8192 }], direct);
    expect(direct.includes('second version second version ')).toBe(true);
    expect(direct.includes('first version first version ')).toBe(false);
  });

  it('tells a bad place from a vanished disk', async () => {
    const path = disks.image(4 * MIB);
    const device = disks.attach(path);
    let present = true;
    const reader = readerOf(device, 4 * MIB, BLOCK, () => present);
    // A loop device answers EIO where its file has become too short.
    truncateSync(path, MIB);
    const read = (): Promise<unknown> => reader.readSmall([{ first: 512, count: 1 }], Buffer.alloc(BLOCK));
    await expect(read()).rejects.toMatchObject({
      code: 'disk-read',
      message: expect.stringContaining(`${device} at byte ${2 * MIB}`) as string,
    });
    await expect(reader.readRuns([{ first: 512, count: 1 }], () => undefined)).rejects.toMatchObject({
      code: 'disk-read',
    });
    present = false;
    await expect(read()).rejects.toMatchObject({ code: 'disk-gone' });
  });

  it('does not open a missing device', () => {
    expect(() => readerOf('/dev/nothing', MIB)).toThrow(/can't be opened/);
  });
});
