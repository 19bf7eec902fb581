/**
 * Which staged layers count when a session begins: the recorded ones and those that the last epoch's owner made, in order, and no others.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import type { DiskEntry, LayerRef, Manifest } from '../../receiver/catalog/manifest.js';
import { writeLayerList } from '../../receiver/catalog/manifest-io.js';
import { layerListName, layerName } from '../../receiver/catalog/names.js';
import { byAge, keepStaged } from '../../receiver/session/staging.js';
import { openStore } from '../../receiver/store/open.js';
import type { ObjectStore } from '../../receiver/store/store.js';
import { asDiskId, MIB } from '../../shared/units.js';
import { removeTempFolders, tempFolder } from '../helpers/folders.js';
import { buildLayer } from '../helpers/layers.js';
import { randomOf } from '../helpers/random.js';
import { blockBytes, BLOCK_BYTES, chunkOf, DISK, MACHINE, SERIES } from './ingest-fixture.js';

removeTempFolders();

const random = randomOf(3);
const OTHER_DISK = asDiskId('disk1');

interface Made {
  readonly kind: 'base' | 'delta';
  readonly point: number;
  readonly segment: number | null;
  readonly epoch: number;
  readonly sequence: number;
  readonly disk?: typeof DISK;
}

async function put(store: ObjectStore, made: Made): Promise<LayerRef> {
  const { kind, point, segment, epoch, sequence, disk = DISK } = made;
  const identity = { kind, firstPoint: point, lastPoint: point, segment, epoch, sequence } as const;
  const first = (segment ?? 0) * ((64 * MIB) / BLOCK_BYTES);
  const { bytes, ref } = buildLayer(
    { ...identity, blockBytes: BLOCK_BYTES, machineId: MACHINE, diskId: disk, seriesId: SERIES },
    [chunkOf(new Map([[first, blockBytes(random)]]))],
  );
  await store.createIfAbsent(layerName(MACHINE, disk, ref), bytes);
  return ref;
}

const manifestOf = (epoch: number, lastPoint: number): Manifest => ({
  version: 1,
  number: 9,
  writeId: 'w',
  writtenAtMs: 1,
  epoch,
  epochStart: 0,
  generation: 1,
  machine: { id: MACHINE, name: 'web1', description: null },
  owner: null,
  lastPoint,
  disks: [],
  pages: [],
  tail: { points: [], deltas: [] },
});

const entryOf = (lastPoint: number, staged: DiskEntry['staged'] = null): DiskEntry => ({
  id: DISK,
  device: '/dev/vdb',
  sizeBytes: 256 * MIB,
  blockBytes: BLOCK_BYTES,
  series: SERIES,
  bases: null,
  staged,
  lastPoint,
});

describe('staged layers', () => {
  let store: ObjectStore;
  let epoch2: LayerRef[] = [];
  let recorded: LayerRef[] = [];
  beforeAll(async () => {
    store = await openStore(`file:${await tempFolder('staging')}/store`, { create: true });
    // Written out of order: names sort by segment first, age is what counts.
    const base = (segment: number, epoch: number, sequence: number): Promise<LayerRef> =>
      put(store, { kind: 'base', point: 0, segment, epoch, sequence });
    recorded = [await base(3, 1, 7), await base(0, 1, 9)];
    epoch2 = [await base(2, 2, 1), await base(1, 2, 2), await base(0, 2, 3)];
    // A catch-up sweep of a disk without a point.
    epoch2.push(await put(store, { kind: 'delta', point: 1, segment: 3, epoch: 2, sequence: 4 }));
    // None of these counts: an epoch that was fenced, a running cycle's layer, another disk.
    await base(1, 3, 1);
    await put(store, { kind: 'delta', point: 1, segment: null, epoch: 2, sequence: 5 });
    await put(store, { kind: 'base', point: 0, segment: 1, epoch: 2, sequence: 6, disk: OTHER_DISK });
  });

  it('are none when the agent knows of none, without a look at the store', async () => {
    const blind = { list: () => expect.unreachable() } as unknown as ObjectStore;
    expect(await keepStaged(blind, manifestOf(2, 0), entryOf(0), 0)).toEqual([]);
  });

  it('are those of the manifest’s epoch, oldest first', async () => {
    expect(await keepStaged(store, manifestOf(2, 0), entryOf(0), 4)).toEqual(epoch2);
    expect(await keepStaged(store, manifestOf(2, 0), entryOf(0), 2)).toEqual(epoch2.slice(0, 2));
  });

  it('begin with the recorded ones', async () => {
    const list = await writeLayerList(store, layerListName(MACHINE, DISK, 2, 99), recorded);
    const entry = entryOf(0, list);
    expect(await keepStaged(store, manifestOf(2, 0), entry, 6)).toEqual([...recorded, ...epoch2]);
    expect(await keepStaged(store, manifestOf(2, 0), entry, 3)).toEqual([...recorded, ...epoch2.slice(0, 1)]);
    expect(await keepStaged(store, manifestOf(4, 0), entry, 2)).toEqual(recorded);
    expect(await keepStaged(store, manifestOf(4, 0), entry, 3)).toBe(null);
  });

  it('are missing when the agent knows of more', async () => {
    expect(await keepStaged(store, manifestOf(2, 0), entryOf(0), 5)).toBe(null);
    expect(await keepStaged(store, manifestOf(7, 0), entryOf(0), 1)).toBe(null);
  });

  it('of a disk with points are deltas of the point to come alone', async () => {
    const later = await put(store, { kind: 'delta', point: 6, segment: 1, epoch: 2, sequence: 20 });
    await put(store, { kind: 'delta', point: 5, segment: 1, epoch: 2, sequence: 19 });
    expect(await keepStaged(store, manifestOf(2, 5), entryOf(5), 1)).toEqual([later]);
    expect(await keepStaged(store, manifestOf(2, 5), entryOf(5), 2)).toBe(null);
  });

  it('are missing when one of them is damaged: its segment has to be sent again', async () => {
    const damaged = { kind: 'delta', firstPoint: 8, lastPoint: 8, segment: 1, epoch: 3, sequence: 1 } as const;
    const name = layerName(MACHINE, DISK, { ...damaged, sizeBytes: 0, indexChecksum: '' });
    await store.createIfAbsent(name, Buffer.alloc(200, 7));
    expect(await keepStaged(store, manifestOf(3, 7), entryOf(7), 1)).toBe(null);
  });

  it('are ordered by epoch, then sequence', () => {
    const ref = (epoch: number, sequence: number): LayerRef => ({ ...recorded[0], epoch, sequence }) as LayerRef;
    const order = [ref(2, 1), ref(1, 20), ref(1, 3), ref(2, 0)].sort(byAge).map((l) => [l.epoch, l.sequence]);
    expect(order).toEqual([
      [1, 3],
      [1, 20],
      [2, 0],
      [2, 1],
    ]);
  });

  it('can’t be taken from a list that is not what the manifest names', async () => {
    const list = await writeLayerList(store, layerListName(MACHINE, DISK, 2, 100), recorded);
    await expect(
      keepStaged(store, manifestOf(2, 0), entryOf(0, { ...list, checksum: '0'.repeat(16) }), 1),
    ).rejects.toThrow('is not what its manifest names');
  });
});
