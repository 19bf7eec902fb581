/**
 * A machine whose newest point lacks a disk, failed over with real volumes: not by mistake; from an older point that has the disk the chain goes on with it.
 */
import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, expect, it } from 'vitest';
import { manifestName } from '../../receiver/catalog/names.js';
import { sealJson } from '../../receiver/catalog/sealed-json.js';
import { loadHead, MachineReader } from '../../receiver/catalog/reader.js';
import { parsePointSelector } from '../../receiver/catalog/point-selector.js';
import { FailoverEngine } from '../../receiver/failover/engine.js';
import { operationRequestSchema, type OperationInput } from '../../receiver/failover/operations.js';
import type { FailoverParts } from '../../receiver/failover/parts.js';
import { realParts } from '../../receiver/failover/real-parts.js';
import { FileStore } from '../../receiver/store/file-store.js';
import { systemClock } from '../../shared/clock.js';
import { silentLogger } from '../../shared/log.js';
import { asDiskId, MIB } from '../../shared/units.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { Chain } from '../helpers/layers.js';
import { planOf, restoreTo } from '../helpers/restore.js';
import { copiesFolder, removeCopiesFolders } from './fakes.js';

removeTempFolders();
afterAll(removeCopiesFolders);

const SYSTEM = asDiskId('system');
const DATA = asDiskId('data');
const home: FailoverParts['home'] = {
  stateOf: () => null,
  finalCut: () => Promise.reject(new Error('no home')),
  resumeHome: () => Promise.resolve(),
  restore: () => Promise.reject(new Error('no home')),
  seriesAfterRestore: () => new Map(),
  disconnect: () => Promise.resolve(),
};

let store: FileStore;
let folder: string;
let system: Chain;
let data: Chain;
let engine: FailoverEngine;

/** Points 1 to 3 of both disks, 4 and 5 without the second. */
beforeEach(async () => {
  store = await FileStore.open(await tempFolder('failover-store'));
  system = new Chain(store, { sizeBytes: 8 * MIB, blockBytes: 4096, disk: SYSTEM });
  data = new Chain(store, { sizeBytes: 8 * MIB, blockBytes: 4096, disk: DATA });
  for (let point = 1; point <= 5; point++) {
    for (const chain of point <= 3 ? [system, data] : [system]) {
      const changes = [
        { first: point * 10, blocks: [chain.block(point * 10, `${chain.disk} ${point}`)] },
        { first: 5, blocks: [chain.block(5, `${chain.disk} same place ${point}`, false)] },
      ];
      chain.apply(changes);
      await chain.delta(point, point, changes);
      chain.point(point);
    }
  }
  const [one, two] = [await system.publish(), await data.publish()];
  const points = one.tail.points.map((point) => {
    const other = two.tail.points.find(({ number }) => number === point.number);
    return other === undefined ? { ...point, without: [DATA] } : { ...point, disks: [...point.disks, ...other.disks] };
  });
  const deltas = [...one.tail.deltas, ...two.tail.deltas].sort((a, b) => a.layer.lastPoint - b.layer.lastPoint);
  const disks = [...one.disks, ...two.disks.map((disk) => ({ ...disk, device: '/dev/vdb' }))];
  const manifest = { ...one, number: 2, disks, tail: { points, deltas } };
  await store.createIfAbsent(manifestName(system.machine, 2), sealJson(manifest));
  folder = copiesFolder();
  const parts = realParts({
    ...{ store, clock: systemClock, randomId: randomUUID, log: silentLogger(), home, env: process.env },
    ...{ intervalMs: 200, cacheBytesMax: null },
  });
  const receiver = { receiver: randomUUID(), receiverName: 'dr1', folder };
  engine = new FailoverEngine(parts, { ...receiver, provider: 'none', hydrate: null });
  await engine.start();
});
afterEach(() => engine.stop());

async function perform(input: OperationInput): Promise<string> {
  const job = await engine.begin(system.machine, operationRequestSchema.parse(input));
  await engine.settled(system.machine);
  const ended = await engine.job(system.machine, job.id);
  if (ended.state !== 'Succeeded') throw new Error(`${ended.operation} ${ended.state}: ${ended.error?.message ?? ''}`);
  return ended.tasks.map((t) => t.detail).join('; ');
}

/** A point of the copy itself. */
async function ownPoint(): Promise<number> {
  const until = systemClock.monotonicMs() + 30_000;
  for (;;) {
    const [copy] = (await engine.view(system.machine)).instances;
    const head = await loadHead(store, system.machine);
    if (copy?.dataAtRisk?.bytes === 0 && head !== null && head.tail.points.at(-1)?.generation === 2)
      return head.lastPoint;
    if (systemClock.monotonicMs() > until) throw new Error(`no point: ${JSON.stringify(copy)}`);
    await systemClock.sleep(50);
  }
}

async function restored(chain: Chain, point: number): Promise<Buffer> {
  const path = join(folder, `restored-${chain.disk}-${point}.img`);
  await restoreTo(await planOf(store, chain.machine, chain.disk, point), { path });
  return readFile(path);
}

function model(chain: Chain, point: number): Buffer {
  const bytes = Buffer.alloc(chain.geometry.sizeBytes);
  for (const [block, content] of chain.models.get(point) ?? []) content.copy(bytes, block * 4096);
  return bytes;
}

it.each(['failover', 'test-failover'] as const)(
  '%s to the latest point is refused, and nothing has happened',
  async (operation) => {
    await expect(perform({ operation })).rejects.toMatchObject({
      code: 'point-lacks-disk',
      exitCode: 2,
      message: expect.stringMatching(
        /^point 5 lacks disk \/dev\/vdb \(data\); the newest point with all disks is 3/,
      ) as string,
    });
    const view = await engine.view(system.machine);
    expect(view).toMatchObject({ recovery: null, generation: 1, instances: [] });
    await expect(perform({ operation, withoutDisks: ['nope'] })).rejects.toThrow(/has no disk nope/);
  },
);

it.each(['3', '2'])(
  'from point %s, which has all disks: both go on in the chain',
  { timeout: 60_000 },
  async (word) => {
    await perform({ operation: 'failover', point: word });
    const number = Number(word);
    const own = await ownPoint();
    const view = await MachineReader.open(store, system.machine);
    const point = await view.findWhole(parsePointSelector('latest'), []);
    expect(point).toMatchObject({ number: own, disks: [{ disk: SYSTEM }, { disk: DATA }] });
    expect((await restored(system, own)).equals(model(system, number))).toBe(true);
    expect((await restored(data, own)).equals(model(data, number))).toBe(true);
    // Older points are as they were.
    expect((await restored(data, 3)).equals(model(data, 3))).toBe(true);
    expect((await restored(system, 5)).equals(model(system, 5))).toBe(true);
  },
);

it('without that disk: the latest is taken, with the disks that it has', { timeout: 60_000 }, async () => {
  expect(await perform({ operation: 'failover', withoutDisks: ['/dev/vdb'] })).toMatch(
    /point 5 of .*lacks disk \/dev\/vdb/,
  );
  const [copy] = (await engine.view(system.machine)).instances;
  expect(copy?.disks.map(({ disk }) => disk)).toEqual([SYSTEM]);
});
