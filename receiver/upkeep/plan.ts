/**
 * What upkeep would do with a machine now: each task's plan with its reasons. Reads, writes nothing: the same plans that a run carries out and that
 * `--dry-run` prints.
 */
import { SEGMENT_BYTES } from '../../shared/limits.js';
import {
  BASE_DELTA_RATIO,
  BASE_LIVE_BYTES_MIN,
  BASE_SEGMENTS_PER_STEP,
  DENSE_SAMPLES_MAX,
  MERGE_OPEN_LAYERS_MAX,
  OPEN_LAYERS_PER_MACHINE_MAX,
} from '../../shared/limits-upkeep.js';
import type { DiskId, MachineId } from '../../shared/units.js';
import type { LayerRef, RecoveryPoint } from '../catalog/manifest.js';
import type { RetentionPolicy } from '../catalog/policy.js';
import type { ObjectStore } from '../store/store.js';
import { IndexCache } from '../volume/index-cache.js';
import { LayerReader } from '../volume/layer-reader.js';
import { loadIndexes } from '../volume/load-indexes.js';
import { basePlan, type BasePlan } from './base-plan.js';
import type { DiskHistory, MachineHistory } from './history.js';
import { basesAt, hiddenBytesOf, segmentBytesOf, segmentLoads, type LayerStats } from './layer-stats.js';
import { mergePlan, type MergePlan } from './merge-plan.js';
import { planRetention, type HeldPoints, type RetentionPlan } from './retention.js';

/** Blocks of a whole segment, also of one that the disk ends in: layers may reach as far. */
export const blocksPerSegment = (blockBytes: number): number => SEGMENT_BYTES / blockBytes;

/** The history as it will be once these points are dropped. */
export function withoutPoints(history: MachineHistory, drop: ReadonlySet<number>): MachineHistory {
  if (drop.size === 0) return history;
  const disks = new Map(
    [...history.disks].map(([id, disk]): [DiskId, DiskHistory] => [
      id,
      { ...disk, points: disk.points.filter((point) => !drop.has(point) || point === disk.entry.lastPoint) },
    ]),
  );
  return { ...history, points: history.points.filter((p) => !drop.has(p.number)), disks };
}

export function planPoints(
  history: MachineHistory,
  policy: RetentionPolicy,
  nowMs: number,
  held: HeldPoints,
): RetentionPlan<RecoveryPoint> {
  return planRetention(history.points, policy, nowMs, held);
}

export function planMerges(history: MachineHistory, stats: LayerStats): MergePlan {
  const openMax = Math.min(
    MERGE_OPEN_LAYERS_MAX,
    Math.floor(OPEN_LAYERS_PER_MACHINE_MAX / Math.max(1, history.disks.size)),
  );
  const plans = [...history.disks].map(([disk, { bases, deltas, points, entry }]) => {
    if (entry.lastPoint === 0) return { steps: [], waiting: [] };
    const atOldest = basesAt(bases, points[0] ?? 0);
    return mergePlan({
      disk,
      deltas,
      points,
      openMax,
      hiddenBytes: (layer) => hiddenBytesOf(stats, disk, layer, atOldest),
      storedBytes: [...bases, ...deltas].reduce((sum, layer) => sum + layer.sizeBytes, 0),
    });
  });
  return { steps: plans.flatMap((p) => p.steps), waiting: plans.flatMap((p) => p.waiting) };
}

export function planBases(history: MachineHistory, stats: LayerStats): Map<DiskId, BasePlan> {
  const plans = new Map<DiskId, BasePlan>();
  for (const [disk, { bases, deltas, points, entry }] of history.disks) {
    const [oldest] = points;
    // Without a list of its own a disk has no point yet; its first copy is its agent's.
    if (oldest === undefined || entry.bases === null) continue;
    const stride = denseStride(deltas);
    const weight = (layer: LayerRef): number => (isDense(layer, oldest) ? stride : 1);
    const loads = segmentLoads(stats, disk, deltas, bases, oldest, weight);
    const plan = basePlan({ disk, points, bases, loads });
    plans.set(disk, { ...plan, steps: plan.steps.slice(0, BASE_SEGMENTS_PER_STEP) });
  }
  return plans;
}

/** A layer of a single point that is still listed: there are many of them, and each is merged away once. */
const isDense = (layer: LayerRef, oldest: number): boolean =>
  layer.firstPoint === layer.lastPoint && layer.lastPoint > oldest;

/** Of the layers of single points every n-th is looked at, the same ones each time; a power of two. */
function denseStride(deltas: readonly LayerRef[]): number {
  let stride = 1;
  while (deltas.length / stride > DENSE_SAMPLES_MAX) stride *= 2;
  return stride;
}

/** Learns what the plans need to know of layers that are new. Single points' layers only where they could amount to anything, and then a sample. */
export async function learnLayers(store: ObjectStore, history: MachineHistory, stats: LayerStats): Promise<void> {
  for (const [disk, { entry, deltas, points, bases }] of history.disks) {
    const [oldest] = points;
    if (oldest === undefined) continue;
    const stride = denseStride(deltas);
    const dense = deltas.filter((layer) => isDense(layer, oldest));
    const denseBytes = dense.reduce((sum, layer) => sum + layer.sizeBytes, 0);
    const denseMatters = denseBytes > BASE_LIVE_BYTES_MIN * BASE_DELTA_RATIO;
    const wanted = deltas.filter(
      (layer) =>
        !stats.has(disk, layer) && (!isDense(layer, oldest) || (denseMatters && layer.lastPoint % stride === 0)),
    );
    // One small group above one base is nothing to plan on.
    if (deltas.length < 2 && bases.length === 0) continue;
    await learn(store, history.manifest.machine.id, disk, entry.blockBytes, wanted, stats);
  }
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
    stats.note(disk, layer, segmentBytesOf(layer, index, blocksPerSegment(blockBytes)));
  }
}
