/**
 * What was fetched and isn't in the local image yet: it is answered and found, a client's write wins over it, a write of it that fails harms nobody,
 * nothing is closed under it, and it has a bound.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { systemClock } from '../../shared/clock.js';
import { CHUNK_PLAIN_BYTES_MAX, FETCH_BYTES_MAX } from '../../shared/limits.js';
import { silentLogger } from '../../shared/log.js';
import { asDiskId, KIB, MIB } from '../../shared/units.js';
import { Landing, type Batch } from '../../receiver/volume/local/landing.js';
import { Volume, type VolumeOptions } from '../../receiver/volume/volume.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { MemoryContent } from '../helpers/memory-content.js';
import { randomOf } from '../helpers/random.js';

removeTempFolders();

const BLOCK = 4 * KIB;
const CHUNK = CHUNK_PLAIN_BYTES_MAX;

/** Clients write nothing but this byte here; all else is the cache's: its writes wait for the gate, and fail when they are told to. */
const CLIENT = 0x77;
let gate: Promise<void> | undefined;
let open: () => void = () => undefined;
let failure: Error | undefined;
vi.mock('node:fs', async (original) => {
  const fs = await original<typeof import('node:fs')>();
  type Done = (error: Error | null, n?: number) => void;
  return {
    ...fs,
    write: (...args: unknown[]) => {
      const isClient = (args[1] as Buffer)[Number(args[2])] === CLIENT;
      const go = (): void => {
        if (failure !== undefined && !isClient) (args.at(-1) as Done)(failure);
        else (fs.write as (...args: unknown[]) => void)(...args);
      };
      if (gate !== undefined && !isClient) void gate.then(go);
      else go();
    },
  };
});

function shut(): void {
  gate = new Promise((resolve) => (open = resolve));
}
afterEach(() => {
  open();
  gate = undefined;
  failure = undefined;
});

/** No block is zero, none is like another. */
function someDisk(bytes: number): Buffer {
  const random = randomOf(5);
  const disk = Buffer.alloc(bytes);
  for (let at = 0; at < bytes; at += 4) disk.writeUInt32LE((Math.floor(random() * 2 ** 32) | 1) >>> 0, at);
  return disk;
}

const disk = someDisk(4 * MIB);

async function optionsFor(content: MemoryContent): Promise<VolumeOptions> {
  const folder = await tempFolder('volume-landing');
  const common = { disk: asDiskId('d0'), baseKey: 'p', writable: true, cacheBytesMax: null };
  return { ...common, folder, content, clock: systemClock, log: silentLogger() };
}

async function read(volume: Volume, offset: number, length: number): Promise<Buffer> {
  const into = Buffer.alloc(length, 0xee);
  if (!volume.tryRead(offset, into)) await volume.read(offset, into);
  return into;
}

const expected = (offset: number, length: number): Buffer => disk.subarray(offset, offset + length);

describe('fetched blocks on their way into the local image', () => {
  it('are answered before they are written, and found by later reads', async () => {
    const content = new MemoryContent(disk);
    const volume = await Volume.open(await optionsFor(content));
    shut();
    expect((await read(volume, 40 * BLOCK, BLOCK)).equals(expected(40 * BLOCK, BLOCK))).toBe(true);
    expect(volume.stats().localBytes).toBe(0);
    // Its neighbours, part of a block, and more than has landed.
    const now = Buffer.alloc(CHUNK);
    expect(volume.tryRead(0, now)).toBe(true);
    expect(now.equals(expected(0, CHUNK))).toBe(true);
    expect((await read(volume, 7 * BLOCK + 512, 1024)).equals(expected(7 * BLOCK + 512, 1024))).toBe(true);
    expect(content.reads).toBe(1);
    // The second half of this has to be fetched.
    expect((await read(volume, CHUNK / 2, CHUNK)).equals(expected(CHUNK / 2, CHUNK))).toBe(true);
    expect(content.reads).toBeGreaterThan(1);
    open();
    await vi.waitFor(() => expect(volume.stats().localBytes).toBeGreaterThanOrEqual(2 * CHUNK));
    expect((await read(volume, 0, 2 * CHUNK)).equals(expected(0, 2 * CHUNK))).toBe(true);
    await volume.close();
  });

  it('never come out where a client has written, before and after they are kept', async () => {
    const options = await optionsFor(new MemoryContent(disk));
    const volume = await Volume.open(options);
    shut();
    // Two writes are under way and hold their blocks; the third fetch waits for its turn.
    for (const chunk of [0, 5, 10]) await read(volume, chunk * CHUNK, BLOCK);
    const at = 10 * CHUNK + 3 * BLOCK;
    const written = Buffer.alloc(BLOCK, CLIENT);
    await volume.write(at, written);
    expect((await read(volume, at, BLOCK)).equals(written)).toBe(true);
    const around = Buffer.alloc(3 * BLOCK);
    expect(volume.tryRead(at - BLOCK, around)).toBe(true);
    expect(around.subarray(BLOCK, 2 * BLOCK).equals(written)).toBe(true);
    expect(around.subarray(0, BLOCK).equals(expected(at - BLOCK, BLOCK))).toBe(true);
    // One to blocks that are being written waits, and is the last.
    const late = volume.write(0, written);
    expect(await Promise.race([late.then(() => 'written'), sleep(20, 'waits')])).toBe('waits');
    open();
    await late;
    await volume.close();
    const again = await Volume.open(options);
    expect(again.stats().localBytes).toBeGreaterThanOrEqual(3 * CHUNK);
    for (const offset of [0, at]) expect((await read(again, offset, BLOCK)).equals(written)).toBe(true);
    await again.close();
  });

  it('are fetched again when they could not be written, and count as local only then', async () => {
    const content = new MemoryContent(disk);
    const volume = await Volume.open(await optionsFor(content));
    failure = Object.assign(new Error('no more room'), { code: 'ENOSPC' });
    expect((await read(volume, 20 * BLOCK, BLOCK)).equals(expected(20 * BLOCK, BLOCK))).toBe(true);
    await vi.waitFor(() => expect(volume.tryRead(20 * BLOCK, Buffer.alloc(BLOCK))).toBe(false));
    expect(volume.stats().localBytes).toBe(0);
    expect((await read(volume, 3 * BLOCK, BLOCK)).equals(expected(3 * BLOCK, BLOCK))).toBe(true);
    expect(content.reads).toBe(2);
    // A write to part of a block needs the rest of it in the image.
    await expect(volume.write(9 * BLOCK + 512, Buffer.alloc(512, CLIENT))).rejects.toMatchObject({
      code: 'volume-full',
    });
    failure = undefined;
    await volume.write(9 * BLOCK + 512, Buffer.alloc(512, CLIENT));
    expect((await read(volume, 9 * BLOCK, 512)).equals(expected(9 * BLOCK, 512))).toBe(true);
    expect((await read(volume, 9 * BLOCK + 512, 512)).equals(Buffer.alloc(512, CLIENT))).toBe(true);
    await volume.close();
  });

  it('are written before the image is closed', async () => {
    const content = new MemoryContent(disk);
    const options = await optionsFor(content);
    const volume = await Volume.open(options);
    shut();
    await read(volume, 0, BLOCK);
    const closing = volume.close();
    expect(await Promise.race([closing.then(() => 'closed'), sleep(30, 'waits')])).toBe('waits');
    open();
    await closing;
    const again = await Volume.open(options);
    expect((await read(again, 0, CHUNK)).equals(expected(0, CHUNK))).toBe(true);
    expect(content.reads).toBe(1);
    await again.close();
  });
});

describe('memory of what has landed', () => {
  it('is bounded: fetches wait, and go on as blocks are kept', async () => {
    const keeps: (() => void)[] = [];
    const landing = new Landing(BLOCK, () => new Promise((resolve) => keeps.push(resolve)), 2 * FETCH_BYTES_MAX);
    const begun: Batch[] = [];
    const all = Array.from({ length: 5 }, () =>
      landing.begin(FETCH_BYTES_MAX, false).then((batch) => void begun.push(batch)),
    );
    await sleep(1);
    expect(begun).toHaveLength(2);
    // A small one doesn't overtake those that wait.
    const small = landing.begin(BLOCK, false);
    for (let i = 0; i < 5; i++) {
      const batch = begun[i] as Batch;
      batch.adopt({ first: i, count: 1 }, batch.room(BLOCK).fill(i));
      landing.land(batch);
      expect(landing.bytes).toBeLessThanOrEqual(2 * FETCH_BYTES_MAX);
      const into = Buffer.alloc(BLOCK);
      expect(landing.tryRead(i * BLOCK, into) && into.every((byte) => byte === i)).toBe(true);
      expect(keeps).toHaveLength(i + 1);
      keeps[i]?.();
      await batch.kept;
      expect(landing.tryRead(i * BLOCK, into)).toBe(false);
      await sleep(1);
    }
    await Promise.all(all);
    landing.land(await small);
    await landing.drained();
    expect(landing.bytes).toBe(0);
  });

  it('goes to those first whom a client waits for', async () => {
    const landing = new Landing(BLOCK, () => Promise.resolve(), FETCH_BYTES_MAX);
    const order: string[] = [];
    const end = (name: string) => (batch: Batch) => {
      order.push(name);
      landing.land(batch);
    };
    const first = await landing.begin(FETCH_BYTES_MAX, false);
    const ahead = landing.begin(FETCH_BYTES_MAX, false).then(end('ahead'));
    const clients = [1, 2].map((i) => landing.begin(FETCH_BYTES_MAX, true).then(end(`client ${i}`)));
    landing.land(first);
    await Promise.all([ahead, ...clients]);
    expect(order).toEqual(['client 1', 'client 2', 'ahead']);
  });

  it('is counted for what came along, too, and given back', async () => {
    const landing = new Landing(BLOCK, () => Promise.resolve());
    const batch = await landing.begin(BLOCK, true);
    for (let i = 0; i < 3; i++) batch.add({ first: i * 64, count: 64 }, Buffer.alloc(CHUNK, i + 1));
    expect(landing.bytes).toBe(3 * CHUNK);
    expect(landing.stretch(0, 1_000)).toEqual({ count: 192, landed: true });
    landing.land(batch);
    await landing.drained();
    expect(landing.bytes).toBe(0);
    expect(landing.stretch(0, 1_000)).toEqual({ count: 1_000, landed: false });
  });
});
