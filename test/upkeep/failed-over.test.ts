/**
 * Upkeep beside a copy of the machine that runs in the recovery site: what is merged away is deleted, the copy reads the point that it began with, and its
 * points go on, each one sound.
 */
import { randomUUID } from 'node:crypto';
import { expect, it } from 'vitest';
import { MachineReader } from '../../receiver/catalog/reader.js';
import { initialRecovery, type Instance } from '../../receiver/catalog/recovery.js';
import { writeRecovery } from '../../receiver/catalog/recovery-io.js';
import type { PointContent } from '../../receiver/volume/content.js';
import { IndexCache } from '../../receiver/volume/index-cache.js';
import { LastingPoint } from '../../receiver/volume/lasting-point.js';
import { openPointContent } from '../../receiver/volume/point-content.js';
import { VolumeReplicator } from '../../receiver/volume/replicate.js';
import { silentLogger } from '../../shared/log.js';
import { MIB } from '../../shared/units.js';
import { MACHINE } from '../helpers/layers.js';
import { ManualClock } from '../helpers/manual-clock.js';
import { MemoryCutSource } from '../helpers/memory-cut-source.js';
import { MemoryStore } from '../helpers/memory-store.js';
import { between, randomOf } from '../helpers/random.js';
import { blockOf, randomWrites, World, type TestDisk } from './world.js';

const MINUTE = 60_000;
const BLOCK = 4096;

const instance = (point: number): Instance => ({
  id: randomUUID(),
  kind: 'failover',
  receiver: randomUUID(),
  receiverName: 'dr1',
  provider: 'none',
  point,
  generation: 1,
  createdAtMs: 1,
  settings: {},
  disks: [],
  bootCheck: null,
  rtoMs: null,
});

function bytesOf(disk: TestDisk): Buffer {
  const bytes = Buffer.alloc(disk.geometry.blockCount * BLOCK);
  for (const [block, value] of disk.now) blockOf(BLOCK, value).copy(bytes, block * BLOCK);
  return bytes;
}

it('deletes what a failed-over machine needs no more, and nothing that its copy does', async () => {
  const random = randomOf(11);
  const store = new MemoryStore();
  const world = new World(store);
  world.deletionDelayMs = MINUTE;
  world.policy = { tiers: [{ everyMs: 30 * MINUTE, upToMs: 600 * MINUTE }], applicationTiers: [] };
  await world.takeOver();
  const disk = world.addDisk('disk0', MIB, BLOCK);
  for (let i = 0; i < 40; i++) {
    world.clock.ms += MINUTE;
    await world.point(new Map([[disk, randomWrites(disk, random)]]));
  }
  const began = world.owned.manifest.lastPoint;
  const atBegin = bytesOf(disk);
  const clock = new ManualClock(world.clock.ms);
  const deps = { store, clock, randomId: randomUUID };
  await writeRecovery(deps, null, { ...initialRecovery(MACHINE, 1), failover: instance(began) });

  // As a copy does: what it stands on is pinned, what it compares with is not. Nothing is kept in memory.
  const openContent = (view: MachineReader, number: number): Promise<PointContent> =>
    view
      .findPoint({ by: 'number', number })
      .then((point) => openPointContent(store, view, point, view.diskOf(point, disk.id), new IndexCache(0)));
  const selector = { by: 'number', number: began } as const;
  const base = await LastingPoint.open(
    { ...deps, log: silentLogger(), openContent: (view, point) => openContent(view, point.number) },
    MACHINE,
    selector,
    'failover',
  );
  const content = await base.content(disk.id);
  const source = new MemoryCutSource(disk.id, disk.geometry, atBegin);
  const reference = await openContent(await MachineReader.open(store, MACHINE), began);
  const reopenReference = async (point: number): Promise<PointContent> =>
    openContent(await MachineReader.open(store, MACHINE), point);
  const replicator = new VolumeReplicator(
    { ...deps, log: silentLogger() },
    {
      owned: world.owned,
      volumes: [{ source, reference, reopenReference, device: 'memory' }],
      intervalMs: 5,
      // So few that it compares with a point which upkeep may thin out, from the second round on.
      hashesMax: 100,
      reason: 'test',
    },
  );

  // By point, from the one that the copy began with on.
  const images = new Map<number, Buffer>([[began, atBegin]]);
  let deletedObjects = 0;
  for (let round = 0; round < 12; round++) {
    for (let i = 0; i < 10; i++) {
      world.clock.ms += MINUTE;
      await clock.pass(MINUTE);
      for (let n = 0; n < 4; n++)
        source.set(between(random, 0, disk.geometry.blockCount), blockOf(BLOCK, between(random, 1, 2 ** 31)));
      const point = await replicator.pointNow();
      images.set(point.number, Buffer.from(source.bytes));
    }
    const results = await world.upkeep.run(world.owned, new AbortController().signal);
    expect(results.flatMap((r) => r.problem ?? [])).toEqual([]);
    deletedObjects += results.reduce((sum, r) => sum + r.deletedObjects, 0);
    const read = Buffer.alloc(atBegin.length);
    await content.read(0, disk.geometry.blockCount, read);
    expect(read.equals(atBegin)).toBe(true);
  }
  expect(deletedObjects).toBeGreaterThan(100);
  const layers = [...store.objects.keys()].filter((name) => /\/(delta|base)\//.test(name));
  expect(layers.length).toBeLessThan(80);
  const listed = await world.listed();
  expect(listed).toContain(began);
  const view = await MachineReader.open(store, MACHINE);
  for (const number of listed) {
    const image = images.get(number);
    if (image === undefined) continue;
    const read = Buffer.alloc(image.length);
    await (await openContent(view, number)).read(0, disk.geometry.blockCount, read);
    expect(read.equals(image), `point ${number}`).toBe(true);
  }
  await base.release();
});
