/**
 * The content of a point by random access: whatever the history, every block, run and hash is what the model says, alone and many at once.
 */
import { describe, expect, it } from 'vitest';
import { hashBlockAt } from '../../shared/blocks/hash.js';
import { openStore } from '../../receiver/store/open.js';
import { MachineReader } from '../../receiver/catalog/reader.js';
import type { PointContent } from '../../receiver/volume/content.js';
import { FETCH_BYTES_MAX } from '../../shared/limits.js';
import { bytesOfRoom, sharedRoom } from '../../receiver/volume/threads/shared-room.js';
import { IndexCache } from '../../receiver/volume/index-cache.js';
import { openPointContent } from '../../receiver/volume/point-content.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import type { Chain, Model } from '../helpers/layers.js';
import { randomChain } from '../helpers/random-chain.js';
import { between, randomOf, type Random } from '../helpers/random.js';

removeTempFolders();
const SEEDS = Number(process.env['AFTERIMAGE_SEEDS'] ?? '10');
const FIRST_SEED = Number(process.env['AFTERIMAGE_SEED'] ?? '1');

/** Where things happen: the busy beginning, borders of segments, the end, anywhere. */
function randomRange(random: Random, { geometry }: Chain): [number, number] {
  const { blockCount, blocksPerSegment } = geometry;
  const kind = random();
  const first =
    kind < 0.4
      ? between(random, 0, 230)
      : kind < 0.6
        ? blocksPerSegment * between(random, 1, geometry.segmentCount) - between(random, 0, 20)
        : kind < 0.75
          ? blockCount - 1 - between(random, 0, 60)
          : between(random, 0, blockCount);
  const wish = random() < 0.1 ? between(random, 1, 2_000) : between(random, 1, 90);
  return [first, Math.min(wish, blockCount - first)];
}

function expectBlocks(chain: Chain, model: Model, first: number, count: number, bytes: Buffer): void {
  const { blockBytes } = chain.geometry;
  const zeroes = Buffer.alloc(blockBytes);
  const wrong: number[] = [];
  for (let i = 0; i < count; i++) {
    const expected = model.get(first + i) ?? zeroes;
    if (expected.compare(bytes, i * blockBytes, (i + 1) * blockBytes) !== 0) wrong.push(first + i);
  }
  expect(wrong).toEqual([]);
}

/** Reads a range and checks it and all that came along; returns the blocks that came along. */
async function checkRead(chain: Chain, model: Model, content: PointContent, random: Random): Promise<number> {
  const [first, count] = randomRange(random, chain);
  const into = Buffer.alloc(count * chain.geometry.blockBytes, 0xee);
  const extras = new Set<number>();
  await content.read(first, count, into, (from, n, plain) => {
    expectBlocks(chain, model, from, n, plain);
    expect(plain.length).toBe(n * chain.geometry.blockBytes);
    // Only runs of which more came along than was asked for, each block once.
    expect(from < first || from + n > first + count).toBe(true);
    for (let b = from; b < from + n; b++) {
      expect(extras.has(b)).toBe(false);
      extras.add(b);
    }
  });
  expectBlocks(chain, model, first, count, into);
  return extras.size;
}

const room = sharedRoom(FETCH_BYTES_MAX);
const NOT_WRITTEN = 0xee;

/** The same by threads, one at a time; nothing beside the range is touched. */
async function checkBeside(chain: Chain, model: Model, content: PointContent, random: Random): Promise<void> {
  const { blockBytes } = chain.geometry;
  const [first, wish] = randomRange(random, chain);
  const count = Math.min(wish, FETCH_BYTES_MAX / blockBytes);
  const offset = blockBytes * between(random, 0, FETCH_BYTES_MAX / blockBytes - count + 1);
  const bytes = bytesOfRoom(room).fill(NOT_WRITTEN);
  expect(await content.readBeside?.(first, count, room, offset)).toBe(true);
  const end = offset + count * blockBytes;
  expectBlocks(chain, model, first, count, bytes.subarray(offset, end));
  for (const rest of [bytes.subarray(0, offset), bytes.subarray(end)])
    expect(rest.every((byte) => byte === NOT_WRITTEN)).toBe(true);
}

async function checkRuns(chain: Chain, model: Model, content: PointContent, random: Random): Promise<void> {
  const [first, count] = randomRange(random, chain);
  let at = first;
  let before: boolean | undefined;
  for (const run of await content.runs(first, count)) {
    expect(run.first).toBe(at);
    expect(run.count).toBeGreaterThan(0);
    expect(run.zero).not.toBe(before);
    for (let b = run.first; b < run.first + run.count; b++) {
      const bytes = model.get(b);
      const zero = bytes === undefined || hashBlockAt(bytes, 0, bytes.length, b) === 0n;
      if (zero !== run.zero) throw new Error(`block ${b} is ${zero ? 'zero' : 'data'}, its run says otherwise`);
    }
    before = run.zero;
    at += run.count;
  }
  expect(at).toBe(first + count);
}

async function checkHashes(chain: Chain, model: Model, content: PointContent, random: Random): Promise<void> {
  const [first, count] = randomRange(random, chain);
  const hashes = await content.hashes(first, count);
  expect(hashes.length).toBe(count);
  for (let i = 0; i < count; i++) {
    const bytes = model.get(first + i);
    const expected = bytes === undefined ? 0n : hashBlockAt(bytes, 0, bytes.length, first + i);
    if (hashes[i] !== expected) throw new Error(`hash of block ${first + i} is ${String(hashes[i])}`);
  }
}

describe('content of random histories', () => {
  for (let seed = FIRST_SEED; seed < FIRST_SEED + SEEDS; seed++) {
    it(`is exact at every point (seed ${seed})`, async () => {
      const random = randomOf(seed * 7919);
      const store = await openStore(`file:${await tempFolder('content')}/store`, { create: true });
      const chain = await randomChain(store, seed);
      await chain.publish(seed % 2 === 0 ? 4 : 0, 2);
      const view = await MachineReader.open(store, chain.machine);
      // Sometimes so small that every index has to be loaded again.
      const cache = new IndexCache(seed % 3 === 0 ? 1 : undefined);
      let extras = 0;
      for (const [number, model] of chain.models) {
        const point = await view.findPoint({ by: 'number', number });
        const content = await openPointContent(store, view, point, view.diskOf(point, chain.disk), cache);
        expect(content.geometry).toEqual(chain.geometry);
        for (let round = 0; round < 4; round++) {
          const many = Array.from({ length: 8 }, () => checkRead(chain, model, content, random));
          for (const n of await Promise.all(many)) extras += n;
          await checkBeside(chain, model, content, random);
          await checkRuns(chain, model, content, random);
          await checkHashes(chain, model, content, random);
        }
      }
      expect(extras).toBeGreaterThan(0);
    });
  }
});
