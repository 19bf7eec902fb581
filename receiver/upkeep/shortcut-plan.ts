/**
 * Which runs of a disk's small deltas get a shortcut (catalog/shortcuts.ts), and which shortcuts are of no use any more. Pure.
 *
 * A machine with a point every 5 s has some two thousand tiny layers at its newest end, and each costs a restore an index, a chunk and two requests, however
 * little is in it. Shortcuts double what is in them, so they are for layers that are small, together at most a small share of what is stored, and the
 * runs with the most layers for their bytes come first. They last until what they stand for was merged.
 */
import {
  MERGE_INPUT_BYTES_MAX,
  MERGE_LAYERS_MAX,
  SHORTCUT_COVERED_MIN,
  SHORTCUT_LAYER_BYTES_MAX,
  SHORTCUT_LAYERS_MIN,
  SHORTCUT_SHARE_MAX,
} from '../../shared/limits-upkeep.js';
import type { DiskId } from '../../shared/units.js';
import type { LayerRef } from '../catalog/manifest.js';
import { coveredCount, isCovered, isSameRun } from '../catalog/shortcuts.js';
import { groupsOf, type Group } from './merge-plan.js';

export interface ShortcutStep {
  readonly disk: DiskId;
  /** All layers of the disk from `firstPoint` to `lastPoint`, oldest first. */
  readonly inputs: readonly LayerRef[];
  readonly firstPoint: number;
  readonly lastPoint: number;
  readonly reason: string;
}

export interface ShortcutPlan {
  readonly steps: readonly ShortcutStep[];
  readonly retired: readonly LayerRef[];
}

export interface ShortcutLimits {
  /** Bytes up to which the layers of a point are small. */
  readonly layerBytesMax: number;
  /** Small layers in a row that are worth a shortcut. */
  readonly layersMin: number;
  /** One that stands for fewer goes. */
  readonly coveredMin: number;
  /** All shortcuts of a disk, of what it has stored otherwise. */
  readonly shareMax: number;
}

export const SHORTCUT_LIMITS: ShortcutLimits = {
  layerBytesMax: SHORTCUT_LAYER_BYTES_MAX,
  layersMin: SHORTCUT_LAYERS_MIN,
  coveredMin: SHORTCUT_COVERED_MIN,
  shareMax: SHORTCUT_SHARE_MAX,
};

export interface ShortcutInput {
  readonly disk: DiskId;
  /** Oldest first. */
  readonly deltas: readonly LayerRef[];
  readonly shortcuts: readonly LayerRef[];
  /** Oldest listed point that holds the disk: what lies below is merged anyway. */
  readonly oldest: number;
  /** Of all layers of the disk but shortcuts. */
  readonly storedBytes: number;
  readonly limits?: ShortcutLimits;
}

const bytesOf = (layers: readonly LayerRef[]): number => layers.reduce((sum, layer) => sum + layer.sizeBytes, 0);

export function shortcutPlan(input: ShortcutInput): ShortcutPlan {
  const { disk, deltas, shortcuts, oldest, storedBytes, limits = SHORTCUT_LIMITS } = input;
  const budgetBytes = storedBytes * limits.shareMax;
  const kept: LayerRef[] = [];
  // The newest first: where they don't fit any more, the older ones go.
  for (const shortcut of [...shortcuts].sort((a, b) => b.lastPoint - a.lastPoint)) {
    const isUseful = shortcut.lastPoint > oldest && coveredCount(deltas, shortcut) >= limits.coveredMin;
    if (isUseful && bytesOf(kept) + shortcut.sizeBytes <= budgetBytes) kept.push(shortcut);
  }
  // One part of a run alone is no shortcut.
  const whole = kept.filter((one) => shortcuts.every((other) => kept.includes(other) || !isSameRun(other, one)));
  const steps: ShortcutStep[] = [];
  let usedBytes = bytesOf(whole);
  const runs = uncovered(deltas, whole, oldest, limits.layerBytesMax).flatMap((run) => pieces(run, limits.layersMin));
  for (const run of cheapestFirst(runs)) {
    const bytes = bytesOf(run);
    if (usedBytes + bytes > budgetBytes) continue;
    usedBytes += bytes;
    steps.push(stepOf(disk, run));
  }
  return { steps, retired: shortcuts.filter((shortcut) => !whole.includes(shortcut)) };
}

function stepOf(disk: DiskId, run: readonly LayerRef[]): ShortcutStep {
  const firstPoint = Math.min(...run.map((layer) => layer.firstPoint));
  const lastPoint = run.at(-1)?.lastPoint ?? 0;
  const reason = `${run.length} small layers of points ${firstPoint} to ${lastPoint} are read as one`;
  return { disk, inputs: run, firstPoint, lastPoint, reason };
}

/** Runs of small layers, oldest first, that no shortcut stands for. A run is all that the disk has between its ends. */
function uncovered(
  deltas: readonly LayerRef[],
  shortcuts: readonly LayerRef[],
  oldest: number,
  layerBytesMax: number,
): LayerRef[][] {
  const runs: LayerRef[][] = [[]];
  for (const { layers, lastPoint, bytes } of groupsOf(deltas)) {
    const isFree = !layers.some((layer) => shortcuts.some((shortcut) => isCovered(layer, shortcut)));
    const isSmall = bytes <= layerBytesMax;
    if (lastPoint > oldest && isFree && isSmall) runs.at(-1)?.push(...layers);
    else if (runs.at(-1)?.length !== 0) runs.push([]);
  }
  return runs;
}

/** A run in parts that are bounded work, a stretch of tiny layers apart from one of much larger ones; the groups of a point stay together. */
function pieces(run: readonly LayerRef[], layersMin: number): LayerRef[][] {
  const parts: LayerRef[][] = [];
  let last: LayerRef[] = [];
  let bytes = 0;
  const groups = groupsOf(run);
  for (const [i, group] of groups.entries()) {
    const isFull = last.length + group.layers.length > MERGE_LAYERS_MAX || bytes + group.bytes > MERGE_INPUT_BYTES_MAX;
    const isOther =
      last.length >= layersMin && areOther(groups.slice(i, i + layersMin), bytes / last.length, layersMin);
    if (last.length === 0 || isFull || isOther) {
      last = [];
      parts.push(last);
      bytes = 0;
    }
    last.push(...group.layers);
    bytes += group.bytes;
  }
  return parts.filter((part) => part.length >= layersMin);
}

/** Whether the first of these groups, and they in the mean, have layers of quite another size: one point that is so doesn't count. */
function areOther(groups: readonly Group[], layerBytes: number, layersMin: number): boolean {
  const [first] = groups;
  // Fewer would get none of their own.
  if (first === undefined || groups.length < layersMin) return false;
  const layers = groups.flatMap((group) => group.layers);
  const ratios = [first.bytes / first.layers.length, bytesOf(layers) / layers.length].map((mean) => mean / layerBytes);
  return ratios.every((ratio) => ratio > SIZES_RATIO) || ratios.every((ratio) => ratio < 1 / SIZES_RATIO);
}

/** Layers so many times larger than those before begin a shortcut of their own, which may not be worth its bytes. */
const SIZES_RATIO = 8;

const cheapestFirst = (runs: readonly LayerRef[][]): LayerRef[][] =>
  [...runs].sort((a, b) => bytesOf(a) / a.length - bytesOf(b) / b.length);
