/**
 * Which layers of a disk become one. Pure; a plan is data with reasons, and each step is bounded work.
 *
 * Retention is the plan: between two listed points a < b that follow each other all layers of (a, b] may become one, which holds the union of their
 * blocks, also of those that came back to what they were (a base between may hold another state). Below the oldest listed point layers may be
 * merged as suits. Never across a listed point: pinned and held points are listed.
 *
 * What makes a merge right: its inputs are all layers of the disk whose last point lies in a range, so nothing stands between them in the
 * order of layers, and its output, with their last point and a newer (epoch, sequence), stands where they stood.
 */
import {
  BOTTOM_HIDDEN_MAX,
  BOTTOM_INPUT_BYTES_MAX,
  BOTTOM_RATIO,
  MERGE_INPUT_BYTES_MAX,
  MERGE_LAYERS_MAX,
  MERGE_OPEN_LAYERS_MAX,
  MERGE_PART_BYTES_MIN,
  MERGE_PARTS_MAX,
  OPEN_SHARE_MAX,
} from '../../shared/limits-upkeep.js';
import type { DiskId } from '../../shared/units.js';
import type { LayerRef } from '../catalog/manifest.js';

export interface MergeStep {
  readonly disk: DiskId;
  /** All layers of the disk from `firstPoint` to `lastPoint`, oldest first. */
  readonly inputs: readonly LayerRef[];
  readonly firstPoint: number;
  readonly lastPoint: number;
  /** Below the oldest listed point: what bases hide there is left out. */
  readonly bottom: boolean;
  readonly reason: string;
}

export interface MergePlan {
  readonly steps: readonly MergeStep[];
  /** What could be merged and isn't yet, with why; for people. */
  readonly waiting: readonly string[];
}

/** Layers with the same last point: the parts of a cycle or of a merge, the segments of a comparison. They are never torn apart. */
export interface Group {
  readonly lastPoint: number;
  readonly layers: readonly LayerRef[];
  readonly bytes: number;
}

export interface MergeInput {
  readonly disk: DiskId;
  /** Oldest first. */
  readonly deltas: readonly LayerRef[];
  /** Numbers of the listed points that hold the disk, ascending. */
  readonly points: readonly number[];
  /** Layers that may wait between the thinned points and those that aren't yet. */
  readonly openMax?: number;
  /** Stored bytes of a layer at or below the oldest point that bases hide; see layer-stats.ts. */
  readonly hiddenBytes: (layer: LayerRef) => number;
  /** Of all layers of the disk, bases included. */
  readonly storedBytes: number;
}

const bytesOf = (layers: readonly LayerRef[]): number => layers.reduce((sum, layer) => sum + layer.sizeBytes, 0);

export function groupsOf(deltas: readonly LayerRef[]): Group[] {
  const groups: { lastPoint: number; layers: LayerRef[]; bytes: number }[] = [];
  for (const layer of deltas) {
    const last = groups.at(-1);
    if (last?.lastPoint === layer.lastPoint) {
      last.layers.push(layer);
      last.bytes += layer.sizeBytes;
    } else groups.push({ lastPoint: layer.lastPoint, layers: [layer], bytes: layer.sizeBytes });
  }
  return groups;
}

const stepOf = (disk: DiskId, groups: readonly Group[], bottom: boolean, reason: string): MergeStep => {
  const inputs = groups.flatMap((group) => group.layers);
  return {
    disk,
    inputs,
    firstPoint: Math.min(...inputs.map((layer) => layer.firstPoint)),
    lastPoint: groups.at(-1)?.lastPoint ?? 0,
    bottom,
    reason,
  };
};

export function mergePlan(input: MergeInput): MergePlan {
  const { disk, deltas, points, storedBytes, openMax = MERGE_OPEN_LAYERS_MAX } = input;
  const [oldest] = points;
  // No listed point holds the disk: what is left of it is upkeep's to drop, not to merge.
  if (oldest === undefined) return { steps: [], waiting: [] };
  const steps: MergeStep[] = [];
  const waiting: string[] = [];
  const groups = groupsOf(deltas);
  const bottom = bottomStep(
    input,
    groups.filter((group) => group.lastPoint <= oldest),
  );
  if (bottom !== null) steps.push(bottom);
  const gaps = gapsOf(groups, points);
  gaps.forEach(({ after, upTo, inside }, i) => {
    if (inside.length < 2) {
      const [only] = inside;
      if (only !== undefined && hasManyParts(only)) {
        steps.push(stepOf(disk, inside, false, `point ${upTo} is made of ${only.layers.length} small layers`));
      }
      return;
    }
    const layers = inside.reduce((sum, group) => sum + group.layers.length, 0);
    const isOpen = gaps.slice(i + 1).every((later) => later.inside.length < 2);
    const isSmall = bytesOf(inside.flatMap((group) => group.layers)) <= storedBytes * OPEN_SHARE_MAX;
    if (isOpen && isSmall && layers <= openMax) {
      waiting.push(
        `${disk}: ${layers} layers between points ${after} and ${upTo}, until the points after them are thinned out`,
      );
      return;
    }
    const run = boundedRun(inside);
    steps.push(stepOf(disk, run, false, `${groupsText(run)}: no point is listed between ${after} and ${upTo}`));
  });
  return { steps, waiting };
}

const groupsText = (groups: readonly Group[]): string =>
  `layers of points ${groups[0]?.layers[0]?.firstPoint ?? 0} to ${groups.at(-1)?.lastPoint ?? 0}`;

const hasManyParts = ({ layers, bytes }: Group): boolean =>
  layers.length > MERGE_PARTS_MAX && bytes / layers.length < MERGE_PART_BYTES_MIN;

interface Gap {
  readonly after: number;
  readonly upTo: number;
  readonly inside: Group[];
}

/** Groups by the listed points between which they lie. */
function gapsOf(groups: readonly Group[], points: readonly number[]): Gap[] {
  const gaps: Gap[] = [];
  let g = groups.findIndex((group) => group.lastPoint > (points[0] ?? 0));
  if (g < 0) return gaps;
  for (let i = 1; i < points.length; i++) {
    const [after, upTo] = [points[i - 1] ?? 0, points[i] ?? 0];
    const inside: Group[] = [];
    for (let group = groups[g]; group !== undefined && group.lastPoint <= upTo; group = groups[++g]) inside.push(group);
    gaps.push({ after, upTo, inside });
  }
  return gaps;
}

/** All of them if that is bounded work, else as many neighbours as are, of the smallest; two at least. */
function boundedRun(groups: readonly Group[]): readonly Group[] {
  let best: { from: number; to: number } = { from: 0, to: 2 };
  let from = 0;
  let bytes = 0;
  let layers = 0;
  for (let to = 0; to < groups.length; to++) {
    const group = groups[to] as Group;
    bytes += group.bytes;
    layers += group.layers.length;
    for (; from < to && (bytes > MERGE_INPUT_BYTES_MAX || layers > MERGE_LAYERS_MAX); from++) {
      const gone = groups[from] as Group;
      bytes -= gone.bytes;
      layers -= gone.layers.length;
    }
    if (to + 1 - from > best.to - best.from) best = { from, to: to + 1 };
  }
  if (best.to - best.from > 2) return groups.slice(best.from, best.to);
  // Large ones: the cheapest pair.
  let pair = 0;
  const pairBytes = (i: number): number => (groups[i]?.bytes ?? 0) + (groups[i + 1]?.bytes ?? 0);
  for (let i = 1; i + 1 < groups.length; i++) if (pairBytes(i) < pairBytes(pair)) pair = i;
  return groups.slice(pair, pair + 2);
}

/**
 * Below and at the oldest listed point: what bases hide goes when it is too much; else the youngest run in which no layer is more than BOTTOM_RATIO times
 * all younger ones.
 */
function bottomStep({ disk, hiddenBytes }: MergeInput, groups: readonly Group[]): MergeStep | null {
  const total = groups.reduce((sum, group) => sum + group.bytes, 0);
  const hiddenIn = (some: readonly Group[]): number =>
    some.flatMap((group) => group.layers).reduce((sum, layer) => sum + hiddenBytes(layer), 0);
  const hidden = hiddenIn(groups);
  if (hidden > total * BOTTOM_HIDDEN_MAX) {
    const fits = total <= BOTTOM_INPUT_BYTES_MAX && groups.length <= MERGE_LAYERS_MAX;
    const worst = [...groups].sort((a, b) => hiddenIn([b]) - hiddenIn([a]))[0];
    const run = fits || worst === undefined ? groups : [worst];
    const percent = Math.round((hidden / total) * 100);
    return stepOf(disk, run, true, `${percent} % of the layers below the oldest point are hidden by newer bases`);
  }
  const run = youngestRun(groups);
  const [only] = run;
  if (run.length === 1 && only !== undefined && hasManyParts(only)) {
    return stepOf(disk, run, true, `the oldest point is made of ${only.layers.length} small layers`);
  }
  if (run.length < 2) return null;
  return stepOf(disk, run, true, `${groupsText(run)}: no point below ${run.at(-1)?.lastPoint ?? 0} is listed`);
}

function youngestRun(groups: readonly Group[]): readonly Group[] {
  let bytes = 0;
  let from = groups.length;
  for (let i = groups.length - 1; i >= 0; i--) {
    const group = groups[i] as Group;
    const isFirst = i === groups.length - 1;
    if (isFirst || group.bytes <= BOTTOM_RATIO * bytes) from = i;
    bytes += group.bytes;
    if (bytes > BOTTOM_INPUT_BYTES_MAX || groups.length - i >= MERGE_LAYERS_MAX) break;
  }
  return groups.slice(from);
}
