/**
 * What reading a point's content costs the store, and what it does when the store lies.
 */
import { appendFile, open, rm } from 'node:fs/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { GIB, MIB } from '../../shared/units.js';
import { layerName } from '../../receiver/catalog/names.js';
import { MachineReader } from '../../receiver/catalog/reader.js';
import { openStore } from '../../receiver/store/open.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import type { PointContent } from '../../receiver/volume/content.js';
import { IndexCache } from '../../receiver/volume/index-cache.js';
import { LayerReader } from '../../receiver/volume/layer-reader.js';
import { openPointContent } from '../../receiver/volume/point-content.js';
import { planPoint } from '../../receiver/volume/plan-point.js';
import { PointMap } from '../../receiver/volume/point-map.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { Chain, DISK, MACHINE, type Change } from '../helpers/layers.js';

removeTempFolders();

interface Read {
  readonly name: string;
  readonly offset: number;
  readonly lengthBytes: number;
}

/** A store that says what was read. */
const watched = (store: ObjectStore, reads: Read[]): ObjectStore =>
  new Proxy(store, {
    get(target, key) {
      if (key === 'read') {
        return (name: string, offset: number, lengthBytes: number): Promise<Buffer> => {
          reads.push({ name, offset, lengthBytes });
          return target.read(name, offset, lengthBytes);
        };
      }
      const value: unknown = Reflect.get(target, key);
      return typeof value === 'function' ? (value.bind(target) as unknown) : value;
    },
  });

const newStore = async (): Promise<{ folder: string; store: ObjectStore }> => {
  const folder = `${await tempFolder('content-store')}/store`;
  return { folder, store: await openStore(`file:${folder}`, { create: true }) };
};

async function contentOf(store: ObjectStore, number: number, cache = new IndexCache()): Promise<PointContent> {
  const view = await MachineReader.open(store, MACHINE);
  const point = await view.findPoint({ by: 'number', number });
  return openPointContent(store, view, point, view.diskOf(point, DISK), cache);
}

describe('reads of the store', () => {
  let store: ObjectStore;
  let chain: Chain;
  beforeAll(async () => {
    ({ store } = await newStore());
    chain = new Chain(store, { sizeBytes: 130 * MIB + 512, blockBytes: 4096 });
    const blocks = Array.from({ length: 640 }, (_, i) => chain.block(i, 'base', false));
    chain.apply([{ first: 0, blocks }]);
    await chain.base(0, 1);
    chain.point(1);
    const change: Change[] = [{ first: 70, blocks: [chain.block(70, 'two'), chain.block(71, 'two')] }];
    chain.apply(change);
    await chain.delta(2, 2, change);
    chain.point(2);
    await chain.publish();
  });

  it('opens without touching a base', async () => {
    const reads: Read[] = [];
    await contentOf(watched(store, reads), 2);
    expect(reads.filter((r) => r.name.includes('/base/'))).toEqual([]);
    expect(reads.filter((r) => r.name.includes('/delta/'))).toHaveLength(1);
  });

  it('joins the chunks of a large read into few ranges', async () => {
    const reads: Read[] = [];
    const content = await contentOf(watched(store, reads), 1);
    await content.read(0, 1, Buffer.alloc(4096));
    reads.length = 0;
    await content.read(0, 640, Buffer.alloc(640 * 4096));
    expect(reads.length).toBeLessThanOrEqual(4);
  });

  it('fetches a chunk once for all who want it at the same time, and hands the rest of it over once', async () => {
    const reads: Read[] = [];
    const content = await contentOf(watched(store, reads), 2);
    await content.read(0, 1, Buffer.alloc(4096));
    reads.length = 0;
    const model = chain.models.get(2);
    const extras: number[] = [];
    await Promise.all(
      Array.from({ length: 20 }, async (_, i) => {
        const into = Buffer.alloc(4096);
        await content.read(74 + i, 1, into, (first, count) => {
          for (let b = first; b < first + count; b++) extras.push(b);
        });
        expect(model?.get(74 + i)?.equals(into)).toBe(true);
      }),
    );
    expect(reads).toHaveLength(1);
    // Of the chunk of blocks 64 to 127, less the two that the delta has; the one asked for first is among them.
    expect(extras).toHaveLength(62);
    expect(extras).not.toContain(70);
  });

  it('reads each chunk once for a client that reads in order, across the borders of chunks', async () => {
    const reads: Read[] = [];
    const content = await contentOf(watched(store, reads), 1);
    await content.read(0, 1, Buffer.alloc(4096));
    const before = reads.length;
    const model = chain.models.get(1);
    const into = Buffer.alloc(24 * 4096);
    for (let first = 0; first + 24 <= 640; first += 24) {
      await content.read(first, 24, into);
      for (let i = 0; i < 24; i++) {
        expect(model?.get(first + i)?.compare(into, i * 4096, (i + 1) * 4096)).toBe(0);
      }
    }
    expect(reads.length - before).toBe(9);
  });

  it('gives the last, short block in full length', async () => {
    const last = chain.geometry.blockCount - 1;
    const bytes = chain.block(last, 'end');
    const change: Change[] = [{ first: last, blocks: [bytes] }];
    chain.apply(change);
    await chain.delta(3, 3, change);
    chain.point(3);
    await chain.publish();
    const content = await contentOf(store, 3);
    const into = Buffer.alloc(2 * 4096, 0xee);
    await content.read(last - 1, 2, into);
    expect(into.subarray(4096).equals(bytes)).toBe(true);
    expect(into.subarray(4096 + 512).every((b) => b === 0)).toBe(true);
    await expect(content.read(last, 2, into)).rejects.toThrow(/of a disk of/);
  });
});

describe('damage', () => {
  const flip = async (path: string, offset: number): Promise<void> => {
    const file = await open(path, 'r+');
    const byte = Buffer.alloc(1);
    await file.read(byte, 0, 1, offset);
    byte[0] = (byte[0] ?? 0) ^ 0xff;
    await file.write(byte, 0, 1, offset);
    await file.close();
  };

  /** A base of ten chunks whose fifth is damaged in the store. */
  async function damaged(): Promise<{
    store: ObjectStore;
    chain: Chain;
    content: PointContent;
    path: string;
    name: string;
  }> {
    const { folder, store } = await newStore();
    const chain = new Chain(store, { sizeBytes: 64 * MIB, blockBytes: 4096 });
    chain.apply([{ first: 0, blocks: Array.from({ length: 640 }, (_, i) => chain.block(i, 'x', false)) }]);
    const base = await chain.base(0, 1);
    chain.point(1);
    await chain.publish();
    const name = layerName(MACHINE, DISK, base);
    const index = await new LayerReader(store, chain.owner).index(base);
    const path = `${folder}/${name}`;
    await flip(path, (index.chunks[4]?.offset ?? 0) + 5_000);
    return { store, chain, content: await contentOf(store, 1), path, name };
  }

  it('fails who wants the bad chunk, by its name, and nobody else', async () => {
    const { chain, content, name } = await damaged();
    const bad = content.read(256, 1, Buffer.alloc(4096));
    await expect(bad).rejects.toMatchObject({ kind: 'corrupt', code: 'chunk-checksum' });
    await expect(bad).rejects.toThrow(new RegExp(`layer ${name}, chunk 4`));
    // All at the same moment, so that good chunks are fetched in one go with the bad one.
    const whole = content.read(0, 640, Buffer.alloc(640 * 4096));
    const others = [0, 1, 2, 3, 5, 6, 7, 8, 9].map(async (chunk) => {
      const into = Buffer.alloc(4096);
      await content.read(chunk * 64 + 7, 1, into);
      expect(chain.current.get(chunk * 64 + 7)?.equals(into)).toBe(true);
    });
    await expect(whole).rejects.toMatchObject({ kind: 'corrupt', code: 'chunk-checksum' });
    await Promise.all(others);
  });

  it('writes nothing into a buffer after it has failed, also not what another reader fetches', async () => {
    const { store } = await damaged();
    let slowed = 0;
    const slow = new Proxy(store, {
      get(target, key) {
        const value: unknown = Reflect.get(target, key);
        if (typeof value !== 'function') return value;
        if (key !== 'read') return value.bind(target) as unknown;
        return async (name: string, offset: number, lengthBytes: number): Promise<Buffer> => {
          const bytes = await target.read(name, offset, lengthBytes);
          // The last chunk alone.
          if (offset > 9 * 256 * 1024 && lengthBytes > 200_000 && slowed++ === 0)
            await new Promise((resolve) => setTimeout(resolve, 150));
          return bytes;
        };
      },
    });
    const content = await contentOf(slow, 1);
    await content.read(0, 1, Buffer.alloc(4096));
    const other = content.read(9 * 64, 1, Buffer.alloc(4096));
    const into = Buffer.alloc(6 * 64 * 4096);
    await expect(content.read(4 * 64, 6 * 64, into)).rejects.toMatchObject({ kind: 'corrupt' });
    into.fill(0x11);
    await other;
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(slowed).toBeGreaterThan(0);
    expect(into.every((b) => b === 0x11)).toBe(true);
  });

  it('notices a layer that is gone or longer than it was', async () => {
    const { path, content, store } = await damaged();
    await rm(path);
    // What is open is read to its end; nobody keeps it open for long.
    await store.close();
    await expect(content.read(64, 1, Buffer.alloc(4096))).rejects.toMatchObject({ code: 'layer-missing' });
    const other = await damaged();
    await rm(other.path);
    await other.store.close();
    await appendFile(other.path, 'something else');
    await expect(other.content.read(0, 1, Buffer.alloc(4096))).rejects.toMatchObject({ kind: 'corrupt' });
  });
});

describe('large disks', () => {
  it('opens 1 TiB with a little data and a trim of half of it, in little memory', async () => {
    const { store } = await newStore();
    const chain = new Chain(store, { sizeBytes: 1024 * GIB, blockBytes: 4096 });
    const { blockCount, segmentCount } = chain.geometry;
    expect(segmentCount).toBe(16_384);
    const changes: Change[] = [{ first: blockCount / 2, zeroCount: blockCount / 2 }];
    for (let i = 0; i < 500; i++) {
      const first = i * 500_003;
      changes.push({ first, blocks: [chain.block(first, 'sparse')] });
    }
    chain.apply(changes);
    await chain.delta(1, 1, changes);
    chain.point(1);
    await chain.publish();
    const startedMs = performance.now();
    const content = await contentOf(store, 1);
    process.stderr.write(`1 TiB, half trimmed: opened in ${Math.round(performance.now() - startedMs)} ms\n`);
    const into = Buffer.alloc(3 * 4096, 0xee);
    await content.read(500_003 - 1, 3, into);
    expect(into.subarray(4096, 8192).equals(chain.block(500_003, 'sparse'))).toBe(true);
    expect(into.subarray(8192).every((b) => b === 0)).toBe(true);
    const view = await MachineReader.open(store, MACHINE);
    const disk = view.diskOf(await view.findPoint({ by: 'number', number: 1 }), DISK);
    const reader = new LayerReader(store, chain.owner);
    const map = new PointMap(await planPoint(reader, disk, await view.layersFor(DISK, 1)));
    // 8 bytes per segment, and per run: 500 of data and one per trimmed segment.
    expect(map.tableBytes).toBeLessThan(8 * (2 * segmentCount + 1_000));
  });

  it('opens a chain of 300 deltas with one look at each', { timeout: 60_000 }, async () => {
    const { store } = await newStore();
    const chain = new Chain(store, { sizeBytes: 8 * GIB, blockBytes: 4096 });
    for (let p = 1; p <= 300; p++) {
      const changes = Array.from({ length: 20 }, (_, i): Change => {
        const first = (p * 7_919 + i * 100_003) % chain.geometry.blockCount;
        return { first, blocks: [chain.block(first, `point ${p}`)] };
      });
      chain.apply(changes);
      await chain.delta(p, p, changes);
      chain.point(p);
    }
    await chain.publish(270, 32);
    const reads: Read[] = [];
    const startedMs = performance.now();
    const content = await contentOf(watched(store, reads), 300);
    process.stderr.write(`300 deltas: opened in ${Math.round(performance.now() - startedMs)} ms\n`);
    expect(reads).toHaveLength(300);
    const model = chain.models.get(300);
    for (const [block, bytes] of [...(model ?? [])].slice(0, 50)) {
      const into = Buffer.alloc(4096);
      await content.read(block, 1, into);
      expect(into.equals(bytes)).toBe(true);
    }
  });
});
