/**
 * Which points of a group are whole: a pure function over the points that the members' manifests list. A group's point is whole when every machine that it
 * names lists a point of it; half of one is not a point of the group, whatever anybody else says. Attempts only tell why.
 */
import type { MachineId } from '../../shared/units.js';
import type { GroupRecord } from '../../shared/wire/group-record.js';
import type { Attempt } from './group-attempts.js';
import type { Consistency, RecoveryPoint } from './manifest.js';

export interface MemberPoint {
  readonly machine: MachineId;
  readonly number: number;
  readonly cutAtMs: number;
  readonly consistency: Consistency;
}

export interface GroupPoint {
  readonly id: string;
  readonly label: string | null;
  readonly cutFromMs: number;
  readonly cutToMs: number;
  readonly skewMs: number;
  readonly frozenMs: number;
  readonly members: readonly MemberPoint[];
}

export interface IncompletePoint {
  readonly id: string;
  readonly label: string | null;
  readonly atMs: number;
  readonly reason: string;
  /** Points that members have of it nevertheless: theirs alone. */
  readonly members: readonly MemberPoint[];
}

export interface GroupPoints {
  /** Newest first, both. */
  readonly complete: readonly GroupPoint[];
  readonly incomplete: readonly IncompletePoint[];
}

/** Points of a machine as its manifest lists them; text: why they can't be read. */
export type Listed = ReadonlyMap<MachineId, readonly RecoveryPoint[] | string>;

interface Found {
  readonly record: GroupRecord;
  readonly label: string | null;
  readonly members: MemberPoint[];
}

/** `nameOf`: for reasons. */
export function groupPoints(
  group: string,
  listed: Listed,
  attempts: readonly Attempt[],
  nameOf: (machine: MachineId) => string,
): GroupPoints {
  const found = new Map<string, Found>();
  for (const [machine, points] of listed) {
    for (const point of typeof points === 'string' ? [] : points) {
      const record = point.group;
      // A machine that the record does not name has no part in it.
      if (record?.group !== group || !record.members.includes(machine)) continue;
      const one = found.get(record.point) ?? { record, label: point.label ?? null, members: [] };
      found.set(record.point, one);
      const { number, cutAtMs, consistency } = point;
      // One order, one commit: a machine has one of each at most.
      one.members.push({ machine, number, cutAtMs, consistency });
    }
  }
  const complete: GroupPoint[] = [];
  const incomplete: IncompletePoint[] = [];
  for (const [id, { record, label, members }] of found) {
    const missing = record.members.filter((machine) => members.every((member) => member.machine !== machine));
    const { cutFromMs, cutToMs, skewMs, frozenMs } = record;
    if (missing.length === 0) {
      complete.push({ id, label, cutFromMs, cutToMs, skewMs, frozenMs, members: inOrder(members, record.members) });
      continue;
    }
    const why = missing.map((machine) => whyMissing(machine, listed, nameOf)).join('; ');
    const told = attempts.find(({ point }) => point === id)?.reason ?? '';
    const reason = told === '' ? why : `${told} (${why})`;
    incomplete.push({ id, label, atMs: cutFromMs, reason, members: inOrder(members, record.members) });
  }
  for (const { point: id, label, startedAtMs: atMs, reason } of attempts) {
    if (found.has(id)) continue;
    const why = reason === '' ? 'no member lists a point of it any more' : reason;
    incomplete.push({ id, label, atMs, reason: why, members: [] });
  }
  return {
    complete: complete.sort((a, b) => b.cutFromMs - a.cutFromMs),
    incomplete: incomplete.sort((a, b) => b.atMs - a.atMs),
  };
}

function whyMissing(machine: MachineId, listed: Listed, nameOf: (machine: MachineId) => string): string {
  const points = listed.get(machine);
  if (typeof points === 'string') return `points of ${nameOf(machine)} can't be read: ${points}`;
  return `${nameOf(machine)} lists no point of it`;
}

const inOrder = (members: readonly MemberPoint[], order: readonly MachineId[]): MemberPoint[] =>
  [...members].sort((a, b) => order.indexOf(a.machine) - order.indexOf(b.machine));
