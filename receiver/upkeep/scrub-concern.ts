/**
 * What a damaged object means: which points can't be restored without it, and which blocks of the newest point. Reads the catalog and indexes, no
 * data; a page or index that is broken itself makes the answer larger, never smaller.
 */
import { BlockSet } from '../../shared/blocks/block-set.js';
import { geometryOf, segmentBlocks, type Geometry } from '../../shared/blocks/geometry.js';
import { AfterimageError } from '../../shared/errors.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import type { DiskId } from '../../shared/units.js';
import type { PointRange } from '../catalog/damage.js';
import type { History, LayerRef, Manifest, RecoveryPoint } from '../catalog/manifest.js';
import { readHistoryPage, readLayerList } from '../catalog/manifest-io.js';
import type { ObjectStore } from '../store/store.js';
import { IndexCache } from '../volume/index-cache.js';
import { LayerReader } from '../volume/layer-reader.js';
import { compareLayers } from '../volume/read-plan.js';

/** The catalog of one disk as far as it can be read. */
export interface ReadableCatalog {
  readonly points: readonly RecoveryPoint[];
  /** Of the disk, oldest first. */
  readonly layers: readonly LayerRef[];
  /** Nothing of it was broken. */
  readonly isWhole: boolean;
}

export async function readableCatalog(store: ObjectStore, manifest: Manifest, disk: DiskId): Promise<ReadableCatalog> {
  let isWhole = true;
  const orNothing = async <T>(read: () => Promise<T>): Promise<T | null> => {
    try {
      return await read();
    } catch (error) {
      if (!isCorrupt(error)) throw error;
      isWhole = false;
      return null;
    }
  };
  const points: RecoveryPoint[] = [];
  const layers: LayerRef[] = [];
  const take = (history: History): void => {
    points.push(...history.points);
    for (const entry of history.deltas) if (entry.disk === disk) layers.push(entry.layer);
  };
  const list = manifest.disks.find((d) => d.id === disk)?.bases ?? null;
  if (list !== null) layers.push(...((await orNothing(() => readLayerList(store, list))) ?? []));
  for (const page of manifest.pages) {
    const history = await orNothing(() => readHistoryPage(store, page));
    if (history !== null) take(history);
  }
  take(manifest.tail);
  return { points, layers: layers.sort(compareLayers), isWhole };
}

export const isCorrupt = (error: unknown): boolean => error instanceof AfterimageError && error.kind === 'corrupt';

export interface Concern {
  readonly points: PointRange[];
  /** Bad blocks that the newest point has from this layer. */
  readonly newest: BlockSet;
}

export interface DamagedLayer {
  readonly disk: DiskId;
  readonly layer: LayerRef;
  /** Null: nothing of it can be planned with, as its index is bad. */
  readonly extents: readonly (readonly [number, number])[] | null;
}

export async function concernOfLayer(store: ObjectStore, manifest: Manifest, bad: DamagedLayer): Promise<Concern> {
  const entry = manifest.disks.find((d) => d.id === bad.disk);
  if (entry === undefined) return { points: [], newest: new BlockSet() };
  const geometry = geometryOf(entry.sizeBytes, entry.blockBytes);
  const reader = new LayerReader(
    store,
    { machine: manifest.machine.id, disk: bad.disk, blockBytes: entry.blockBytes },
    new IndexCache(),
  );
  const catalog = await readableCatalog(store, manifest, bad.disk);
  const later = catalog.layers.filter((layer) => compareLayers(layer, bad.layer) > 0);
  const newest = badBlocks(geometry, bad);
  // A layer whose index is gone stands in the way of every plan that has to look at it, whatever it held: only bases make it superfluous.
  const needed = newest.clone();
  const concerned: RecoveryPoint[] = [];
  let at = 0;
  const advance = async (point: number): Promise<void> => {
    for (; at < later.length; at++) {
      const layer = later[at];
      if (layer === undefined || layer.lastPoint > point) return;
      const covers = await coverageOf(reader, geometry, layer);
      remove(newest, covers);
      if (layer.kind === 'base' || bad.extents !== null) remove(needed, covers);
    }
  };
  let isOver = false;
  for (const point of catalog.points) {
    if (point.number < bad.layer.lastPoint || !point.disks.some((d) => d.disk === bad.disk)) continue;
    await advance(point.number);
    if (needed.isEmpty) {
      isOver = true;
      break;
    }
    concerned.push(point);
  }
  await advance(manifest.lastPoint);
  const first = concerned[0];
  const last = concerned.at(-1);
  if (first === undefined || last === undefined) return { points: [], newest };
  return {
    points: [
      {
        first: first.number,
        last: isOver ? last.number : null,
        firstCutAtMs: first.cutAtMs,
        lastCutAtMs: isOver ? last.cutAtMs : null,
      },
    ],
    newest,
  };
}

function badBlocks(geometry: Geometry, { layer, extents }: DamagedLayer): BlockSet {
  const blocks = new BlockSet();
  if (extents !== null) for (const [first, count] of extents) blocks.addRange(first, count);
  else if (layer.segment === null) blocks.addRange(0, geometry.blockCount);
  else if (layer.segment < geometry.segmentCount) {
    const { first, count } = segmentBlocks(geometry, layer.segment);
    blocks.addRange(first, count);
  }
  return blocks;
}

/** Runs of blocks that a layer has; nothing when its index can't be read. */
export async function coverageOf(
  reader: LayerReader,
  geometry: Geometry,
  layer: LayerRef,
): Promise<(readonly [number, number])[]> {
  if (layer.kind === 'base') {
    if (layer.segment === null || layer.segment >= geometry.segmentCount) return [];
    const { first, count } = segmentBlocks(geometry, layer.segment);
    return [[first, count]];
  }
  const index = await extentsOrNull(reader, layer);
  if (index === null) return [];
  return Array.from(index.first, (first, i) => [first, index.count[i] ?? 0] as const);
}

/** Null: the index is broken, or lost. */
export async function extentsOrNull(
  reader: LayerReader,
  layer: LayerRef,
): Promise<Pick<LayerIndex, 'first' | 'count'> | null> {
  try {
    return await reader.extents(layer);
  } catch (error) {
    if (isCorrupt(error)) return null;
    throw error;
  }
}

/** Null: the index is broken, lost, or of a key that isn't at hand. */
export async function indexOrNull(reader: LayerReader, layer: LayerRef): Promise<LayerIndex | null> {
  try {
    return await reader.index(layer);
  } catch (error) {
    if (isCorrupt(error) || (error instanceof AfterimageError && error.code === 'key-missing')) return null;
    throw error;
  }
}

function remove(blocks: BlockSet, runs: readonly (readonly [number, number])[]): void {
  if (blocks.isEmpty) return;
  for (const [first, count] of runs) for (const block of blocks.blocksIn(first, count)) blocks.delete(block);
}
