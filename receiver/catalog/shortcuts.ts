/**
 * Shortcuts: delta layers that hold once more what a run of a disk's small deltas hold together, in a list of their own beside them. Who reads a point at or
 * after the end of such a run takes the shortcut in place of all of it: one index and a few full chunks instead of hundreds of tiny ones. Points
 * in between are read as ever. Pure.
 *
 * Why it is right: of each block that any layer of the run has, a shortcut has the value at the run's end, also when layers of the run were merged with
 * each other since. A layer that reaches over an end of the run isn't covered and counts by its place in the order, as ever.
 * All of them are expendable: without them the same bytes are read from more layers.
 */
import type { LayerRef } from './manifest.js';

/** Whether all that a delta holds of points from a shortcut's end on is in the shortcut. */
export const isCovered = (delta: LayerRef, { firstPoint, lastPoint }: LayerRef): boolean =>
  delta.firstPoint >= firstPoint && delta.lastPoint <= lastPoint;

/** Parts of one shortcut: one alone holds only some of it. */
export const isSameRun = (a: LayerRef, b: LayerRef): boolean =>
  a.firstPoint === b.firstPoint && a.lastPoint === b.lastPoint;

/** The deltas that are read for a point, shortcuts among them; `deltas` are those up to it. */
export function throughShortcuts(
  deltas: readonly LayerRef[],
  shortcuts: readonly LayerRef[],
  point: number,
): readonly LayerRef[] {
  const used = shortcuts.filter((shortcut) => {
    const parts = shortcuts.filter((other) => isSameRun(other, shortcut)).length;
    return shortcut.lastPoint <= point && coveredCount(deltas, shortcut) > parts;
  });
  if (used.length === 0) return deltas;
  return [...deltas.filter((delta) => !used.some((shortcut) => isCovered(delta, shortcut))), ...used];
}

export const coveredCount = (deltas: readonly LayerRef[], shortcut: LayerRef): number =>
  deltas.reduce((count, delta) => count + (isCovered(delta, shortcut) ? 1 : 0), 0);
