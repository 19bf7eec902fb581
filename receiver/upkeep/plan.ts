/**
 * What upkeep would do with a machine now: each task's plan with its reasons. Reads, writes nothing: the same plans that a run carries out and that
 * `--dry-run` prints.
 */
import {
  BASE_SEGMENTS_PER_STEP,
  MERGE_OPEN_LAYERS_MAX,
  OPEN_LAYERS_PER_MACHINE_MAX,
} from '../../shared/limits-upkeep.js';
import type { DiskId } from '../../shared/units.js';
import type { RecoveryPoint } from '../catalog/manifest.js';
import type { RetentionPolicy } from '../catalog/policy.js';
import { basePlan, type BaseLimits, type BasePlan } from './base-plan.js';
import { bytesOf, loadsOf } from './disk-loads.js';
import type { DiskHistory, MachineHistory } from './history.js';
import { basesAt, bytesIn, counts, hiddenBytesOf, type LayerStats } from './layer-stats.js';
import { mergePlan, type MergePlan } from './merge-plan.js';
import { planRetention, type HeldPoints, type RetentionPlan } from './retention.js';
import { shortcutPlan, type ShortcutLimits, type ShortcutPlan } from './shortcut-plan.js';

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
      storedBytes: bytesOf(bases) + bytesOf(deltas),
    });
  });
  return { steps: plans.flatMap((p) => p.steps), waiting: plans.flatMap((p) => p.waiting) };
}

export function planBases(history: MachineHistory, stats: LayerStats, limits: BaseLimits): Map<DiskId, BasePlan> {
  const plans = new Map<DiskId, BasePlan>();
  for (const [disk, of] of history.disks) {
    // Without a list of its own a disk has no point yet; its first copy is its agent's.
    if (of.points.length === 0 || of.entry.bases === null) continue;
    const { loads } = loadsOf(disk, of, stats, limits);
    const { bases, deltas, points } = of;
    plans.set(
      disk,
      basePlan({
        ...{ disk, points, bases, loads, limits },
        deltaBytes: bytesOf(deltas),
        bytesBetween: (segment, after, upTo) =>
          deltas
            .filter((layer) => counts(layer, after ?? undefined) && !counts(layer, upTo))
            .reduce((sum, layer) => sum + bytesIn(stats.get(disk, layer), segment), 0),
        stepsMax: BASE_SEGMENTS_PER_STEP,
      }),
    );
  }
  return plans;
}

/** Shortcuts of each disk that has any, or could have. */
export function planShortcuts(history: MachineHistory, limits?: ShortcutLimits): Map<DiskId, ShortcutPlan> {
  const plans = new Map<DiskId, ShortcutPlan>();
  for (const [disk, { deltas, bases, shortcuts, points }] of history.disks) {
    const [oldest] = points;
    if (oldest === undefined) continue;
    const storedBytes = bytesOf(bases) + bytesOf(deltas);
    const what = { disk, deltas, shortcuts: shortcuts ?? [], oldest, storedBytes };
    plans.set(disk, shortcutPlan(limits === undefined ? what : { ...what, limits }));
  }
  return plans;
}
