/**
 * The verbs about groups of machines that are cut together: `groups`, `group set`, `group remove`, `group point`, `group points`.
 */
import type { Command } from 'commander';
import type { CliIo, GlobalOptions } from './io.js';
import type { GroupPointOptions, GroupSetOptions } from './group.js';
import type { GroupPointsOptions } from './group-points.js';
import { JSON_OPTION, positive, SOCKET_OPTION } from './verb-options.js';

const setExamples = `
Examples:
  afterimage group set shop --members web1,db1 --every 1h
  afterimage group set shop --members web1,db1 --cron '15 */4 * * *' --consistency filesystem
  afterimage group point shop --label 'before the move'
  afterimage group points shop

A machine is in one group at most. Each member's agent must be connected, and its disks protected, when a point is made.
`;

const pointsExamples = `
Examples:
  afterimage group points shop
  afterimage restore web1 --point 812 --to /dev/sdb     # the numbers that the list gives for one point of the group
  afterimage group points shop --incomplete
`;

export function addGroupVerbs(program: Command, io: CliIo): void {
  program
    .command('groups')
    .description('list the groups of machines that are cut together, and how their last point went')
    .option(...JSON_OPTION)
    .action(async (_: unknown, command: Command) =>
      (await import('./group.js')).groupsCommand(command.optsWithGlobals<GlobalOptions>(), io),
    );
  const group = program.command('group').description('machines whose points are one instant on all of them');
  group
    .command('set')
    .description('make a group, or replace what it is; kept in the store')
    .argument('<group>', 'its name')
    .requiredOption('--members <machines>', 'names or ids, separated by commas')
    .option('--every <duration>', 'a point every so often, such as 1h')
    .option('--cron <expression>', 'a point when this cron expression of five fields says so')
    .option('--consistency <level>', 'of all its points: application or filesystem', 'application')
    .option(...JSON_OPTION)
    .addHelpText('after', setExamples)
    .action(async (name: string, _: unknown, command: Command) =>
      (await import('./group.js')).groupSetCommand(name, command.optsWithGlobals<GroupSetOptions>(), io),
    );
  group
    .command('remove')
    .description('end a group; points of its members stay as long as their policies say')
    .argument('<group>', 'its name')
    .option(...JSON_OPTION)
    .action(async (name: string, _: unknown, command: Command) =>
      (await import('./group.js')).groupRemoveCommand(name, command.optsWithGlobals<GlobalOptions>(), io),
    );
  group
    .command('point')
    .description('make a point of a group now; waits until all members have committed it')
    .argument('<group>', 'its name')
    .option('--label <text>', 'an own name for the point')
    .option(...SOCKET_OPTION)
    .option(...JSON_OPTION)
    .action(async (name: string, _: unknown, command: Command) =>
      (await import('./group.js')).groupPointCommand(name, command.optsWithGlobals<GroupPointOptions>(), io),
    );
  group
    .command('points')
    .description('list the points of a group that all members have, newest first')
    .argument('<group>', 'its name')
    .option('--incomplete', 'also those that came to nothing, and why')
    .option('--limit <n>', 'at most so many', positive)
    .option(...JSON_OPTION)
    .addHelpText('after', pointsExamples)
    .action(async (name: string, _: unknown, command: Command) =>
      (await import('./group-points.js')).groupPointsCommand(name, command.optsWithGlobals<GroupPointsOptions>(), io),
    );
}
