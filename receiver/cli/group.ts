/**
 * `afterimage groups` and `afterimage group set|remove|point`. Groups lie in the store: no receiver has to run to change them; one that runs takes them up
 * within a minute. A point is made by the running receiver.
 */
import { randomUUID } from 'node:crypto';
import { durationText, parseDuration } from '../../shared/config/parse-values.js';
import { usageError } from '../../shared/errors.js';
import {
  GROUP_EVERY_MAX_MS,
  GROUP_EVERY_MIN_MS,
  GROUP_MEMBERS_MAX,
  GROUP_MEMBERS_MIN,
} from '../../shared/limits-groups.js';
import { isCronExpression, type Schedule } from '../../shared/schedule.js';
import type { MachineId } from '../../shared/units.js';
import { groupNameSchema } from '../../shared/wire/group-record.js';
import { labelSchema } from '../../shared/wire/quiesce-record.js';
import { attemptNames, listAttempts, type Attempt } from '../catalog/group-attempts.js';
import { groupsOf, removeGroup, saveGroup, type Group } from '../catalog/groups.js';
import { listMachines, pickMachine } from '../catalog/machines.js';
import { configuredSocket, openConfiguredStore } from './context.js';
import type { CliIo, GlobalOptions } from './io.js';
import { age, printJson, table } from './output.js';

export interface GroupSetOptions extends GlobalOptions {
  readonly members: string;
  readonly every?: string;
  readonly cron?: string;
  readonly consistency: string;
}

export interface GroupPointOptions extends GlobalOptions {
  readonly label?: string;
}

export async function groupSetCommand(name: string, options: GroupSetOptions, io: CliIo): Promise<void> {
  // What is wrong with the words is said before anything is looked up.
  checkName(name);
  const words = wordsOf(options.members);
  const consistency = consistencyOf(options.consistency);
  const schedule = scheduleOf(options);
  const store = await openConfiguredStore(options, io);
  try {
    const machines = await listMachines(store);
    const members = words.map((word) => pickMachine(word, machines, store.url));
    members.forEach((machine, i) => {
      if (members.indexOf(machine) !== i)
        throw usageError(`--members names machine ${nameIn(machines, machine)} twice`, 'Name each once.');
    });
    const deps = { store, clock: io.clock, randomId: randomUUID };
    const group = await saveGroup(deps, { name, members, consistency, schedule });
    if (options.json === true) printJson(io, { group });
    else
      io.err.write(
        `Group ${name} is ${members.map((machine) => nameIn(machines, machine)).join(', ')}; points ${scheduleText(schedule)}, ` +
          `${consistency}-consistent on all of them. Its receiver takes it up within a minute.\n`,
      );
  } finally {
    await store.close();
  }
}

function checkName(name: string): void {
  if (groupNameSchema.safeParse(name).success) return;
  throw usageError(`"${name}" is not a name of a group`, 'Give 1 to 40 letters, digits, dots, dashes or underscores.');
}

function wordsOf(text: string): string[] {
  const words = text.split(',').map((word) => word.trim());
  if (words.includes('')) throw usageError(`--members "${text}" has an empty name`, 'Give names as web1,db1.');
  if (words.length >= GROUP_MEMBERS_MIN && words.length <= GROUP_MEMBERS_MAX) return words;
  throw usageError(
    `--members names ${words.length} machine${words.length === 1 ? '' : 's'}`,
    `Give ${GROUP_MEMBERS_MIN} to ${GROUP_MEMBERS_MAX}, separated by commas.`,
  );
}

function consistencyOf(text: string): Group['consistency'] {
  if (text === 'application' || text === 'filesystem') return text;
  if (text !== 'crash')
    throw usageError(`--consistency ${text} is not a consistency`, 'Give application or filesystem.');
  throw usageError(
    '--consistency crash is not for groups: only while all members are frozen their cuts are one instant',
    'Give filesystem, which calls no hook and no database.',
  );
}

function scheduleOf({ every, cron }: Pick<GroupSetOptions, 'every' | 'cron'>): Schedule | null {
  if (every !== undefined && cron !== undefined) throw usageError('--every and --cron are both given', 'Give one.');
  if (cron !== undefined) {
    if (isCronExpression(cron)) return { by: 'cron', expression: cron };
    throw usageError(`--cron "${cron}" is not a cron expression`, "Give five fields, such as '15 */4 * * *'.");
  }
  if (every === undefined) return null;
  const everyMs = parseDuration(every);
  if (everyMs !== null && everyMs >= GROUP_EVERY_MIN_MS && everyMs <= GROUP_EVERY_MAX_MS)
    return { by: 'interval', everyMs };
  throw usageError(`--every ${every} is not a distance of points`, 'Give a duration of 1min to 7d, such as 1h.');
}

const scheduleText = (schedule: Schedule | null): string =>
  schedule === null
    ? 'on demand'
    : schedule.by === 'cron'
      ? `cron ${schedule.expression}`
      : `every ${durationText(schedule.everyMs)}`;

type Named = readonly { readonly id: MachineId; readonly name: string }[];

const nameIn = (machines: Named, machine: MachineId): string =>
  machines.find(({ id }) => id === machine)?.name ?? machine;

export async function groupRemoveCommand(name: string, options: GlobalOptions, io: CliIo): Promise<void> {
  checkName(name);
  const store = await openConfiguredStore(options, io);
  try {
    const group = await removeGroup({ store, clock: io.clock }, name);
    const attempts = await attemptNames(store, group.id);
    if (attempts.length > 0) await store.deleteMany(attempts);
    if (options.json === true) printJson(io, { removed: group });
    else io.err.write(`Group ${name} is removed. Points of its members are kept as long as their policies say.\n`);
  } finally {
    await store.close();
  }
}

export async function groupsCommand(options: GlobalOptions, io: CliIo): Promise<void> {
  const store = await openConfiguredStore(options, io);
  try {
    const machines = await listMachines(store);
    const groups = await Promise.all(
      (await groupsOf(store)).map(async (group) => ({
        group,
        last: (await listAttempts(store, group.id, 1))[0] ?? null,
      })),
    );
    if (options.json === true) {
      printJson(io, {
        groups: groups.map(({ group, last }) => ({
          ...group,
          members: group.members.map((id) => ({ id, name: nameIn(machines, id) })),
          lastAttempt: last,
        })),
      });
      return;
    }
    if (groups.length === 0) {
      io.err.write('There is no group yet: `afterimage group set NAME --members A,B`.\n');
      return;
    }
    const columns = ['GROUP', 'MEMBERS', 'CONSISTENCY', 'POINTS', 'LAST ATTEMPT'].map((title) => ({ title }));
    const rows = groups.map(({ group, last }) => [
      group.name,
      group.members.map((machine) => nameIn(machines, machine)).join(','),
      group.consistency,
      scheduleText(group.schedule),
      last === null ? '-' : attemptText(last, io.clock.nowMs()),
    ]);
    io.out.write(table(columns, rows));
  } finally {
    await store.close();
  }
}

function attemptText({ startedAtMs, reason, skewMs }: Attempt, nowMs: number): string {
  const ago = `${age(nowMs, startedAtMs)} ago`;
  return reason === '' ? `${ago}: made, skew ${skewMs ?? 0} ms` : `${ago}: ABSENT: ${reason}`;
}

export async function groupPointCommand(name: string, options: GroupPointOptions, io: CliIo): Promise<void> {
  checkName(name);
  const { label } = options;
  if (label !== undefined && !labelSchema.safeParse(label).success)
    throw usageError(`--label ${JSON.stringify(label)} is not a label`, 'Give one line of at most 60 characters.');
  const { askGroupPoint } = await import('./control-client.js');
  const attempt = await askGroupPoint(await configuredSocket(options), io.signal, name, label);
  if (options.json === true) {
    printJson(io, attempt);
    return;
  }
  const members = attempt.members.map((member) => `${member.name} point ${member.point ?? '-'}`).join(', ');
  io.out.write(
    `Point ${attempt.point} of group ${name}: ${members}. Cut within ${attempt.skewMs ?? 0} ms on all of them, ` +
      `which were frozen for no longer than ${attempt.frozenMs ?? 0} ms.\n`,
  );
}
