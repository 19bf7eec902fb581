import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { BlockSet } from '../../shared/blocks/block-set.js';
import { geometryOf } from '../../shared/blocks/geometry.js';
import { systemClock } from '../../shared/clock.js';
import { silentLogger } from '../../shared/log.js';
import { asDiskId, MIB } from '../../shared/units.js';
import { OpenCut } from '../../receiver/volume/local/open-cut.js';
import { Volume } from '../../receiver/volume/volume.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { MemoryContent } from '../helpers/memory-content.js';
import { between, randomOf } from '../helpers/random.js';

removeTempFolders();

const BLOCK = 4096;
const BLOCKS = 256;

async function open(name: string): Promise<Volume> {
  return Volume.open({
    folder: await tempFolder(`volume-${name}`),
    disk: asDiskId(name),
    content: new MemoryContent(Buffer.alloc(BLOCKS * BLOCK)),
    baseKey: 'p',
    writable: true,
    cacheBytesMax: null,
    clock: systemClock,
    log: silentLogger(),
  });
}

const block = (value: number): Buffer => {
  const bytes = Buffer.alloc(BLOCK);
  new Uint32Array(bytes.buffer, bytes.byteOffset, BLOCK / 4).fill(value);
  return bytes;
};

async function valueAt(cut: { read(first: number, count: number, into: Buffer): Promise<void> }, at: number) {
  const into = Buffer.alloc(BLOCK);
  await cut.read(at, 1, into);
  return into.readUInt32LE(0);
}

describe('cuts of volumes', () => {
  it('of two volumes are one instant: B is never there without the A that was acknowledged before it', async () => {
    const random = randomOf(9);
    const [a, b] = [await open('a'), await open('b')];
    let over = false;
    let last = 0;
    const writer = async (at: number): Promise<void> => {
      for (let n = 1; !over; n++) {
        await a.write(at * BLOCK, block(n));
        await b.write(at * BLOCK, block(n));
        last = n;
      }
    };
    const writers = Promise.all(Array.from({ length: 8 }, (_, at) => writer(at)));
    const seen: number[] = [];
    for (let i = 0; i < 40; i++) {
      await sleep(between(random, 0, 6));
      await Promise.all([a.hold(), b.hold()]);
      const cuts = [a.cut(), b.cut()] as const;
      a.resume();
      b.resume();
      for (let at = 0; at < 8; at++) {
        const inA = cuts[0].changed.has(at) ? await valueAt(cuts[0], at) : (seen[at] ?? 0);
        const inB = cuts[1].changed.has(at) ? await valueAt(cuts[1], at) : inA;
        expect(inA - inB, `block ${at} in cut ${i}`).toBeGreaterThanOrEqual(0);
        expect(inA - inB, `block ${at} in cut ${i}`).toBeLessThanOrEqual(1);
        seen[at] = inA;
        if (random() < 0.2) await sleep(1);
      }
      for (const cut of cuts) cut.end('committed');
    }
    over = true;
    await writers;
    expect(last).toBeGreaterThan(10);
    await a.close();
    await b.close();
  });

  it('hold back writes only until they are resumed, and need to be held', async () => {
    const volume = await open('held');
    expect(() => volume.cut()).toThrow('not held');
    await volume.hold();
    let written = false;
    const writing = volume.write(0, block(1)).then(() => (written = true));
    await sleep(20);
    expect(written).toBe(false);
    const cut = volume.cut();
    expect(() => volume.cut()).toThrow('still open');
    volume.resume();
    await writing;
    expect(cut.changed.size).toBe(0);
    expect(volume.changedBlocks).toBe(1);
    cut.end('given-up');
    await volume.close();
  });

  it('give their changes back when they are given up', async () => {
    const volume = await open('given-up');
    await volume.write(0, block(1));
    await volume.hold();
    const cut = volume.cut();
    volume.resume();
    await volume.write(5 * BLOCK, block(2));
    expect(volume.changedBlocks).toBe(1);
    cut.end('given-up');
    expect(volume.changedBlocks).toBe(2);
    await volume.close();
  });

  it('refuse to be read again where they were overwritten since', async () => {
    const volume = await open('again');
    await volume.write(0, Buffer.concat([block(1), block(2)]));
    await volume.hold();
    const cut = volume.cut();
    volume.resume();
    expect(await valueAt(cut, 0)).toBe(1);
    expect(await valueAt(cut, 0)).toBe(1);
    await volume.write(0, block(9));
    await volume.trim(BLOCK, BLOCK);
    await expect(valueAt(cut, 0)).rejects.toMatchObject({ code: 'cut-unreadable' });
    expect(await valueAt(cut, 1)).toBe(2);
    await expect(valueAt(cut, 1)).rejects.toMatchObject({ code: 'cut-unreadable' });
    cut.end('given-up');
    await volume.close();
  });

  it('copy at most so much, then writers wait until they are read on or ended', async () => {
    const geometry = geometryOf(1 * MIB, BLOCK);
    const changed = new BlockSet();
    changed.addRange(0, 8);
    let flushed = 0;
    const host = {
      geometry,
      readImage: async (offset: number, into: Buffer) => void block(offset / BLOCK + 1).copy(into),
      flush: async () => {
        flushed++;
      },
      ended: () => undefined,
    };
    const cut = new OpenCut(changed, host, 2 * BLOCK);
    await cut.preserve(0, 2);
    let [third, fourth] = [false, false];
    const waiting = [cut.preserve(2, 1)?.then(() => (third = true)), cut.preserve(3, 2)?.then(() => (fourth = true))];
    expect(cut.preserve(20, 4)).toBeUndefined();
    await sleep(10);
    expect([third, fourth, flushed]).toEqual([false, false, 0]);
    expect(await valueAt(cut, 0)).toBe(1);
    await sleep(10);
    expect([third, fourth, flushed]).toEqual([true, false, 1]);
    cut.end('committed');
    for (const writer of waiting) await writer;
    expect(fourth).toBe(true);
  });

  it('keep writers from what is just being read, also a second time', async () => {
    const host = {
      geometry: geometryOf(1 * MIB, BLOCK),
      readImage: async (_offset: number, into: Buffer) => {
        await sleep(20);
        into.fill(1);
      },
      flush: () => Promise.resolve(),
      ended: () => undefined,
    };
    const cut = new OpenCut(BlockSet.of([0]), host);
    for (let i = 0; i < 2; i++) {
      let isRead = false;
      const reading = valueAt(cut, 0).then(() => (isRead = true));
      if (i === 0) await reading;
      else await cut.preserve(0, 1);
      await sleep(5);
      expect(isRead).toBe(true);
    }
  });

  it('are durable in the volume before they are read', async () => {
    const geometry = geometryOf(1 * MIB, BLOCK);
    const host = {
      geometry,
      readImage: async () => undefined,
      flush: () => Promise.reject(new Error('the disk is broken')),
      ended: () => undefined,
    };
    await expect(valueAt(new OpenCut(BlockSet.of([0]), host), 0)).rejects.toThrow('the disk is broken');
  });
});
