/**
 * Replication groups: machines whose agents quiesce together, and when. Numbered, immutable objects (`groups/<n>`), each with all groups of its time: the
 * highest counts, the older ones are the history of who changed what. All in one, since a machine is in one group at most.
 * On a crash: the new number is there or it isn't.
 */
import { z } from 'zod';
import type { Clock } from '../../shared/clock.js';
import { AfterimageError, corrupt, usageError } from '../../shared/errors.js';
import {
  GROUP_EVERY_MAX_MS,
  GROUP_EVERY_MIN_MS,
  GROUP_RECHECK_MS,
  GROUPS_BYTES_MAX,
  GROUPS_MAX,
} from '../../shared/limits-groups.js';
import type { Schedule } from '../../shared/schedule.js';
import { isUuid, type MachineId } from '../../shared/units.js';
import { groupMembersSchema, groupNameSchema } from '../../shared/wire/group-record.js';
import type { ObjectStore } from '../store/store.js';
import { GROUPS_PREFIX, groupsName, numberOfName } from './names.js';
import { createNumbered } from './numbered.js';
import { openSealedJson, sealJson } from './sealed-json.js';
import { highestOfEither, readEither } from './second-copies.js';

export const GROUPS_VERSION = 1;

const count = z.number().int().nonnegative();

const scheduleSchema = z.discriminatedUnion('by', [
  z.strictObject({ by: z.literal('interval'), everyMs: count.min(GROUP_EVERY_MIN_MS).max(GROUP_EVERY_MAX_MS) }),
  z.strictObject({ by: z.literal('cron'), expression: z.string().max(200) }),
]) satisfies z.ZodType<Schedule>;

export const groupSchema = z.strictObject({
  id: z.string().refine(isUuid, 'not a UUID'),
  name: groupNameSchema,
  /** Sorted, so that all that name them name them alike. */
  members: groupMembersSchema,
  /** Every member's point is of this consistency, or the group has none. A cut without a freeze can't be the same instant on two machines. */
  consistency: z.enum(['filesystem', 'application']),
  /** Null: on demand only. */
  schedule: scheduleSchema.nullable(),
  /** Since when it is as it is: what lies before by its schedule isn't owed. */
  changedAtMs: count,
});
export type Group = z.infer<typeof groupSchema>;

const groupsSchema = z.strictObject({
  version: z.literal(GROUPS_VERSION),
  number: count.min(1),
  writtenAtMs: count,
  /** What this number changed, for people: `set shop`, `remove shop`. */
  change: z.string().max(200),
  groups: z.array(groupSchema).max(GROUPS_MAX),
});
export type Groups = z.infer<typeof groupsSchema>;

const highest = (store: ObjectStore): Promise<string | null> => highestOfEither(store, GROUPS_PREFIX);

async function readGroups(store: ObjectStore, name: string): Promise<Groups> {
  const groups = await readEither(store, name, GROUPS_BYTES_MAX, (bytes) => {
    const found = openSealedJson(bytes, groupsSchema, GROUPS_VERSION, name);
    if (found.number === numberOfName(name)) return found;
    throw corrupt('groups-misplaced', `object ${name} holds number ${found.number}`);
  });
  if (groups !== null) return groups;
  throw corrupt('groups-missing', `object ${name} is not in the store`);
}

/** Those that count; null when there never was one. */
export async function loadGroups(store: ObjectStore): Promise<Groups | null> {
  const newest = await highest(store);
  return newest === null ? null : readGroups(store, newest);
}

export const groupsOf = async (store: ObjectStore): Promise<readonly Group[]> =>
  (await loadGroups(store))?.groups ?? [];

/** Of each machine that is in a group, the group's id: they belong to one receiver. */
export const togetherOf = (groups: readonly Group[]): ReadonlyMap<MachineId, string> =>
  new Map(groups.flatMap(({ id, members }) => members.map((machine) => [machine, id] as const)));

/** For who asks often: an object is read only when there is a new one, and looked for at most so often. */
export class KnownGroups {
  readonly #store: ObjectStore;
  readonly #clock: Clock;
  #readAtMs = -Infinity;
  #name: string | null = null;
  #groups: readonly Group[] = [];

  constructor(store: ObjectStore, clock: Clock) {
    this.#store = store;
    this.#clock = clock;
  }

  /** As of the last refresh. */
  get all(): readonly Group[] {
    return this.#groups;
  }

  get together(): ReadonlyMap<MachineId, string> {
    return togetherOf(this.#groups);
  }

  /** Not older than GROUP_RECHECK_MS. */
  async recent(): Promise<readonly Group[]> {
    return this.#clock.monotonicMs() - this.#readAtMs < GROUP_RECHECK_MS ? this.#groups : this.refresh();
  }

  async refresh(): Promise<readonly Group[]> {
    const readAtMs = this.#clock.monotonicMs();
    const newest = await highest(this.#store);
    if (newest !== null && newest !== this.#name) this.#groups = (await readGroups(this.#store, newest)).groups;
    this.#name = newest;
    this.#readAtMs = readAtMs;
    return this.#groups;
  }
}

export function groupNamed(groups: readonly Group[], name: string): Group {
  const found = groups.find((group) => group.name === name);
  if (found !== undefined) return found;
  const names = groups.map((group) => group.name).join(', ');
  throw new AfterimageError(`there is no group ${name}`, {
    code: 'group-unknown',
    kind: 'usage',
    hint: names === '' ? 'Make one with `afterimage group set`.' : `There are: ${names}.`,
  });
}

export interface GroupDeps {
  readonly store: ObjectStore;
  readonly clock: Clock;
  readonly randomId: () => string;
}

export type GroupWish = Pick<Group, 'name' | 'members' | 'consistency' | 'schedule'>;

/** What is wrong with a wish, given the other groups; null when nothing is. Pure. */
export function groupProblem(groups: readonly Group[], wish: GroupWish): string | null {
  const others = groups.filter(({ name }) => name !== wish.name);
  if (others.length >= GROUPS_MAX) return `there are ${GROUPS_MAX} groups, which is the most there can be`;
  for (const machine of wish.members) {
    const other = others.find(({ members }) => members.includes(machine));
    if (other !== undefined) return `machine ${machine} is in group ${other.name}, and can't be in two`;
  }
  return null;
}

/** Makes a group, or changes the one with this name. Of two changes at once one loses: code `groups-moved`, nothing of it was written. */
export async function saveGroup(deps: GroupDeps, wish: GroupWish): Promise<Group> {
  const before = await loadGroups(deps.store);
  const groups = before?.groups ?? [];
  const problem = groupProblem(groups, wish);
  if (problem !== null) throw usageError(problem, 'See `afterimage groups`; nothing was changed.');
  const same = groups.find(({ name }) => name === wish.name);
  const group: Group = {
    ...wish,
    members: [...wish.members].sort(),
    id: same?.id ?? deps.randomId(),
    changedAtMs: deps.clock.nowMs(),
  };
  await writeGroups(deps, before, `set ${wish.name}`, [...groups.filter((other) => other !== same), group]);
  return group;
}

export async function removeGroup(deps: Omit<GroupDeps, 'randomId'>, name: string): Promise<Group> {
  const before = await loadGroups(deps.store);
  const groups = before?.groups ?? [];
  const group = groupNamed(groups, name);
  await writeGroups(
    deps,
    before,
    `remove ${name}`,
    groups.filter((other) => other !== group),
  );
  return group;
}

async function writeGroups(
  { store, clock }: Omit<GroupDeps, 'randomId'>,
  before: Groups | null,
  change: string,
  groups: readonly Group[],
): Promise<void> {
  const number = (before?.number ?? 0) + 1;
  const sorted = [...groups].sort((a, b) => a.name.localeCompare(b.name));
  const object = { version: GROUPS_VERSION, number, writtenAtMs: clock.nowMs(), change, groups: sorted };
  if (await createNumbered(store, groupsName(number), sealJson(object))) return;
  throw new AfterimageError('the groups were changed by somebody else at the same time', {
    code: 'groups-moved',
    kind: 'refused',
    hint: 'Look at them (`afterimage groups`) and try again; nothing of this was written.',
  });
}
