/**
 * Restores that compose a disk region by region: when they are made, what is written when something is bad, that they go on where they stopped, to each kind of
 * target, encrypted as well.
 */
import { spawnSync } from 'node:child_process';
import { open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { layerName } from '../../receiver/catalog/names.js';
import type { LayerRef } from '../../receiver/catalog/manifest.js';
import { openStore } from '../../receiver/store/open.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { composedLimits, composedRegions, type ComposedLimits } from '../../receiver/volume/composed-regions.js';
import { nextData } from '../../shared/native/libc.js';
import { KIB, MIB } from '../../shared/units.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { Chain, type Change } from '../helpers/layers.js';
import { between, randomOf } from '../helpers/random.js';
import { planOf, restoreTo } from '../helpers/restore.js';
import { differences } from '../helpers/restored.js';
import { agentKeySet, KeyedAgent, keysFor } from '../crypto/world.js';
import { MemoryStore } from '../helpers/memory-store.js';
import { blockBytes, DISK, GEOMETRY, MACHINE } from '../session/ingest-fixture.js';

removeTempFolders();

const ALWAYS: ComposedLimits = { runsMin: 0, runsPerTouch: 0, segments: 1 };
const BLOCK = 4 * KIB;
const SIZE = 200 * MIB + 512;

interface Aged {
  readonly folder: string;
  readonly store: ObjectStore;
  readonly chain: Chain;
  readonly deltas: LayerRef[];
}

/** Bases of three segments, and deltas with single blocks everywhere, some of them zero. */
async function aged(): Promise<Aged> {
  const folder = await tempFolder('composed');
  const store = await openStore(`file:${folder}/store`, { create: true });
  const chain = new Chain(store, { sizeBytes: SIZE, blockBytes: BLOCK });
  const random = randomOf(5);
  const first: Change[] = [];
  for (let at = 0; at + 64 <= chain.geometry.blockCount; at += 640)
    first.push({ first: at, blocks: Array.from({ length: 64 }, (_, i) => chain.block(at + i, 'first')) });
  chain.apply(first);
  for (let segment = 0; segment < 4; segment++) await chain.base(segment, 1);
  chain.point(1);
  const deltas: LayerRef[] = [];
  for (let point = 2; point <= 9; point++) {
    const blocks = new Set<number>();
    while (blocks.size < 400) blocks.add(between(random, 0, chain.geometry.blockCount));
    const changes = [...blocks]
      .sort((a, b) => a - b)
      .map((at, i): Change =>
        i % 9 === 0 ? { first: at, zeroCount: 1 } : { first: at, blocks: [chain.block(at, `point ${point}`)] },
      );
    chain.apply(changes);
    deltas.push(await chain.delta(point, point, changes));
    chain.point(point);
  }
  await chain.publish();
  return { folder, store, chain, deltas };
}

describe('composed restores', () => {
  let made: Aged;
  beforeAll(async () => (made = await aged()));
  const planned = () => planOf(made.store, made.chain.machine, made.chain.disk, 9);
  const model = () => made.chain.models.get(9) ?? new Map<number, Buffer>();

  it('are made after a long history, and not where layers have few runs in each region', async () => {
    const { plan } = await planned();
    const limits = composedLimits(8 * 1024 * MIB);
    expect(limits.segments).toBe(4);
    expect(composedLimits(512 * MIB).segments).toBe(1);
    const regions = composedRegions(plan, limits);
    expect(regions?.map(({ first, count }) => [first, count])).toEqual([[0, plan.geometry.blockCount]]);
    expect(composedRegions(plan, { ...limits, runsMin: 10_000 })).toBeNull();
    expect(composedRegions(plan, { ...limits, runsPerTouch: 1_000 })).toBeNull();
    const single = composedRegions(plan, { ...limits, segments: 1 }) ?? [];
    expect(single.map(({ first }) => first)).toEqual([0, 16_384, 32_768, 49_152]);
    for (const { units } of single) expect(new Set(units).size).toBe(units.length);
  });

  it.each([
    ['raw, sparse', 'raw', true],
    ['raw, reserved', 'raw', false],
    ['qcow2', 'qcow2', true],
  ] as const)('are exact: %s', async (name, format, sparse) => {
    const path = join(made.folder, `${name}.img`);
    await restoreTo(await planned(), { path, format, sparse, composed: ALWAYS, readBack: true });
    if (format === 'raw') expect(await differences(path, made.chain.geometry, model())).toEqual([]);
    const other = join(made.folder, `${name}.unit-by-unit`);
    await restoreTo(await planned(), { path: other, format, sparse, composed: { ...ALWAYS, runsMin: Infinity } });
    if (format === 'raw') expect((await readFile(path)).equals(await readFile(other))).toBe(true);
  });

  /** Runs with one byte of a layer's first chunk changed. */
  async function withDamage(layer: LayerRef | undefined, run: () => Promise<void>): Promise<void> {
    if (layer === undefined) throw new Error('no such layer');
    const { folder, chain } = made;
    const file = join(folder, 'store', layerName(chain.machine, chain.disk, layer));
    const whole = await readFile(file);
    const bad = Buffer.from(whole);
    bad[64 + 80] = (bad[64 + 80] ?? 0) ^ 1;
    await writeFile(file, bad);
    try {
      await run();
    } finally {
      await writeFile(file, whole);
    }
  }

  it('go on where they stopped, and only there', async () => {
    const { folder, chain } = made;
    const path = join(folder, 'stopped.raw');
    const options = { path, composed: ALWAYS, syncBytes: 1 };
    await withDamage(chain.bases[3], async () => {
      await expect(restoreTo(await planned(), options)).rejects.toMatchObject({ kind: 'corrupt' });
    });
    // Regions of another size are others: what their numbers say is not believed.
    const other = { ...ALWAYS, segments: 2 };
    await withDamage(chain.bases[0], async () => {
      await expect(restoreTo(await planned(), { ...options, composed: other })).rejects.toMatchObject({
        kind: 'corrupt',
      });
    });
    await withDamage(chain.bases[3], async () => {
      await expect(restoreTo(await planned(), options)).rejects.toMatchObject({ kind: 'corrupt' });
    });
    const result = await restoreTo(await planned(), { path, composed: ALWAYS, readBack: true });
    expect(result.keptBytes).toBeGreaterThanOrEqual(64 * MIB);
    expect(await differences(path, chain.geometry, model())).toEqual([]);
  });

  it.each(['restore.unit-written:3', 'restore.unit-recorded:1', 'restore.unit-recorded:3'])(
    'go on after kill -9 (%s)',
    async (place) => {
      const { folder, store, chain } = made;
      const path = join(folder, `${place}.raw`);
      const child = ['--import', './test/helpers/ts-loader.mjs', 'test/receiver/restore-child.ts'];
      const args = [...child, store.url, '9', path, `${path}.afterimage-restore`, '', 'raw', 'composed'];
      const env = { ...process.env, AFTERIMAGE_FAILPOINT: place };
      expect(spawnSync(process.execPath, args, { env, stdio: 'inherit' }).signal).toBe('SIGKILL');
      const result = await restoreTo(await planned(), { path, composed: ALWAYS, readBack: true });
      expect(result.keptBytes).toBeGreaterThan(0);
      expect(await differences(path, chain.geometry, model())).toEqual([]);
    },
  );

  it('write nothing of a region in which something is bad', async () => {
    const { folder, deltas } = made;
    const path = join(folder, 'bad.raw');
    // The first chunk of a delta is of the first region.
    await withDamage(deltas.at(-1), async () => {
      await expect(restoreTo(await planned(), { path, composed: ALWAYS })).rejects.toMatchObject({ kind: 'corrupt' });
    });
    const handle = await open(path);
    const data = nextData(handle.fd, 0, SIZE);
    await handle.close();
    expect(data === null || (data !== undefined && data[0] >= 64 * MIB)).toBe(true);
  });
});

it('composed of layers that the source encrypted: exact', async () => {
  const memory = new MemoryStore();
  const keys = agentKeySet();
  keysFor(memory, { files: [keys] });
  const random = randomOf(3);
  const agent = new KeyedAgent(memory, keys);
  await agent.hello(agent.helloMessage());
  await agent.firstCopy(new Map([0, 1, 2, 3, 700, 20_000, 33_000].map((n) => [n, blockBytes(random)])));
  let point = 0;
  for (let cycle = 0; cycle < 4; cycle++) {
    agent.begin();
    const blocks = Array.from({ length: 30 }, () => between(random, 0, GEOMETRY.blockCount));
    agent.data(new Map(blocks.sort((a, b) => a - b).map((n) => [n, n % 5 === 0 ? null : blockBytes(random)])));
    point = await agent.commit();
  }
  await agent.end();
  const folder = await tempFolder('composed-sealed');
  const store = await openStore(`file:${folder}/store`, { create: true });
  for (const [name, bytes] of memory.objects) if (name.startsWith('machines/')) await store.createIfAbsent(name, bytes);
  keysFor(store, { files: [keys] });
  const path = join(folder, 'image.raw');
  await restoreTo(await planOf(store, MACHINE, DISK, point), { path, composed: ALWAYS, readBack: true });
  expect(await differences(path, GEOMETRY, agent.model)).toEqual([]);
});
