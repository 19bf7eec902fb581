/** What the store costs: memory is asserted, times are reported (machines differ). */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { HashStore } from '../../agent/cycle/hash-store/store.js';
import { geometryOf } from '../../shared/blocks/geometry.js';
import { systemClock } from '../../shared/clock.js';
import { BULK_BLOCKS_MIN } from '../../shared/limits.js';
import { GIB, KIB, MIB, TIB, asPoint } from '../../shared/units.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { disk } from './model.js';
import { Random } from './random.js';

removeTempFolders();

async function openZero(sizeBytes: number): Promise<{ store: HashStore; folder: string; blockCount: number }> {
  const folder = await tempFolder('hash-store-cost');
  const geometry = geometryOf(sizeBytes, 4 * KIB);
  const options = { dir: folder, disk, geometry, bootId: 'boot', clock: systemClock, syncJournal: true };
  const { store } = await HashStore.open(options);
  await store.reset({ hashes: 'zero', point: asPoint(0), committedSeries: null, reason: 'test' });
  return { store, folder, blockCount: geometry.blockCount };
}

function scattered(random: Random, blockCount: number, length: number) {
  const blocks = new Uint32Array(length);
  for (let i = 0; i < length; i++) blocks[i] = random.below(blockCount);
  return { blocks, hashes: random.hashes(length), length };
}

async function timed(work: () => Promise<unknown>): Promise<{ ms: number; blockedMs: number }> {
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  const start = performance.now();
  await work();
  const ms = performance.now() - start;
  await new Promise((resolve) => setTimeout(resolve, 5));
  delay.disable();
  return { ms, blockedMs: delay.max / 1e6 };
}

const shown = ({ ms, blockedMs }: { ms: number; blockedMs: number }): string =>
  `${ms.toFixed(1)} ms (event loop held for at most ${blockedMs.toFixed(1)} ms)`;

test('a sparse disk of 1 TiB costs 9 bytes of memory per segment', async () => {
  const random = new Random(1);
  globalThis.gc?.();
  const before = process.memoryUsage();
  const { store, folder, blockCount } = await openZero(TIB);
  for (let cycle = 1; cycle <= 20; cycle++) {
    const id = random.uuid();
    await store.prepare(id, scattered(random, blockCount, 1000));
    await store.commit(id, asPoint(cycle), null);
  }
  await store.checkpoint();
  globalThis.gc?.();
  const after = process.memoryUsage();
  const rssBytes = after.rss - before.rss;
  const hashes = (await readdir(folder)).find((name) => name.startsWith('hashes')) ?? '';
  const { size, blocks } = await stat(join(folder, hashes));
  console.info(
    `hash store, 1 TiB: rss +${(rssBytes / MIB).toFixed(1)} MiB, file ${size / GIB} GiB of which ${((blocks * 512) / MIB).toFixed(1)} MiB stored`,
  );
  expect(rssBytes).toBeLessThan(64 * MIB);
  expect(size).toBe(2 * GIB);
  expect(blocks * 512).toBeLessThan(128 * MIB);
  await store.close();
}, 60_000);

test('times of a disk of 64 GiB', async () => {
  const random = new Random(2);
  const { store, blockCount } = await openZero(64 * GIB);
  const segment = random.hashes(16_384);
  for (let s = 0; s < 1024; s++) {
    segment[s] = random.hash();
    await store.replaceSegment(s, segment, 'take');
  }
  await store.checkpoint();
  const lines: string[] = [];
  const sizes: [string, number][] = [
    ['small cycle, 100 blocks', 100],
    ['25,000 random blocks', 25_000],
    ['largest cycle, 262,144 random blocks', BULK_BLOCKS_MIN],
  ];
  for (const [name, length] of sizes) {
    const entries = scattered(random, blockCount, length);
    const out = new BigUint64Array(length);
    const id = random.uuid();
    for (let round = 0; round < 2; round++) await store.lookup(entries.blocks, length, out);
    lines.push(`${name}: lookup ${shown(await timed(() => store.lookup(entries.blocks, length, out)))}`);
    lines.push(`${name}: prepare ${shown(await timed(() => store.prepare(id, entries)))}`);
    lines.push(`${name}: commit ${shown(await timed(() => store.commit(id, asPoint(length), null)))}`);
  }
  lines.push(`checkpoint ${shown(await timed(() => store.checkpoint()))}`);
  console.info(['hash store, 64 GiB:', ...lines].join('\n  '));
  await store.close();
}, 120_000);
