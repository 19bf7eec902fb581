/** What is read ahead of a sequential reader where the point is near: not kept the first time, kept the second, in nobody's way. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { Landing } from '../../receiver/volume/local/landing.js';
import { Volume, type VolumeOptions } from '../../receiver/volume/volume.js';
import { systemClock } from '../../shared/clock.js';
import { FETCH_BYTES_MAX, PASSING_FETCHES_MAX } from '../../shared/limits.js';
import { silentLogger } from '../../shared/log.js';
import { asDiskId, MIB } from '../../shared/units.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { MemoryContent } from '../helpers/memory-content.js';
import { randomOf } from '../helpers/random.js';

removeTempFolders();

const BLOCK = 4096;
const STEP = 64 * 1024;
const SIZE = 24 * MIB;

/** Without a block of zeroes. */
const disk = ((): Buffer => {
  const random = randomOf(3);
  const bytes = Buffer.alloc(SIZE);
  for (let at = 0; at < SIZE; at += 4) bytes.writeUInt32LE((Math.floor(random() * 2 ** 32) | 1) >>> 0, at);
  return bytes;
})();

async function open(isNear: boolean): Promise<{ volume: Volume; content: MemoryContent; options: VolumeOptions }> {
  const content = new MemoryContent(disk);
  content.isNear = isNear;
  content.onRead = () => sleep(1);
  const common = { disk: asDiskId('d0'), baseKey: 'p', writable: true, cacheBytesMax: null };
  const folder = await tempFolder('volume-passing');
  const options = { ...common, folder, content, clock: systemClock, log: silentLogger() };
  return { volume: await Volume.open(options), content, options };
}

async function read(volume: Volume, offset: number, length: number): Promise<Buffer> {
  const into = Buffer.alloc(length, 0xee);
  if (!volume.tryRead(offset, into)) await volume.read(offset, into);
  return into;
}

async function readThrough(volume: Volume, from = 0, to = SIZE, is = disk): Promise<void> {
  for (let at = from; at < to; at += STEP)
    expect((await read(volume, at, STEP)).equals(is.subarray(at, at + STEP)), `at ${at}`).toBe(true);
}

describe('reading ahead of a point that is near', () => {
  it('keeps nothing that is read once from beginning to end, and all of it the second time', async () => {
    const { volume, content } = await open(true);
    await readThrough(volume);
    // What the reader had to wait for is kept: the beginning, until it was seen to be sequential, and where reading ahead was late.
    expect(volume.stats().localBytes).toBeLessThan(SIZE / 2);
    await readThrough(volume);
    await readThrough(volume);
    const { reads } = content;
    await readThrough(volume);
    expect(content.reads).toBe(reads);
    await volume.close();
  });

  it('keeps it the first time where the point is far', async () => {
    const { volume, content } = await open(false);
    await readThrough(volume);
    await expect.poll(() => volume.stats().localBytes).toBe(SIZE);
    const { reads } = content;
    await readThrough(volume);
    expect(content.reads).toBe(reads);
    await volume.close();
  });

  it('keeps nobody waiting when the reader it was meant for never comes', async () => {
    const { volume } = await open(true);
    for (let round = 0; round < 4; round++) {
      // Goes on just long enough to have all the room read ahead for it, and leaves.
      await readThrough(volume, round * 5 * MIB, round * 5 * MIB + 2 * MIB);
      await readThrough(volume, round * 5 * MIB + 3 * MIB, round * 5 * MIB + 5 * MIB);
    }
    await readThrough(volume);
    await volume.close();
  });

  it('is never newer than a client’s write, of a block and of a part of one', async () => {
    const { volume, options } = await open(true);
    const now = Buffer.from(disk);
    await readThrough(volume, 0, 2 * MIB);
    for (const [offset, length] of [
      [2 * MIB + BLOCK, BLOCK],
      [2 * MIB + 9 * BLOCK + 512, 1024],
      [3 * MIB - 512, 1024],
    ] as const) {
      const written = Buffer.alloc(length, 0xc1);
      await volume.write(offset, written);
      written.copy(now, offset);
    }
    await readThrough(volume, 2 * MIB, SIZE, now);
    await readThrough(volume, 0, SIZE, now);
    await volume.close();
    const again = await Volume.open(options);
    await readThrough(again, 0, SIZE, now);
    await again.close();
  });

  it('becomes local all the same when all is wanted', async () => {
    const { volume } = await open(true);
    await readThrough(volume, 0, 2 * MIB);
    const hydrating = volume.hydrate({ signal: new AbortController().signal, bytesPerSecond: null });
    await readThrough(volume);
    expect(await hydrating).toBe('complete');
    expect(volume.stats().localBytes).toBe(SIZE);
    await volume.close();
  });

  it('ends with the volume: what waits for room, what waits to be read', async () => {
    const { volume, content } = await open(true);
    await readThrough(volume, 0, 4 * MIB);
    content.onRead = () => sleep(20);
    await read(volume, 4 * MIB, STEP);
    await volume.close();
  });
});

describe('batches that pass', () => {
  const kept: number[] = [];
  const landing = (): Landing => {
    kept.length = 0;
    return new Landing(BLOCK, async ({ first }) => void kept.push(first));
  };
  const ahead = async (on: Landing, first: number): Promise<void> => {
    await on.mayPass();
    const batch = await on.begin(FETCH_BYTES_MAX, false);
    batch.adopt({ first, count: 2 }, batch.room(2 * BLOCK).fill(first));
    on.landPassing(batch);
  };
  const END = 1_000;

  it('are there until all of them was read', async () => {
    const on = landing();
    await ahead(on, 8);
    const into = Buffer.alloc(BLOCK);
    expect(on.tryRead(9 * BLOCK, into) && into.every((byte) => byte === 8)).toBe(true);
    expect(on.stretch(8, 2)).toEqual({ count: 2, landed: true });
    expect(on.tryRead(8 * BLOCK, into)).toBe(true);
    expect(on.stretch(8, 2)).toEqual({ count: 2, landed: false });
    expect([on.bytes, kept]).toEqual([0, []]);
  });

  it('are kept for a writer that waits for them, also when it saw them before all of them was there', async () => {
    const on = landing();
    await on.mayPass();
    const batch = await on.begin(FETCH_BYTES_MAX, false);
    batch.adopt({ first: 8, count: 2 }, batch.room(2 * BLOCK).fill(8));
    const waited = on.settled(9, 1).then(() => 'kept');
    on.landPassing(batch);
    expect(await Promise.race([waited, sleep(1_000)])).toBe('kept');
    expect([on.bytes, kept]).toEqual([0, [8]]);
    // Its place is free again.
    for (let i = 0; i < PASSING_FETCHES_MAX; i++) await ahead(on, i * 10);
    const settled = on.settled(10, 1).then(() => 'kept');
    expect(await Promise.race([settled, sleep(1_000)])).toBe('kept');
    expect(kept).toEqual([8, 10]);
  });

  it('are bounded: one more waits until another was read; a client that misses has the oldest kept', async () => {
    const on = landing();
    for (let i = 0; i < PASSING_FETCHES_MAX; i++) await ahead(on, i * 10);
    const over: string[] = [];
    const more = [END, 2 * END].map((first) => ahead(on, first).then(() => over.push(`ahead ${first}`)));
    await sleep(5);
    expect(over).toEqual([]);
    on.tryRead(30 * BLOCK, Buffer.alloc(2 * BLOCK));
    await more[0];
    expect([over, kept]).toEqual([[`ahead ${END}`], []]);
    const batch = await on.begin(BLOCK, true);
    await more[1];
    expect(kept).toEqual([0]);
    on.land(batch);
    on.endPassing();
    await on.drained();
    expect([on.bytes, kept]).toEqual([0, [0]]);
  });

  it('are kept for who needs them in the image', async () => {
    const on = landing();
    await ahead(on, 8);
    await on.settled(8, 2);
    expect([on.bytes, kept]).toEqual([0, [8]]);
  });
});
