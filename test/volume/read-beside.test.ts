/** What nobody waits for, fetched by threads: reading ahead and hydration of a real store's point, whole, damaged, and where threads can't. */
import { open as openFile, rename } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MachineReader } from '../../receiver/catalog/reader.js';
import { layerName } from '../../receiver/catalog/names.js';
import { openStore } from '../../receiver/store/open.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import type { PointContent } from '../../receiver/volume/content.js';
import { IndexCache } from '../../receiver/volume/index-cache.js';
import { LayerReader } from '../../receiver/volume/layer-reader.js';
import { openPointContent } from '../../receiver/volume/point-content.js';
import { bytesOfRoom, sharedRoom } from '../../receiver/volume/threads/shared-room.js';
import { Volume } from '../../receiver/volume/volume.js';
import { systemClock } from '../../shared/clock.js';
import { BESIDE_JOBS_MAX } from '../../shared/limits.js';
import { silentLogger } from '../../shared/log.js';
import { MIB } from '../../shared/units.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { Chain, DISK, MACHINE, type Change } from '../helpers/layers.js';

removeTempFolders();

const BLOCK = 4096;
const BLOCKS = 4_000;
const STEP = 64 * 1024;

interface Counted {
  readonly content: PointContent;
  /** How often threads were asked, and how often they did it. */
  asked: number;
  done: number;
}

/** `failing`: threads leave something else behind, and say that they could not. */
function counted(content: PointContent, failing = false): Counted {
  const result: Counted = {
    asked: 0,
    done: 0,
    content: new Proxy(content, {
      get(target, key) {
        if (key === 'readBeside')
          return async (...args: Parameters<NonNullable<PointContent['readBeside']>>): Promise<boolean> => {
            result.asked++;
            const is = (await target.readBeside?.(...args)) ?? false;
            if (failing) {
              bytesOfRoom(args[2]).fill(0x55, args[3], args[3] + args[1] * BLOCK);
              return false;
            }
            if (is) result.done++;
            return is;
          };
        const value: unknown = Reflect.get(target, key, target);
        return typeof value === 'function' ? (value.bind(target) as unknown) : value;
      },
    }),
  };
  return result;
}

describe('fetched by threads', () => {
  let folder: string;
  let store: ObjectStore;
  let chain: Chain;
  let disk: Buffer;
  beforeAll(async () => {
    folder = await tempFolder('read-beside');
    store = await openStore(`file:${folder}/store`, { create: true });
    chain = new Chain(store, { sizeBytes: 20 * MIB + 512, blockBytes: BLOCK });
    chain.apply([{ first: 0, blocks: Array.from({ length: BLOCKS }, (_, i) => chain.block(i, 'base', i % 3 > 0)) }]);
    await chain.base(0, 1);
    chain.point(1);
    const changes: Change[] = [
      ...Array.from({ length: 300 }, (_, i) => ({ first: i * 11, blocks: [chain.block(i * 11, 'new')] })),
      { first: 3_500, zeroCount: 300 },
      // The short last block.
      { first: 5_120, blocks: [chain.block(5_120, 'new')] },
    ];
    chain.apply(changes);
    await chain.delta(2, 2, changes);
    chain.point(2);
    await chain.publish();
    disk = Buffer.alloc(chain.geometry.sizeBytes);
    for (const [block, bytes] of chain.current) bytes.copy(disk, block * BLOCK);
  });
  afterAll(() => store.close());

  const contentOf = async (from = store): Promise<PointContent> => {
    const view = await MachineReader.open(from, MACHINE);
    const point = await view.findPoint({ by: 'number', number: 2 });
    return openPointContent(from, view, point, view.diskOf(point, DISK), new IndexCache());
  };

  const volumeOf = async (content: PointContent): Promise<Volume> =>
    Volume.open({
      ...{ folder: await tempFolder('read-beside-volume'), disk: DISK, content, baseKey: 'p', writable: true },
      ...{ cacheBytesMax: null, clock: systemClock, log: silentLogger(), fetchBesideAfterBytes: 0 },
    });

  const readAt = async (volume: Volume, offset: number): Promise<Buffer> => {
    const into = Buffer.alloc(Math.min(STEP, disk.length - offset), 0xee);
    if (!volume.tryRead(offset, into)) await volume.read(offset, into);
    return into;
  };

  /** Offsets at which the volume, read from its beginning, isn't the disk; 'error': it says so. */
  const wrong = async (volume: Volume): Promise<[number, 'bytes' | 'error'][]> => {
    const found: [number, 'bytes' | 'error'][] = [];
    for (let at = 0; at < disk.length; at += STEP) {
      const bytes = await readAt(volume, at).catch(() => null);
      if (bytes === null) found.push([at, 'error']);
      else if (!bytes.equals(disk.subarray(at, at + STEP))) found.push([at, 'bytes']);
    }
    return found;
  };

  it('a sequential reader gets the point, again and again', async () => {
    const beside = counted(await contentOf());
    const volume = await volumeOf(beside.content);
    for (let round = 0; round < 3; round++) expect(await wrong(volume)).toEqual([]);
    expect(beside.done).toBeGreaterThan(3);
    await volume.close();
  });

  it('hydration brings all of it, and what a client wrote meanwhile stays', async () => {
    const beside = counted(await contentOf());
    const volume = await volumeOf(beside.content);
    const hydrated = volume.hydrate({ bytesPerSecond: null, signal: new AbortController().signal });
    const own = Buffer.alloc(3 * BLOCK, 0x77);
    for (const block of [10, 1_000, 3_999]) await volume.write(block * BLOCK, own);
    expect(await hydrated).toBe('complete');
    expect(beside.done).toBeGreaterThan(3);
    const before = Buffer.from(disk);
    try {
      for (const block of [10, 1_000, 3_999]) own.copy(disk, block * BLOCK);
      expect(await wrong(volume)).toEqual([]);
    } finally {
      before.copy(disk);
    }
    await volume.close();
  });

  it('the event loop does it where threads could not, whatever they left behind', async () => {
    const beside = counted(await contentOf(), true);
    const volume = await volumeOf(beside.content);
    expect(await wrong(volume)).toEqual([]);
    expect(beside.asked).toBeGreaterThan(3);
    expect(await volume.hydrate({ bytesPerSecond: null, signal: new AbortController().signal })).toBe('complete');
    expect(await wrong(volume)).toEqual([]);
    await volume.close();
  });

  it('a layer that is gone is an error for who needs it, and for nobody else', async () => {
    const [delta] = chain.deltas;
    if (delta === undefined) throw new Error('no delta');
    const own = await openStore(`file:${folder}/store`, { create: false });
    const beside = counted(await contentOf(own));
    const volume = await volumeOf(beside.content);
    // It keeps files open that it has read.
    await own.close();
    const path = `${folder}/store/${layerName(MACHINE, DISK, delta)}`;
    await rename(path, `${path}.away`);
    try {
      // The last block that the delta has is the short one at the end; up to 3289 it has every eleventh.
      const found = await wrong(volume);
      expect(found.filter(([, how]) => how === 'bytes')).toEqual([]);
      expect(found.length).toBeGreaterThan(100);
      expect(found.map(([at]) => at)).not.toContain(3_400 * BLOCK - ((3_400 * BLOCK) % STEP));
      expect(beside.asked).toBeGreaterThan(beside.done);
      expect(beside.done).toBeGreaterThan(0);
    } finally {
      await rename(`${path}.away`, path);
    }
    expect(await wrong(volume)).toEqual([]);
    await volume.close();
  });

  it('what stands in many layers is the event loop’s', async () => {
    const many = await openStore(`file:${await tempFolder('read-beside-many')}/store`, { create: true });
    const history = new Chain(many, { sizeBytes: 2 * MIB, blockBytes: BLOCK });
    history.apply([{ first: 0, blocks: Array.from({ length: 512 }, (_, i) => history.block(i, 'base')) }]);
    await history.base(0, 1);
    history.point(1);
    for (let i = 0; i < BESIDE_JOBS_MAX; i++) {
      const change = [{ first: i * 3, blocks: [history.block(i * 3, 'new')] }];
      history.apply(change);
      await history.delta(i + 2, i + 2, change);
      history.point(i + 2);
    }
    await history.publish();
    const view = await MachineReader.open(many, MACHINE);
    const ask = async (number: number, first: number): Promise<boolean | undefined> => {
      const point = await view.findPoint({ by: 'number', number });
      const content = await openPointContent(many, view, point, view.diskOf(point, DISK), new IndexCache());
      return content.readBeside?.(first, 256, sharedRoom(MIB), 0);
    };
    // With the base one too many; one fewer; none of them.
    expect(await ask(BESIDE_JOBS_MAX + 1, 0)).toBe(false);
    expect(await ask(BESIDE_JOBS_MAX, 0)).toBe(true);
    expect(await ask(BESIDE_JOBS_MAX + 1, 256)).toBe(true);
    await many.close();
  });

  it('a damaged chunk is an error for who reads it, and for nobody else', async () => {
    const [base] = chain.bases;
    if (base === undefined) throw new Error('no base');
    const { chunks } = await new LayerReader(store, chain.owner).index(base);
    const { offset, lengthBytes } = chunks[20] ?? { offset: 0, lengthBytes: 0 };
    const file = await openFile(`${folder}/store/${layerName(MACHINE, DISK, base)}`, 'r+');
    const byte = Buffer.alloc(1);
    try {
      await file.read(byte, 0, 1, offset + lengthBytes - 1);
      await file.write(Buffer.of((byte[0] ?? 0) ^ 0x10), 0, 1, offset + lengthBytes - 1);
      const beside = counted(await contentOf());
      const volume = await volumeOf(beside.content);
      const found = await wrong(volume);
      // 64 blocks of 4 KiB.
      expect(found).toEqual([0, 1, 2, 3].map((i) => [20 * 64 * BLOCK + i * STEP, 'error']));
      expect(beside.done).toBeGreaterThan(3);
      await volume.close();
    } finally {
      await file.write(byte, 0, 1, offset + lengthBytes - 1);
      await file.close();
    }
  });
});
