/**
 * `afterimage group points GROUP`: points that all members of a group have, and with a flag those that came to nothing. Needs the store alone.
 */
import { AfterimageError } from '../../shared/errors.js';
import type { MachineId } from '../../shared/units.js';
import { listAttempts } from '../catalog/group-attempts.js';
import { groupPoints, type GroupPoints, type MemberPoint } from '../catalog/group-points.js';
import { groupNamed, groupsOf, type Group } from '../catalog/groups.js';
import { listMachines } from '../catalog/machines.js';
import type { RecoveryPoint } from '../catalog/manifest.js';
import { MachineReader } from '../catalog/reader.js';
import type { ObjectStore } from '../store/store.js';
import { openConfiguredStore } from './context.js';
import type { CliIo, GlobalOptions } from './io.js';
import { age, localIso, printJson, table } from './output.js';

export interface GroupPointsOptions extends GlobalOptions {
  readonly incomplete?: boolean;
  readonly limit?: number;
}

export async function groupPointsCommand(name: string, options: GroupPointsOptions, io: CliIo): Promise<void> {
  const store = await openConfiguredStore(options, io);
  try {
    const group = groupNamed(await groupsOf(store), name);
    const names = new Map((await listMachines(store)).map((machine) => [machine.id, machine.name]));
    const nameOf = (machine: MachineId): string => names.get(machine) ?? machine;
    const all = await pointsOfGroup(store, group, nameOf);
    const limit = options.limit ?? Infinity;
    const complete = all.complete.slice(0, limit);
    const incomplete = options.incomplete === true ? all.incomplete.slice(0, limit) : [];
    if (options.json === true) {
      const named = (members: readonly MemberPoint[]): object[] =>
        members.map((member) => ({ ...member, name: nameOf(member.machine) }));
      printJson(io, {
        group: { id: group.id, name },
        points: complete.map((point) => ({ ...point, members: named(point.members) })),
        ...(options.incomplete === true
          ? { incomplete: incomplete.map((point) => ({ ...point, members: named(point.members) })) }
          : {}),
      });
      return;
    }
    print({ complete, incomplete }, name, nameOf, io);
    const hidden = options.incomplete === true ? 0 : all.incomplete.length;
    if (hidden > 0)
      io.err.write(`${hidden} came to nothing: \`afterimage group points ${name} --incomplete\` says why.\n`);
  } finally {
    await store.close();
  }
}

/** Points of all members, and of machines that were members when a point was made. */
export async function pointsOfGroup(
  store: ObjectStore,
  { id, members }: Pick<Group, 'id' | 'members'>,
  nameOf: (machine: MachineId) => string,
): Promise<GroupPoints> {
  const listed = new Map<MachineId, readonly RecoveryPoint[] | string>();
  const wanted = [...members];
  for (let machine = wanted.shift(); machine !== undefined; machine = wanted.shift()) {
    if (listed.has(machine)) continue;
    const points = await pointsOf(store, machine, id);
    listed.set(machine, points);
    if (typeof points !== 'string') for (const { group } of points) wanted.push(...(group?.members ?? []));
  }
  return groupPoints(id, listed, await listAttempts(store, id), nameOf);
}

/** Those of the group; text: why they can't be read. */
async function pointsOf(store: ObjectStore, machine: MachineId, group: string): Promise<RecoveryPoint[] | string> {
  try {
    const found: RecoveryPoint[] = [];
    for await (const point of (await MachineReader.open(store, machine)).points())
      if (point.group?.group === group) found.push(point);
    return found;
  } catch (error) {
    if (error instanceof AfterimageError && ['corrupt', 'not-found'].includes(error.kind)) return error.message;
    throw error;
  }
}

function print(
  { complete, incomplete }: GroupPoints,
  name: string,
  nameOf: (machine: MachineId) => string,
  io: CliIo,
): void {
  const nowMs = io.clock.nowMs();
  const numbers = (members: readonly MemberPoint[]): string =>
    members.map(({ machine, number }) => `${nameOf(machine)}:${number}`).join(' ');
  if (complete.length === 0) io.err.write(`Group ${name} has no point that all its members have.\n`);
  else {
    const columns = [
      ...[{ title: 'GROUP POINT' }, { title: 'CUT' }, { title: 'AGE' }, { title: 'SKEW', right: true }],
      ...[{ title: 'FROZEN', right: true }, { title: 'LABEL' }, { title: 'POINTS OF MEMBERS' }],
    ];
    const rows = complete.map((point) => [
      ...[point.id, localIso(point.cutFromMs), age(nowMs, point.cutFromMs), `${point.skewMs} ms`],
      ...[`${point.frozenMs} ms`, point.label ?? '-', numbers(point.members)],
    ]);
    io.out.write(table(columns, rows));
  }
  if (incomplete.length === 0) return;
  const columns = ['CAME TO NOTHING', 'TRIED', 'AGE', 'WHY', 'POINTS ALONE'].map((title) => ({ title }));
  const rows = incomplete.map(({ id, atMs, reason, members }) => [
    ...[id, localIso(atMs), age(nowMs, atMs), reason, numbers(members) || '-'],
  ]);
  io.out.write(`\n${table(columns, rows)}`);
}
