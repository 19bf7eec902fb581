/**
 * What a restore of a disk's newest point has to read, segment by segment and in all, against fresh bases: by the layers' shapes (layer-stats.ts), which are
 * learned here. Estimates, too high rather than too low.
 */
import { BASES_LEARNED_MAX, DENSE_SAMPLES_MAX } from '../../shared/limits-upkeep.js';
import { SEGMENT_BYTES } from '../../shared/limits.js';
import type { DiskId, MachineId } from '../../shared/units.js';
import type { LayerRef } from '../catalog/manifest.js';
import { throughShortcuts } from '../catalog/shortcuts.js';
import type { ObjectStore } from '../store/store.js';
import { IndexCache } from '../volume/index-cache.js';
import { LayerReader } from '../volume/layer-reader.js';
import { loadIndexes } from '../volume/load-indexes.js';
import { compareLayers } from '../volume/read-plan.js';
import { overBytesMin, type BaseLimits, type SegmentLoad } from './base-plan.js';
import type { DiskHistory, MachineHistory } from './history.js';
import { basesAt, bytesIn, bytesOver, counts, shapeOf, type LayerStats } from './layer-stats.js';
import { segmentRead, type SegmentRead } from './read-load.js';

/** Blocks of a whole segment, also of one that the disk ends in: layers may reach as far. */
export const blocksPerSegment = (blockBytes: number): number => SEGMENT_BYTES / blockBytes;

export const bytesOf = (layers: readonly LayerRef[]): number => layers.reduce((sum, layer) => sum + layer.sizeBytes, 0);

/** What is read of a disk at its newest point, shortcuts in the place of what they stand for; newest first. */
const newestDeltas = ({ deltas, shortcuts, points }: DiskHistory): readonly LayerRef[] =>
  [...throughShortcuts(deltas, shortcuts ?? [], points.at(-1) ?? 0)].sort((a, b) => compareLayers(b, a));

export interface DiskLoads {
  /** Segments with anything over their base, in order. */
  readonly loads: readonly SegmentLoad[];
  /** Whether no block of a layer counts in a segment any more, as far as that was looked into. */
  readonly isHidden: (layer: LayerRef, segment: number) => boolean;
}

/** What is read of a segment is looked into where it may be too much, and its base's index was read. */
export function loadsOf(disk: DiskId, of: DiskHistory, stats: LayerStats, limits: BaseLimits): DiskLoads {
  const [oldest = 0] = of.points;
  const newest = newestDeltas(of);
  const latest = basesAt(of.bases, Infinity);
  const weight = weightOf(newest, oldest);
  const over = bytesOver(stats, disk, newest, latest, weight);
  const lowest = of.deltas.filter((layer) => layer.lastPoint <= oldest);
  const below = bytesOver(stats, disk, lowest, basesAt(of.bases, oldest));
  const perSegment = blocksPerSegment(of.entry.blockBytes);
  const hidden = new Map<LayerRef, Set<number>>();
  const readOf = (segment: number, overBytes: number): SegmentRead | null => {
    const layer = latest.get(segment);
    if (overBytes <= overBytesMin(layer, limits)) return null;
    if (layer !== undefined && !stats.has(disk, layer)) return null;
    const parts = newest.flatMap((delta) => {
      const shape = stats.get(disk, delta);
      return counts(delta, layer) ? [{ delta, shape, bytes: bytesIn(shape, segment) * weight(delta) }] : [];
    });
    const base = layer === undefined ? null : { layer, shape: stats.get(disk, layer) };
    const read = segmentRead(segment, perSegment, parts, base);
    for (const i of read.hidden) {
      const delta = parts[i]?.delta;
      if (delta !== undefined) hidden.set(delta, (hidden.get(delta) ?? new Set()).add(segment));
    }
    return read;
  };
  const loads = [...new Set([...over.keys(), ...below.keys()])]
    .sort((a, b) => a - b)
    .map((segment) => {
      const overBytes = over.get(segment) ?? 0;
      return { segment, belowBytes: below.get(segment) ?? 0, overBytes, read: readOf(segment, overBytes) };
    });
  const isHidden = (layer: LayerRef, segment: number): boolean =>
    !counts(layer, latest.get(segment)) || hidden.get(layer)?.has(segment) === true;
  return { loads, isHidden };
}

/** What a restore of the newest point reads, against one fresh base of each segment. */
export interface DiskRead {
  readonly disk: DiskId;
  /** Layers over the bases whose index it wants, and chunks of most. */
  readonly layers: number;
  readonly readBytes: number;
  readonly freshBytes: number;
}

export function readsOf(history: MachineHistory, stats: LayerStats, limits: BaseLimits): DiskRead[] {
  return [...history.disks].flatMap(([disk, of]) =>
    of.points.length === 0 ? [] : [readOfDisk(disk, of, stats, limits)],
  );
}

function readOfDisk(disk: DiskId, of: DiskHistory, stats: LayerStats, limits: BaseLimits): DiskRead {
  const latest = basesAt(of.bases, Infinity);
  const newest = newestDeltas(of);
  const { loads, isHidden } = loadsOf(disk, of, stats, limits);
  const bySegment = new Map(loads.map((load) => [load.segment, load]));
  let readBytes = bytesOf([...latest.values()]);
  let freshBytes = 0;
  for (const segment of new Set([...latest.keys(), ...bySegment.keys()])) {
    const { overBytes = 0, read = null } = bySegment.get(segment) ?? {};
    freshBytes += read?.freshBytes ?? Math.max(latest.get(segment)?.sizeBytes ?? 0, overBytes);
  }
  for (const layer of newest) {
    if (!stats.has(disk, layer)) {
      readBytes += layer.sizeBytes;
      continue;
    }
    // A chunk that reaches over several segments is read for any of them.
    const { first, last, bytes } = stats.get(disk, layer).spans;
    bytes.forEach((length, i) => {
      let isRead = false;
      for (let s = first[i] ?? 0; s <= (last[i] ?? 0) && !isRead; s++) isRead = !isHidden(layer, s);
      if (isRead) readBytes += length;
    });
  }
  return { disk, layers: newest.length, readBytes, freshBytes };
}

/** A layer of a single point that is still listed: there are many of them, and each is merged away once. */
const isDense = (layer: LayerRef, oldest: number): boolean =>
  layer.firstPoint === layer.lastPoint && layer.lastPoint > oldest;

/** Of the layers of single points every n-th is looked at, the same ones each time; a power of two. */
function denseStride(dense: readonly LayerRef[]): number {
  let stride = 1;
  while (dense.length / stride > DENSE_SAMPLES_MAX) stride *= 2;
  return stride;
}

/** For how many layers one stands. */
function weightOf(layers: readonly LayerRef[], oldest: number): (layer: LayerRef) => number {
  const stride = denseStride(layers.filter((layer) => isDense(layer, oldest)));
  return (layer) => (isDense(layer, oldest) ? stride : 1);
}

/** Learns what the plans need to know of layers that are new. Single points' layers only where they could amount to anything, and then a sample. */
export async function learnLayers(
  store: ObjectStore,
  history: MachineHistory,
  stats: LayerStats,
  limits: BaseLimits,
): Promise<void> {
  const machine = history.manifest.machine.id;
  for (const [disk, of] of history.disks) {
    const { entry, deltas, points, bases } = of;
    const [oldest] = points;
    if (oldest === undefined) continue;
    // One small group above one base is nothing to plan on.
    if (deltas.length < 2 && bases.length === 0) continue;
    const newest = newestDeltas(of);
    const dense = newest.filter((layer) => isDense(layer, oldest));
    const stride = denseStride(dense);
    const denseMatters = bytesOf(dense) > overBytesMin(undefined, limits);
    const below = deltas.filter((layer) => layer.lastPoint <= oldest);
    const wanted = [...new Set([...below, ...newest])].filter(
      (layer) =>
        !stats.has(disk, layer) && (!isDense(layer, oldest) || (denseMatters && layer.lastPoint % stride === 0)),
    );
    await learn(store, machine, disk, entry.blockBytes, wanted, stats);
    await learn(store, machine, disk, entry.blockBytes, basesToLearn(disk, of, stats, limits), stats);
  }
}

/** Bases under so much that the segment may be worth a new one: the heaviest first, a bounded number each time. */
function basesToLearn(disk: DiskId, of: DiskHistory, stats: LayerStats, limits: BaseLimits): LayerRef[] {
  const latest = basesAt(of.bases, Infinity);
  return loadsOf(disk, of, stats, limits)
    .loads.flatMap(({ segment, overBytes }) => {
      const base = latest.get(segment);
      const isWanted = base !== undefined && !stats.has(disk, base) && overBytes > overBytesMin(base, limits);
      return isWanted ? [{ base, load: overBytes / base.sizeBytes }] : [];
    })
    .sort((a, b) => b.load - a.load)
    .slice(0, BASES_LEARNED_MAX)
    .map(({ base }) => base);
}

async function learn(
  store: ObjectStore,
  machine: MachineId,
  disk: DiskId,
  blockBytes: number,
  layers: readonly LayerRef[],
  stats: LayerStats,
): Promise<void> {
  const reader = new LayerReader(store, { machine, disk, blockBytes }, new IndexCache(0));
  for await (const [layer, index] of loadIndexes(reader, layers)) {
    stats.note(disk, layer, shapeOf(layer, index, blocksPerSegment(blockBytes)));
  }
}
