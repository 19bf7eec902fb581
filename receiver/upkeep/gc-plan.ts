/**
 * Which objects of a machine nobody needs any more. Pure: mark (what the manifest names) and sweep (what is listed), keep on any doubt.
 *
 * A layer, page or list that the manifest doesn't name is deletable when all of this holds:
 * - it was written under an older epoch, or under ours and is not in flight (epoch and sequence in the name make that decidable without clocks);
 * - an earlier pass saw it unnamed, at manifest U, at least the deletion delay ago by this process's monotonic clock;
 * - no live pin may need it: one whose plan is of a manifest before U, at a point that the object reaches back to.
 * What has an unknown name, or an epoch newer than ours, is kept and reported.
 */
import type { MachineId } from '../../shared/units.js';
import { layerName, machinePrefix } from '../catalog/names.js';
import { COPIES, originalOf } from '../catalog/second-copies.js';
import type { Pin } from '../catalog/pins.js';
import type { ObjectInfo } from '../store/store.js';
import type { MachineHistory } from './history.js';

/** Whoever reads a point for longer than a moment pins it: restores, served volumes, copies of the machine that run, the way home. */
export type GcPins = readonly Pick<Pin, 'point' | 'manifest'>[];

/** When a pass first saw an object that no manifest names. */
export interface Seen {
  /** Number of the manifest that didn't name it. */
  readonly manifest: number;
  readonly atMonotonicMs: number;
}

export interface GcInput {
  readonly machine: MachineId;
  readonly epoch: number;
  /** Number of the manifest whose names are `named`. */
  readonly manifest: number;
  readonly named: ReadonlySet<string>;
  readonly objects: readonly ObjectInfo[];
  readonly isInFlight: (sequence: number) => boolean;
  /** Those that are live. */
  readonly pins: GcPins;
  readonly seen: ReadonlyMap<string, Seen>;
  readonly nowMonotonicMs: number;
  readonly delayMs: number;
}

export interface Count {
  objects: number;
  bytes: number;
}

export interface GcPlan {
  readonly deletable: readonly (ObjectInfo & { readonly reason: string })[];
  /** What is named, and what isn't and stays for now, by reason. */
  readonly kept: ReadonlyMap<KeepReason, Count>;
  /** For the next pass. */
  readonly seen: ReadonlyMap<string, Seen>;
  /** Names that nobody knows; for people. */
  readonly unknown: readonly string[];
  /** Named, and not there: a loss. */
  readonly missing: readonly string[];
}

export type KeepReason =
  'named' | 'in flight' | 'waits for the deletion delay' | 'pinned' | 'newer epoch' | 'unknown name';

interface ObjectKind {
  readonly epoch: number;
  readonly sequence: number;
  /** First point whose readers may need it; 0: of all. */
  readonly firstPoint: number;
}

const N = '(\\d{12})';
const PAGE = new RegExp(`^history/${N}-${N}-${N}-${N}$`);
const LIST = new RegExp(`^disks/[^/]+/list/${N}-${N}$`);
const DELTA = new RegExp(`^disks/[^/]+/delta/${N}-${N}-${N}-${N}$`);
const BASE = new RegExp(`^disks/[^/]+/base/\\d{8}/${N}-${N}-${N}$`);

/** What an object's name (after the machine's prefix) says, or that of which it is a copy; null for names that GC doesn't know. */
export function kindOf(own: string): ObjectKind | null {
  const name = own.startsWith(COPIES) ? own.slice(COPIES.length) : own;
  const page = PAGE.exec(name) ?? DELTA.exec(name);
  if (page !== null) return { firstPoint: Number(page[1]), epoch: Number(page[3]), sequence: Number(page[4]) };
  const base = BASE.exec(name);
  if (base !== null) return { firstPoint: Number(base[1]), epoch: Number(base[2]), sequence: Number(base[3]) };
  const list = LIST.exec(name);
  return list === null ? null : { firstPoint: 0, epoch: Number(list[1]), sequence: Number(list[2]) };
}

/** Names of all pages, lists and layers of a machine's manifest; copies go with what they are copies of. */
export function namesOf({ manifest, disks }: MachineHistory): Set<string> {
  const machine = manifest.machine.id;
  const names = new Set(manifest.pages.map((page) => page.name));
  for (const [disk, { entry, bases, deltas, staged, shortcuts }] of disks) {
    for (const list of [entry.bases, entry.staged, entry.shortcuts ?? null]) if (list !== null) names.add(list.name);
    for (const layer of [...bases, ...deltas, ...staged, ...(shortcuts ?? [])])
      names.add(layerName(machine, disk, layer));
  }
  return names;
}

export function gcPlan(input: GcInput): GcPlan {
  const kept = new Map<KeepReason, Count>();
  const seen = new Map<string, Seen>();
  const deletable: (ObjectInfo & { reason: string })[] = [];
  const unknown: string[] = [];
  const listed = new Set<string>();
  for (const object of input.objects) {
    listed.add(object.name);
    const verdict = verdictOf(input, object.name);
    if (verdict.seen !== null) seen.set(object.name, verdict.seen);
    if ('reason' in verdict) {
      deletable.push({ ...object, reason: verdict.reason });
      continue;
    }
    if (verdict.keep === 'unknown name') unknown.push(object.name);
    const count = kept.get(verdict.keep) ?? { objects: 0, bytes: 0 };
    kept.set(verdict.keep, { objects: count.objects + 1, bytes: count.bytes + object.sizeBytes });
  }
  const missing = [...input.named].filter((name) => !listed.has(name));
  return { deletable, kept, seen, unknown, missing };
}

type Verdict =
  { readonly keep: KeepReason; readonly seen: Seen | null } | { readonly reason: string; readonly seen: Seen };

function verdictOf(input: GcInput, name: string): Verdict {
  if (input.named.has(originalOf(name) ?? name)) return { keep: 'named', seen: null };
  const kind = kindOf(name.slice(machinePrefix(input.machine).length));
  if (kind === null) return { keep: 'unknown name', seen: null };
  if (kind.epoch > input.epoch) return { keep: 'newer epoch', seen: null };
  if (kind.epoch === input.epoch && input.isInFlight(kind.sequence)) return { keep: 'in flight', seen: null };
  const seen = input.seen.get(name) ?? { manifest: input.manifest, atMonotonicMs: input.nowMonotonicMs };
  // In the pass that sees it first the delay may be 0: even so it waits for the next.
  const isFirst = !input.seen.has(name);
  if (isFirst || input.nowMonotonicMs - seen.atMonotonicMs < input.delayMs) {
    return { keep: 'waits for the deletion delay', seen };
  }
  const isPinned = input.pins.some((pin) => pin.manifest < seen.manifest && pin.point >= kind.firstPoint);
  if (isPinned) return { keep: 'pinned', seen };
  const whose = kind.epoch < input.epoch ? `of epoch ${kind.epoch}, ours is ${input.epoch}` : 'ours and not in flight';
  return { reason: `not named since manifest ${seen.manifest}, ${whose}`, seen };
}

/** Which manifests go, given what is known of each epoch's beginning. */
export interface ManifestInput {
  readonly head: { readonly number: number; readonly epochStart: number };
  /** Numbers that are there, ascending. */
  readonly numbers: readonly number[];
  readonly boundary: number;
  readonly keep: number;
  /** The boundary moves by at least this. */
  readonly step: number;
}

/** Where the boundary goes before anything below it is deleted; null: it stays, and so do all manifests above it. */
export function nextBoundary({ head, boundary, keep, step }: Omit<ManifestInput, 'numbers'>): number | null {
  const wanted = head.number - keep;
  return wanted >= boundary + step ? wanted : null;
}

/**
 * Numbers up to the boundary that may go. Those that begin an epoch stay for ever: they are what a stalled owner meets. `startOf` gives the beginning
 * of the epoch of a manifest that was read; asked from the highest down, once per epoch; null or 0: not known, it stays.
 */
export async function deletableManifests(
  { head, numbers, boundary }: Pick<ManifestInput, 'head' | 'numbers' | 'boundary'>,
  startOf: (number: number) => Promise<number | null>,
): Promise<number[]> {
  const found: number[] = [];
  let start = head.epochStart;
  let isKnown = start > 0;
  for (const number of [...numbers].reverse()) {
    if (number > boundary) continue;
    if (!isKnown || number < start) {
      const its = await startOf(number);
      isKnown = its !== null && its > 0;
      start = isKnown ? (its ?? 0) : start;
      if (!isKnown) continue;
    }
    if (number !== start) found.push(number);
  }
  return found.reverse();
}
