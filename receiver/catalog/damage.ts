/**
 * What is known to be damaged in a machine's part of the store: one numbered, immutable object per change (`machines/<m>/damage/<n>`), the whole list
 * in each, the highest counts. Schema and pure rules; reading and writing are in damage-io.ts.
 *
 * A recovery point that needs damaged bytes stays listed, says so, and is taken only when it is asked for by number: what of it can be read can be
 * had, and nothing of it is ever made up, since every reader checks what it reads.
 */
import { z } from 'zod';
import { BlockSet, type Extent } from '../../shared/blocks/block-set.js';
import { DAMAGE_EXTENTS_MAX, DAMAGE_ITEMS_MAX } from '../../shared/limits-scrub.js';
import { isDiskId, isUuid, type DiskId, type MachineId } from '../../shared/units.js';
import { layerRefSchema } from './manifest.js';

export const DAMAGE_VERSION = 1;

const count = z.number().int().nonnegative();
const machineId = z.custom<MachineId>((v) => typeof v === 'string' && isUuid(v), 'not a machine id');
const diskId = z.custom<DiskId>((v) => typeof v === 'string' && isDiskId(v), 'not a disk id');

/**
 * `found`: seen, nothing done yet. `asked`: its blocks were asked of the agent. `repaired`: what needed it is whole again. `lost`: nothing that could
 * repair it is left. `gone`: nothing refers to the object any more.
 */
export const damageStateSchema = z.enum(['found', 'asked', 'repaired', 'lost', 'gone']);
export type DamageState = z.infer<typeof damageStateSchema>;

/** Recovery points by number; an open end takes in those that are still to come. Times of their cuts are for people. */
export const pointRangeSchema = z.strictObject({
  first: count,
  last: count.nullable(),
  firstCutAtMs: count.nullable(),
  lastCutAtMs: count.nullable(),
});
export type PointRange = z.infer<typeof pointRangeSchema>;

export const damageItemSchema = z.strictObject({
  /** Name of the object; for a point whose layers don't add up to it, the object that lists the point. */
  object: z.string(),
  kind: z.enum(['manifest', 'page', 'list', 'layer', 'point', 'record']),
  code: z.string(),
  /** What is wrong, for people. */
  what: z.string().max(2000),
  foundAtMs: count,
  state: damageStateSchema,
  stateAtMs: count,
  /** Why it is in this state. */
  reason: z.string().max(2000),
  disk: diskId.nullable(),
  layer: layerRefSchema.nullable(),
  /** Blocks of the object that can't be had from it: (first, count). Null: not known which, as its index is gone. */
  extents: z.array(z.tuple([count, count.min(1)])).nullable(),
  /** Points that can't be restored without it. */
  points: z.array(pointRangeSchema),
  /** Of a layer of which nobody knows what it held: the last point there was when its blocks were asked for. What came later may hold them. */
  askedAfter: count.nullable().default(null),
});
export type DamageItem = z.infer<typeof damageItemSchema>;

export const damageSchema = z.strictObject({
  version: z.literal(DAMAGE_VERSION),
  number: count.min(1),
  machine: machineId,
  writtenAtMs: count,
  /** Newest finding first. */
  items: z.array(damageItemSchema),
  /** Findings that had no room: more than DAMAGE_ITEMS_MAX at once is a store that has to be replaced. */
  more: count,
});
export type Damage = z.infer<typeof damageSchema>;

/** A finding as a scrub makes it. */
export type Finding = Omit<DamageItem, 'foundAtMs' | 'state' | 'stateAtMs' | 'reason' | 'askedAfter'>;

/** It still does harm. */
export const isOpen = (item: DamageItem): boolean => item.state !== 'repaired' && item.state !== 'gone';

const holds = (range: PointRange, point: number): boolean =>
  range.first <= point && (range.last === null || point <= range.last);

/** What makes a point one that can't be relied upon; undefined when nothing is known against it. */
export function damageOf(items: readonly DamageItem[], point: number): DamageItem | undefined {
  return items.find((item) => isOpen(item) && item.points.some((range) => holds(range, point)));
}

/**
 * The list with a finding: an object that was known to be bad is described anew, its history goes on. One that was given up as lost and is worse now is
 * to be mended again: others may need what it had still been read for.
 */
export function withFinding(items: readonly DamageItem[], finding: Finding, nowMs: number): DamageItem[] {
  const known = items.find((item) => item.object === finding.object && item.kind === finding.kind);
  const extents = boundedExtents(finding.extents);
  const isSame = known !== undefined && isOpen(known) && !(known.state === 'lost' && isWorse(extents, known.extents));
  const item: DamageItem = {
    ...finding,
    what: finding.what.slice(0, 2000),
    extents,
    foundAtMs: isSame ? known.foundAtMs : nowMs,
    state: isSame ? known.state : 'found',
    stateAtMs: isSame ? known.stateAtMs : nowMs,
    reason: isSame ? known.reason : '',
    askedAfter: isSame ? known.askedAfter : null,
  };
  return [item, ...items.filter((other) => other !== known)];
}

/** More of it can't be had than before. */
function isWorse(extents: DamageItem['extents'], before: DamageItem['extents']): boolean {
  if (before === null) return false;
  if (extents === null) return true;
  const known = new BlockSet();
  for (const [first, length] of before) known.addRange(first, length);
  return extents.some(([first, length]) => known.countIn(first, length) < length);
}

export type DamageChange = Pick<DamageItem, 'state' | 'reason'> & Partial<Pick<DamageItem, 'points' | 'askedAfter'>>;

export function withState(
  items: readonly DamageItem[],
  of: Pick<DamageItem, 'object' | 'kind'>,
  change: DamageChange,
  nowMs: number,
): DamageItem[] {
  return items.map((item) =>
    item.object === of.object && item.kind === of.kind
      ? { ...item, ...change, reason: change.reason.slice(0, 2000), stateAtMs: nowMs }
      : item,
  );
}

/** What has room in one object: closed items go first, the oldest of them first of all. */
export function bounded(items: readonly DamageItem[]): { items: DamageItem[]; more: number } {
  if (items.length <= DAMAGE_ITEMS_MAX) return { items: [...items], more: 0 };
  const open = items.filter(isOpen);
  const closed = items.filter((item) => !isOpen(item)).slice(0, Math.max(0, DAMAGE_ITEMS_MAX - open.length));
  const kept = open.slice(0, DAMAGE_ITEMS_MAX);
  return {
    items: items.filter((item) => kept.includes(item) || closed.includes(item)),
    more: open.length - kept.length,
  };
}

/** Too many runs are joined over their gaps: more blocks than are bad are asked for, never fewer. */
function boundedExtents(extents: DamageItem['extents']): DamageItem['extents'] {
  if (extents === null || extents.length <= DAMAGE_EXTENTS_MAX) return extents;
  const per = Math.ceil(extents.length / DAMAGE_EXTENTS_MAX);
  const joined: [number, number][] = [];
  for (let i = 0; i < extents.length; i += per) {
    const first = extents[i]?.[0] ?? 0;
    const [lastFirst, lastCount] = extents[Math.min(i + per, extents.length) - 1] ?? [first, 1];
    joined.push([first, lastFirst + lastCount - first]);
  }
  return joined;
}

export const asExtents = (item: Pick<DamageItem, 'extents'>): Extent[] =>
  (item.extents ?? []).map(([first, length]) => ({ first, count: length }));

/** "4711", "4700 to 4711", "from 4700 on". */
export function describePoints(ranges: readonly PointRange[]): string {
  if (ranges.length === 0) return 'none';
  return ranges
    .map(({ first, last }) =>
      last === null ? `from ${first} on` : first === last ? String(first) : `${first} to ${last}`,
    )
    .join(', ');
}
