/**
 * Replication of a running copy: each point restores to what all its volumes held at one instant, and costs what differs.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { systemClock, type Clock } from '../../shared/clock.js';
import { silentLogger } from '../../shared/log.js';
import { IDLE_POINT_INTERVAL_MS, LAYER_BLOCKS_MAX, MANIFEST_TAIL_POINTS_MAX } from '../../shared/limits.js';
import { asDiskId } from '../../shared/units.js';
import { resumeGeneration } from '../../receiver/catalog/generation.js';
import type { OwnedMachine } from '../../receiver/catalog/owned-machine.js';
import { MachineReader } from '../../receiver/catalog/reader.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { DeltaWriter } from '../../receiver/volume/delta-writer.js';
import { LayerReader } from '../../receiver/volume/layer-reader.js';
import { VolumeReplicator } from '../../receiver/volume/replicate.js';
import { removeTempFolders } from '../helpers/folders.js';
import { randomOf } from '../helpers/random.js';
import {
  blockOf,
  catalogDeps,
  Copy,
  digestOf,
  MACHINE,
  newMachine,
  newStore,
  pointNumbers,
  referenceOf,
} from './replicate-fixture.js';

removeTempFolders();

interface World {
  readonly store: ObjectStore;
  readonly owned: OwnedMachine;
  readonly copy: Copy;
}

async function world(options: Parameters<typeof Copy.start>[3] = {}): Promise<World> {
  const store = await newStore();
  const contents = await newMachine(store);
  const owned = await resumeGeneration(catalogDeps(store), MACHINE, 1);
  return { store, owned, copy: await Copy.start(store, owned, contents, options) };
}

test('a point is what the volumes held at the cut, to the last byte, with its reason and figures', async () => {
  const { store, owned, copy } = await world();
  const { geometry } = copy.source(0);
  copy.source(0).set(0, blockOf(geometry, 77));
  copy.source(0).set(3, blockOf(geometry, 0));
  copy.source(0).set(geometry.blockCount - 1, blockOf(geometry, 78));
  expect(copy.replicator.status).toMatchObject({ lastPoint: 1, pendingBytes: 3 * 4096, points: 0, problem: null });
  const point = await copy.replicator.pointNow('volume of failover');
  expect(await copy.wrongAt(store, point.number)).toEqual([]);
  expect(point).toMatchObject({ number: 2, generation: 1, consistency: 'crash', reason: 'volume of failover' });
  expect(point.stats).toMatchObject({ passes: 1, freezeMs: 0, changedBytes: 3 * 4096 });
  expect(owned.manifest.disks.map((d) => d.lastPoint)).toEqual([2, 2]);
  expect(owned.manifest.tail.deltas.map((d) => d.disk)).toEqual(['disk0']);
  expect(copy.replicator.status).toMatchObject({
    lastPoint: 2,
    pendingBytes: 0,
    points: 1,
    sentBlocks: 3,
    readBlocks: 3,
  });
  expect(copy.replicator.status.storedBytes).toBe(owned.manifest.tail.deltas[0]?.layer.sizeBytes);
});

test('what was rewritten with the same content, zeroes included, is not stored', async () => {
  const { store, owned, copy } = await world();
  const { geometry } = copy.source(0);
  for (let block = 0; block < geometry.blockCount; block++)
    copy.source(0).set(block, Buffer.from(copy.source(0).bytes.subarray(block * geometry.blockBytes)));
  const same = await copy.replicator.pointNow();
  expect(same.stats).toMatchObject({ changedBytes: 0, storedBytes: 0 });
  expect(owned.manifest.tail.deltas).toEqual([]);
  expect(copy.replicator.status).toMatchObject({ sentBlocks: 0, readBlocks: geometry.blockCount });
  // The same against what this replicator has committed itself, from data to zero and back.
  copy.source(0).set(9, blockOf(geometry, 5));
  copy.source(0).set(12, blockOf(geometry, 0));
  await copy.replicator.pointNow();
  copy.source(0).set(9, blockOf(geometry, 5));
  copy.source(0).set(12, blockOf(geometry, 0));
  const again = await copy.replicator.pointNow();
  expect(again.stats.storedBytes).toBe(0);
  expect(copy.replicator.status.sentBlocks).toBe(2);
  expect(await copy.wrongAt(store, again.number)).toEqual([]);
});

test('nothing written: the newest point is the answer, unless one is wanted all the same', async () => {
  const { copy } = await world();
  expect((await copy.replicator.pointNow()).number).toBe(1);
  expect(copy.source(0).images).toHaveLength(0);
  const wanted = await copy.replicator.pointNow('before failback', true);
  expect(wanted).toMatchObject({ number: 2, reason: 'before failback', stats: { storedBytes: 0 } });
});

test('a guest that writes during a cycle: its writes are in the next point, and none is missed', async () => {
  const { store, copy } = await world();
  const random = randomOf(11);
  let writing = true;
  for (const source of copy.sources)
    source.onRead = () => {
      if (writing) copy.scribble(random, 3);
      return Promise.resolve();
    };
  copy.scribble(random, 150);
  for (let i = 0; i < 5; i++) {
    const point = await copy.replicator.pointNow();
    expect(await copy.wrongAt(store, point.number)).toEqual([]);
    expect(copy.replicator.status.pendingBytes).toBeGreaterThan(0);
  }
  writing = false;
  const last = await copy.replicator.pointNow();
  for (const source of copy.sources) expect(source.images.at(-1)?.equals(source.bytes)).toBe(true);
  expect(await copy.wrongAt(store, last.number)).toEqual([]);
});

test('all disks at one instant: what is written to the second after the first is never there without it', async () => {
  const { store, copy } = await world();
  const [first, second] = [copy.source(0), copy.source(1)];
  // Holding takes a while, differently for each volume; the writer is awake all the time.
  first.onHold = () => sleep(1);
  second.onHold = () => sleep(4);
  const stop = new AbortController();
  const writer = (async () => {
    for (let n = 1; !stop.signal.aborted; n++) {
      await first.write(5, blockOf(first.geometry, n));
      await second.write(5, blockOf(second.geometry, n));
      await new Promise((resolve) => setImmediate(resolve));
    }
  })();
  const run = copy.replicator.run(stop.signal);
  while (copy.replicator.status.points < 12) await sleep(5);
  stop.abort();
  await Promise.all([run, writer]);
  const value = (image: Buffer | undefined, blockBytes: number) => image?.readDoubleLE(5 * blockBytes) ?? NaN;
  for (const [i, image] of first.images.entries()) {
    const a = value(image, first.geometry.blockBytes);
    const b = value(second.images[i], second.geometry.blockBytes);
    // Either a pair, or the first of one that the cut came between.
    if (i > 0) expect([0, 1]).toContain(a - b);
  }
  expect(await copy.wrongAt(store, (await copy.replicator.pointNow('end', true)).number)).toEqual([]);
  expect(first.openCuts + second.openCuts).toBe(0);
});

test.each([1, 2, 3])(
  'random model over many cycles, with little room for hashes and into history pages (seed %i)',
  async (seed) => {
    const { store, owned, copy } = await world({ hashesMax: seed === 1 ? 1 << 20 : 60 });
    const random = randomOf(seed);
    const cycles = seed === 1 ? MANIFEST_TAIL_POINTS_MAX + 6 : 20;
    const digests = new Map<number, string[]>([[1, []]]);
    for (let i = 0; i < cycles; i++) {
      const writes = random() < 0.2 ? 200 : Math.floor(random() * 12);
      copy.scribble(random, writes);
      const point = await copy.replicator.pointNow('model', true);
      digests.set(
        point.number,
        copy.sources.map((s) => digestOf(s.geometry, s.images.at(-1) ?? Buffer.alloc(0))),
      );
      if (i % 10 === 0) expect(await copy.wrongAt(store, point.number)).toEqual([]);
    }
    expect(await pointNumbers(store)).toEqual([...digests.keys()]);
    expect(owned.manifest.pages.length).toBe(seed === 1 ? 1 : 0);
    if (seed === 1) expect(copy.reopened).toBe(0);
    else expect(copy.reopened).toBeGreaterThan(3);
    for await (const point of (await MachineReader.open(store, MACHINE)).points())
      if (point.number > 1) expect(point.disks.map((d) => d.digest)).toEqual(digests.get(point.number));
    // Old points still are what they were.
    const image = Math.floor(cycles / 2);
    expect(await copy.wrongAt(store, image + 2, image)).toEqual([]);
  },
);

test('a reference that can not be opened again fails the cycle and nothing else', async () => {
  const { store, copy } = await world({ hashesMax: 4 });
  copy.scribble(randomOf(5), 40);
  await copy.replicator.pointNow();
  // From now on the chain can't be read, for a while.
  const get = store.read.bind(store);
  store.read = () => Promise.reject(new Error('test: unreadable'));
  copy.scribble(randomOf(6), 40);
  await expect(copy.replicator.pointNow()).rejects.toThrow('unreadable');
  expect(copy.replicator.status.problem).toContain('unreadable');
  store.read = get;
  const point = await copy.replicator.pointNow();
  expect(copy.replicator.status.problem).toBeNull();
  expect(await copy.wrongAt(store, point.number)).toEqual([]);
});

test('aborted between two batches: the cut is given back, nothing is listed, the next point has it all', async () => {
  const { store, copy } = await world();
  for (let block = 0; block < 500; block++) copy.source(0).set(block, blockOf(copy.source(0).geometry, block + 9));
  const stop = new AbortController();
  let reads = 0;
  copy.source(0).onRead = () => {
    if (++reads === 2) stop.abort();
    return Promise.resolve();
  };
  await copy.replicator.run(stop.signal);
  expect(reads).toBeLessThan(500 / 64);
  expect(await pointNumbers(store)).toEqual([1]);
  expect(copy.replicator.status).toMatchObject({ problem: null, pendingBytes: 500 * 4096 });
  expect(copy.source(0).openCuts).toBe(0);
  expect(await copy.wrongAt(store, (await copy.replicator.pointNow()).number)).toEqual([]);
});

test('run(): a point now and then even when nothing changes; between them nothing', async () => {
  let nowMs = 0;
  let sleeps = 0;
  const stop = new AbortController();
  const clock: Clock = {
    nowMs: () => nowMs,
    monotonicMs: () => nowMs,
    sleep: async (ms) => {
      if (ms === 1_000) {
        nowMs += ms;
        if (++sleeps > 2 * (IDLE_POINT_INTERVAL_MS / 1_000) + 5) stop.abort();
      } else await new Promise(() => undefined);
    },
  };
  const { store, owned, copy } = await world();
  const volumes = await Promise.all(
    copy.sources.map(async (source) => ({
      source,
      reference: await referenceOf(store, source.disk, 1),
      reopenReference: () => Promise.reject(new Error('not needed')),
      device: 'memory',
    })),
  );
  const deps = { ...catalogDeps(store), clock, log: silentLogger() };
  await new VolumeReplicator(deps, { owned, volumes, intervalMs: 1_000, reason: 'idle' }).run(stop.signal);
  expect(await pointNumbers(store)).toEqual([1, 2, 3]);
});

test('writes that do not end: no cut, every volume goes on, and the next try has its point', async () => {
  const { store, owned, copy } = await world();
  copy.scribble(randomOf(3), 10);
  copy.source(1).onHold = () => new Promise(() => undefined);
  const impatient: Clock = { ...systemClock, sleep: (_ms, signal) => systemClock.sleep(20, signal) };
  const volumes = await Promise.all(
    copy.sources.map(async (source) => ({
      source,
      reference: await referenceOf(store, source.disk, 1),
      reopenReference: () => Promise.reject(new Error('not needed')),
      device: 'memory',
    })),
  );
  const deps = { ...catalogDeps(store), clock: impatient, log: silentLogger() };
  const replicator = new VolumeReplicator(deps, { owned, volumes, intervalMs: 1_000, reason: 'stuck' });
  await expect(replicator.pointNow()).rejects.toMatchObject({ code: 'cut-hold-timeout' });
  expect(copy.sources.map((s) => s.isHeld)).toEqual([false, false]);
  expect(replicator.status.problem).toContain('no cut was taken');
  copy.source(1).onHold = () => Promise.resolve();
  expect(await copy.wrongAt(store, (await replicator.pointNow()).number)).toEqual([]);
});

test('refused: a disk without a volume, one too many, one twice, one of another size', async () => {
  const { store, owned, copy } = await world();
  const volumes = await Promise.all(
    copy.sources.map(async (source) => ({
      source,
      reference: await referenceOf(store, source.disk, 1),
      reopenReference: () => Promise.reject(new Error('not needed')),
      device: 'memory',
    })),
  );
  const [a, b] = volumes;
  if (a === undefined || b === undefined) throw new Error('two volumes');
  const deps = { ...catalogDeps(store), log: silentLogger() };
  const make = (given: typeof volumes) =>
    new VolumeReplicator(deps, { owned, volumes: given, intervalMs: 1_000, reason: 'test' });
  const stranger = { ...a, source: Object.assign(Object.create(a.source) as typeof a.source, { disk: asDiskId('x') }) };
  const resized = { ...b, reference: { ...b.reference, geometry: a.reference.geometry } };
  for (const wrong of [[a], [], [a, b, stranger], [a, a, b], [a, resized]])
    expect(() => make(wrong)).toThrow(expect.objectContaining({ code: 'volumes-differ', kind: 'refused' }) as Error);
  expect(() => make([b, a])).not.toThrow();
});

test('a delta that outgrows one layer goes on in the next, in order', async () => {
  const store = await newStore();
  let sequence = 0;
  const identity = () => ({
    kind: 'delta' as const,
    blockBytes: 4096,
    segment: null,
    firstPoint: 2,
    lastPoint: 2,
    epoch: 1,
    sequence: ++sequence,
    machineId: MACHINE,
    diskId: 'disk0',
    seriesId: '',
  });
  const writer = new DeltaWriter(store, 4096, identity);
  const blocks = LAYER_BLOCKS_MAX + 1000;
  for (let i = 0; i < blocks; i++) await writer.addZero(i * 2);
  const layers = await writer.finish();
  expect(layers.map((l) => l.sequence)).toEqual([1, 2]);
  const reader = new LayerReader(store, { machine: MACHINE, disk: asDiskId('disk0'), blockBytes: 4096 });
  let next = 0;
  for (const layer of layers) for (const first of (await reader.index(layer)).first) expect(first).toBe(2 * next++);
  expect(next).toBe(blocks);
});
