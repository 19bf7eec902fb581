/**
 * A machine's history with points dropped and layers replaced: which pages stay as they are, and what the others are rewritten to. Pure.
 *
 * A delta must stand where every point that needs it finds it: in the page (or the tail) of the first listed point at or after its last point, or
 * in an earlier one; readers look at all pages that begin at or before their point. So when all points of a page go, its deltas move on to the next.
 * Pages that were touched and stand side by side become one, and many small ones in a row are joined: the manifest's list of pages stays short
 * however long the history is, and each entry is written only a few times.
 */
import { PAGE_BYTES_MAX, PAGE_JOIN_MIN, PAGE_SMALL_BYTES } from '../../shared/limits-upkeep.js';
import type { DiskId } from '../../shared/units.js';
import type { DiskDelta, History, LayerRef, PageRef, RecoveryPoint } from '../catalog/manifest.js';

export interface Replacement {
  readonly disk: DiskId;
  readonly inputs: readonly LayerRef[];
  /** Their last point is that of the last input. None: nothing of the inputs is needed. */
  readonly outputs: readonly LayerRef[];
}

export interface HistoryEdit {
  /** Numbers of points that are listed no more. */
  readonly drop: ReadonlySet<number>;
  readonly replace: readonly Replacement[];
}

export interface EditedPages {
  /** In order: the reference of a page that stays, or what a new one holds. */
  readonly pages: readonly (PageRef | History)[];
  /** Deltas whose page has no point left, and for which the tail's first point is the next. */
  readonly carried: readonly DiskDelta[];
  /** Inputs that stand in no page: they must be in the tail. */
  readonly missing: readonly string[];
  readonly changed: boolean;
}

export const layerKey = (disk: DiskId, layer: LayerRef): string =>
  `${disk} ${layer.kind} ${layer.segment ?? '-'} ${layer.firstPoint}-${layer.lastPoint} ${layer.epoch}-${layer.sequence}`;

const byPlace = (a: DiskDelta, b: DiskDelta): number =>
  a.layer.lastPoint - b.layer.lastPoint || a.layer.epoch - b.layer.epoch || a.layer.sequence - b.layer.sequence;

/** Bytes of a history as JSON, about. */
export function historyBytes({ points, deltas }: History): number {
  let bytes = deltas.length * 230;
  for (const point of points) bytes += 350 + point.disks.length * 110;
  return bytes;
}

interface Item {
  readonly ref: PageRef | null;
  readonly history: History;
}

export function editPages(
  pages: readonly { readonly ref: PageRef; readonly history: History }[],
  edit: HistoryEdit,
): EditedPages {
  const inputs = new Map<string, Replacement>();
  for (const one of edit.replace) for (const layer of one.inputs) inputs.set(layerKey(one.disk, layer), one);
  const found = new Set<string>();
  const items: Item[] = [];
  let carried: readonly DiskDelta[] = [];
  for (const { ref, history } of pages) {
    const points = history.points.filter((p) => !edit.drop.has(p.number));
    const deltas = [...carried, ...replaced(history.deltas, inputs, found)];
    const same =
      points.length === history.points.length &&
      carried.length === 0 &&
      deltas.every((d, i) => d === history.deltas[i]) &&
      deltas.length === history.deltas.length;
    if (same) items.push({ ref, history });
    else if (points.length > 0) items.push({ ref: null, history: { points, deltas: deltas.sort(byPlace) } });
    carried = points.length > 0 ? [] : deltas;
  }
  const joined = joinSmall(joinTouched(items));
  return {
    pages: joined.map((item) => item.ref ?? item.history),
    carried,
    missing: [...inputs.keys()].filter((key) => !found.has(key)),
    changed: joined.length !== pages.length || joined.some((item) => item.ref === null),
  };
}

/**
 * The tail after the edit, or null when an input stands in neither: somebody changed the history since it was planned. `edited` is what editPages()
 * made of the pages before the tail.
 */
export function editTail(tail: History, edit: HistoryEdit, edited: EditedPages): History | null {
  const inputs = new Map<string, Replacement>();
  for (const one of edit.replace) for (const layer of one.inputs) inputs.set(layerKey(one.disk, layer), one);
  const found = new Set<string>();
  const deltas = [...edited.carried, ...replaced(tail.deltas, inputs, found)].sort(byPlace);
  if (edited.missing.some((key) => !found.has(key))) return null;
  return { points: tail.points.filter((p) => !edit.drop.has(p.number)), deltas };
}

/** Whether an edit concerns the tail: it then stands or falls with the pages before it. */
export const touchesTail = (tail: History, edit: HistoryEdit, edited: EditedPages): boolean =>
  edited.carried.length > 0 || edited.missing.length > 0 || tail.points.some((p) => edit.drop.has(p.number));

/** Inputs go, and where the last of a replacement's inputs stood its outputs come. Notes in `found` what was there. */
function replaced(
  deltas: readonly DiskDelta[],
  inputs: ReadonlyMap<string, Replacement>,
  found: Set<string>,
): DiskDelta[] {
  const out: DiskDelta[] = [];
  for (const delta of deltas) {
    const key = layerKey(delta.disk, delta.layer);
    const one = inputs.get(key);
    if (one === undefined) {
      out.push(delta);
      continue;
    }
    found.add(key);
    const last = one.inputs.at(-1);
    if (last === undefined || layerKey(one.disk, last) !== key) continue;
    for (const layer of one.outputs) out.push({ disk: one.disk, layer });
  }
  return out;
}

const joinHistories = (items: readonly Item[]): Item => ({
  ref: null,
  history: {
    points: items.flatMap((item) => item.history.points),
    deltas: items.flatMap((item) => item.history.deltas),
  },
});

/** Touched neighbours become one page, as far as it has room. */
function joinTouched(items: readonly Item[]): Item[] {
  const out: Item[] = [];
  for (const item of items) {
    const last = out.at(-1);
    const fits =
      last?.ref === null &&
      item.ref === null &&
      historyBytes(last.history) + historyBytes(item.history) <= PAGE_BYTES_MAX;
    if (last !== undefined && fits) out[out.length - 1] = joinHistories([last, item]);
    else out.push(item);
  }
  return out;
}

/** Runs of many small pages become few. */
function joinSmall(items: readonly Item[]): Item[] {
  const out: Item[] = [];
  let run: Item[] = [];
  const close = (): void => {
    if (run.length < PAGE_JOIN_MIN) out.push(...run);
    else out.push(...packed(run));
    run = [];
  };
  for (const item of items) {
    if (historyBytes(item.history) >= PAGE_SMALL_BYTES) {
      close();
      out.push(item);
    } else run.push(item);
  }
  close();
  return out;
}

function packed(run: readonly Item[]): Item[] {
  const out: Item[] = [];
  let group: Item[] = [];
  let bytes = 0;
  const close = (): void => {
    const [only] = group;
    if (only !== undefined) out.push(group.length === 1 ? only : joinHistories(group));
    group = [];
    bytes = 0;
  };
  for (const item of run) {
    const itemBytes = historyBytes(item.history);
    if (bytes + itemBytes > PAGE_BYTES_MAX) close();
    group.push(item);
    bytes += itemBytes;
  }
  close();
  return out;
}

/** A page's content is not a reference. */
export const isPageRef = (page: PageRef | History): page is PageRef => 'checksum' in page;

/** For a page that is to be written: the numbers of its name. */
export function pageRange(points: readonly RecoveryPoint[]): { readonly first: number; readonly last: number } {
  return { first: points[0]?.number ?? 0, last: points.at(-1)?.number ?? 0 };
}
