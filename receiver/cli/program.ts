/**
 * The command line of `afterimage`: verbs, options, help. Each verb's work is in its own file.
 */
import { Command, CommanderError, InvalidArgumentError } from 'commander';
import { usageError } from '../../shared/errors.js';
import { DEFAULT_CONFIG, type CliIo, type GlobalOptions } from './context.js';
import { machinesCommand } from './machines.js';
import { exitCodeOf, printError } from './output.js';
import { pointsCommand, type PointsOptions } from './points.js';
import { restoreCommand, type RestoreOptions } from './restore.js';
import { verifyCommand, type VerifyOptions } from './verify.js';

const DEFAULT_STATE = '/var/lib/afterimage/restore';
const MACHINE_HELP = 'its name, its id, or a beginning of its id';
const POINT_HELP =
  'number, "latest", "latest-filesystem-consistent", "latest-app-consistent", or a time (the newest point not after it)';

function positive(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError('Give a whole number from 1.');
  return value;
}

const collect = (value: string, before: readonly string[] | undefined): string[] => [...(before ?? []), value];

const restoreExamples = `
Examples:
  afterimage restore web1 --point latest --to /dev/sdb
  afterimage restore web1 --point 2026-03-01T14:30 --disk root --to /images/web1.raw --sparse
  afterimage restore db1 --point 812 --to root=/dev/sdb --to data=/dev/sdc --read-back

A target that holds data is refused unless --force is given; one that is in use always is.
A restore that was cancelled or killed continues when the same command is run again.
`;

const examples = `
Examples:
  afterimage --store file:/srv/afterimage machines
  afterimage points web1
  afterimage restore web1 --point latest --to /dev/sdb
  afterimage verify web1 --all

The store is taken from --store, else AFTERIMAGE_STORE, else \`store:\` in ${DEFAULT_CONFIG}.
Exit codes: 0 done, 1 failed, 2 bad input (nothing was changed).
`;

export function buildProgram(io: CliIo, quiet: boolean): Command {
  // A program that asked for JSON gets nothing else on stderr.
  const writeErr = (text: string): void => {
    if (!quiet) io.err.write(text);
  };
  const program = new Command('afterimage')
    .description('Recovery points of protected machines: list, restore, verify.')
    .option('--store <url>', 'where the recovery points are, e.g. file:/srv/afterimage')
    .option('--config <file>', 'configuration of the receiver, for its store', DEFAULT_CONFIG)
    .option('--json', 'print data as JSON on stdout, errors as JSON on stderr')
    .addHelpText('after', examples)
    .configureOutput({ writeOut: (text) => void io.out.write(text), writeErr })
    .exitOverride();
  const json = ['--json', 'print data as JSON on stdout, errors as JSON on stderr'] as const;

  program
    .command('machines')
    .description('list the machines of the store')
    .option(...json)
    .action((_: unknown, command: Command) => machinesCommand(command.optsWithGlobals<GlobalOptions>(), io));

  program
    .command('points')
    .description('list the recovery points of a machine, newest first')
    .argument('<machine>', MACHINE_HELP)
    .option('--limit <n>', 'at most so many', positive)
    .option(...json)
    .action((machine: string, _: unknown, command: Command) =>
      pointsCommand(machine, command.optsWithGlobals<PointsOptions>(), io),
    );

  program
    .command('restore')
    .description('write a recovery point to block devices or files')
    .argument('<machine>', MACHINE_HELP)
    .requiredOption('--point <point>', POINT_HELP)
    .option('--disk <disk>', 'only this disk')
    .requiredOption('--to <[disk=]target>', 'block device or file; once per disk', collect)
    .option('--sparse', 'leave zeroes out of a file instead of reserving its space')
    .option('--force', 'write over a target that holds data')
    .option('--read-back', 'read the whole target again and prove what it holds')
    .option('--state <folder>', 'where journals of restores to devices are kept', DEFAULT_STATE)
    .option(...json)
    .addHelpText('after', restoreExamples)
    .action((machine: string, _: unknown, command: Command) =>
      restoreCommand(machine, command.optsWithGlobals<RestoreOptions>(), io),
    );

  program
    .command('verify')
    .description('prove that recovery points can be restored, writing nothing')
    .argument('<machine>', MACHINE_HELP)
    .option('--point <point>', `${POINT_HELP}; the latest unless given`)
    .option('--all', 'all points; what they share is read once')
    .option(...json)
    .addHelpText('after', '\nExamples:\n  afterimage verify web1\n  afterimage verify web1 --all --json\n')
    .action((machine: string, _: unknown, command: Command) =>
      verifyCommand(machine, command.optsWithGlobals<VerifyOptions>(), io),
    );
  return program;
}

/** Runs a command line (without the program's name) and returns its exit code. */
export async function runCli(args: readonly string[], io: CliIo): Promise<number> {
  const json = args.includes('--json');
  try {
    await buildProgram(io, json).parseAsync(args, { from: 'user' });
    return 0;
  } catch (error) {
    if (error instanceof CommanderError) {
      // Commander has printed its own message, unless a program is to read it; help is no error.
      if (error.exitCode === 0) return 0;
      if (json) printError(io, usageError(error.message, 'See `afterimage --help`.'), true);
      return 2;
    }
    printError(io, error, json);
    return exitCodeOf(error);
  }
}
