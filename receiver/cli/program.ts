/**
 * The command line of `afterimage`: verbs, options, help. Each verb's work is in its own file, loaded when it is asked for: all of them together
 * take longer to load than a restore of 1 GiB may take.
 */
import { Command, CommanderError, Option } from 'commander';
import { usageError } from '../../shared/errors.js';
import { DEFAULT_CONFIG, type CliIo, type GlobalOptions } from './io.js';
import type { JobsOptions } from './jobs.js';
import { addGroupVerbs } from './group-verbs.js';
import { addKeysVerbs, collectKeys, KEY_OPTION } from './keys-verbs.js';
import type { LaunchSettingsOptions } from './launch-settings.js';
import { addStoreVerbs } from './store-verbs.js';
import { addOperationVerbs } from './operation-verbs.js';
import { exitCodeOf, printError } from './output.js';
import type { PointsOptions } from './points.js';
import type { ScrubOptions } from './scrub.js';
import type { RestoreOptions } from './restore.js';
import { TARGET_FORMATS } from '../volume/target-format.js';
import type { ServeOptions } from './serve.js';
import { addRetentionVerbs } from './retention-verbs.js';
import type { StatusOptions } from './status.js';
import { JSON_OPTION, MACHINE_HELP, POINT_HELP, positive, rate, SOCKET_OPTION } from './verb-options.js';
import { UPKEEP_TASK_NAMES, type UpkeepOptions } from './upkeep-options.js';
import type { VerifyOptions } from './verify.js';

const DEFAULT_STATE = '/var/lib/afterimage/restore';

const collect = (value: string, before: readonly string[] | undefined): string[] => [...(before ?? []), value];

const restoreExamples = `
Examples:
  afterimage restore web1 --point latest --to /dev/sdb
  afterimage restore web1 --point 2026-03-01T14:30 --disk root --to /images/web1.raw --sparse
  afterimage materialise web1 --point latest --to /images/web1.qcow2 --format qcow2
  afterimage restore db1 --point 812 --to root=/dev/sdb --to data=/dev/sdc --read-back

A target that holds data is refused unless --force is given; one that is in use always is.
A restore that was cancelled or killed continues when the same command is run again.
`;

const scrubExamples = `
Examples:
  afterimage scrub web1
  afterimage scrub web1 --now --rate 50MB/s
  afterimage scrub web1 --key /media/usb/web1.json

Stored bytes are checked without any key. With the key of an encrypted machine its indexes are opened as well, so that nothing of them can
have been put there by somebody else; \`afterimage verify\` opens every block.
`;

const serveExamples = `
Examples:
  afterimage serve web1 --point latest
  afterimage serve web1 --point 812 --disk root --listen tcp:127.0.0.1:10809
  afterimage serve web1 --point 812 --writable --keep --state /srv/web1-repair

Clients on other hosts need a certificate: \`afterimage-receiver volume-certificate NAME --out FOLDER\`.
`;

const launchExamples = `
Examples:
  afterimage launch-settings web1 > web1.yaml
  afterimage launch-settings web1 --set web1.yaml

A file with all keys in use:
  provider: qemu
  firmware: uefi
  cpus: 4
  memoryBytes: 4294967296
  diskBus: virtio
  disks: [root, data]
  nics: [{ network: 'bridge:br0', testNetwork: isolated, forwards: [] }]
  bootCheck: { type: tcp, host: 10.0.0.5, port: 22, timeoutMs: 300000 }
`;

const examples = `
Examples:
  afterimage --store file:/srv/afterimage machines
  afterimage points web1
  afterimage restore web1 --point latest --to /dev/sdb
  afterimage verify web1 --all
  afterimage serve web1 --point latest
  afterimage policy web1
  afterimage group points shop
  afterimage status web1
  afterimage test-failover web1
  afterimage failover web1

The store is taken from --store, else AFTERIMAGE_STORE, else \`store:\` in ${DEFAULT_CONFIG}.
Failover, status and jobs ask the running receiver over its control socket; all else needs the store alone.
Exit codes: 0 done, 1 failed, 2 bad input (nothing was changed).
`;

export function buildProgram(io: CliIo, quiet: boolean): Command {
  // A program that asked for JSON gets nothing else on stderr.
  const writeErr = (text: string): void => {
    if (!quiet) io.err.write(text);
  };
  const program = new Command('afterimage')
    .description('Recovery points of protected machines: list, restore, verify, serve, fail over.')
    .option('--store <url>', 'where the recovery points are, e.g. file:/srv/afterimage')
    .option('--config <file>', 'configuration of the receiver, for its store and its control socket', DEFAULT_CONFIG)
    .option(...JSON_OPTION)
    .addHelpText('after', examples)
    .configureOutput({ writeOut: (text) => void io.out.write(text), writeErr })
    .exitOverride();

  program
    .command('machines')
    .description('list the machines of the store')
    .option(...JSON_OPTION)
    .action(async (_: unknown, command: Command) =>
      (await import('./machines.js')).machinesCommand(command.optsWithGlobals<GlobalOptions>(), io),
    );

  program
    .command('receivers')
    .description('list the receivers that serve the store, what each has, and what is to move')
    .option(...JSON_OPTION)
    .addHelpText('after', '\nWhether one lives is told by clocks here; the receivers watch each other without.\n')
    .action(async (_: unknown, command: Command) =>
      (await import('./receivers.js')).receiversCommand(command.optsWithGlobals<GlobalOptions>(), io),
    );

  program
    .command('points')
    .description('list the recovery points of a machine, newest first')
    .argument('<machine>', MACHINE_HELP)
    .option('--limit <n>', 'at most so many', positive)
    .option(...JSON_OPTION)
    .action(async (machine: string, _: unknown, command: Command) =>
      (await import('./points.js')).pointsCommand(machine, command.optsWithGlobals<PointsOptions>(), io),
    );

  program
    .command('restore')
    .alias('materialise')
    .description('write a recovery point to block devices or files')
    .argument('<machine>', MACHINE_HELP)
    .requiredOption('--point <point>', POINT_HELP)
    .option('--disk <disk>', 'only this disk')
    .requiredOption('--to <[disk=]target>', 'block device or file; once per disk', collect)
    .addOption(new Option('--format <format>', 'what a file is to be').choices(TARGET_FORMATS).default('raw'))
    .option('--sparse', 'leave zeroes out of a file instead of reserving its space')
    .option('--force', 'write over a target that holds data')
    .option(...KEY_OPTION, collectKeys)
    .option('--read-back', 'read the whole target again and prove what it holds')
    .option('--state <folder>', 'where journals of restores to devices are kept', DEFAULT_STATE)
    .option(...JSON_OPTION)
    .addHelpText('after', restoreExamples)
    .action(async (machine: string, _: unknown, command: Command) =>
      (await import('./restore.js')).restoreCommand(machine, command.optsWithGlobals<RestoreOptions>(), io),
    );

  program
    .command('verify')
    .description('prove that recovery points can be restored, writing nothing')
    .argument('<machine>', MACHINE_HELP)
    .option('--point <point>', `${POINT_HELP}; the latest unless given`)
    .option('--all', 'all points; what they share is read once')
    .option(...KEY_OPTION, collectKeys)
    .option(...JSON_OPTION)
    .addHelpText('after', '\nExamples:\n  afterimage verify web1\n  afterimage verify web1 --all --json\n')
    .action(async (machine: string, _: unknown, command: Command) =>
      (await import('./verify.js')).verifyCommand(machine, command.optsWithGlobals<VerifyOptions>(), io),
    );

  addScrub(program, io);
  addUpkeep(program, io);
  addServe(program, io);
  addRetentionVerbs(program, io);
  addGroupVerbs(program, io);
  addKeysVerbs(program, io);
  addRecoveryVerbs(program, io);
  addOperationVerbs(program, io);
  addStoreVerbs(program, io);
  return program;
}

function addScrub(program: Command, io: CliIo): void {
  program
    .command('scrub')
    .description('read every object that the points of a machine need, and mark what is damaged; goes on where it was')
    .argument('<machine>', MACHINE_HELP)
    .option('--now', 'begin anew, instead of going on where the last scrub was')
    .option('--rate <rate>', 'read no faster than this, such as 20MB/s (default: as fast as the store is)', rate)
    .option(...KEY_OPTION, collectKeys)
    .option(...JSON_OPTION)
    .addHelpText('after', scrubExamples)
    .action(async (machine: string, _: unknown, command: Command) =>
      (await import('./scrub.js')).scrubCommand(machine, command.optsWithGlobals<ScrubOptions>(), io),
    );

  program
    .command('damage')
    .description('what is known to be damaged of a machine, the points concerned, and what became of it')
    .argument('<machine>', MACHINE_HELP)
    .option(...JSON_OPTION)
    .addHelpText('after', '\nExamples:\n  afterimage damage web1\n  afterimage damage web1 --json\n')
    .action(async (machine: string, _: unknown, command: Command) =>
      (await import('./scrub.js')).damageCommand(machine, command.optsWithGlobals<GlobalOptions>(), io),
    );

  program
    .command('repair')
    .description('mend what the scrub has marked, now; the receiver does it by itself')
    .argument('<machine>', MACHINE_HELP)
    .option(...KEY_OPTION, collectKeys)
    .option(...SOCKET_OPTION)
    .option(...JSON_OPTION)
    .addHelpText('after', '\nExamples:\n  afterimage scrub web1 --now && afterimage repair web1\n')
    .action(async (machine: string, _: unknown, command: Command) =>
      (await import('./repair.js')).repairCommand(machine, command.optsWithGlobals<GlobalOptions>(), io),
    );
}

function addUpkeep(program: Command, io: CliIo): void {
  program
    .command('upkeep')
    .description(
      'drop points by the policy, merge layers, build bases, delete what nobody needs; the receiver does it by itself',
    )
    .argument('<machine>', MACHINE_HELP)
    .addOption(new Option('--task <task>', 'only this one').choices(UPKEEP_TASK_NAMES))
    .option('--dry-run', 'show what would be done and why; changes nothing')
    .option(...KEY_OPTION, collectKeys)
    .option(...SOCKET_OPTION)
    .option(...JSON_OPTION)
    .addHelpText('after', '\nExamples:\n  afterimage upkeep web1 --dry-run\n  afterimage upkeep web1 --task gc\n')
    .action(async (machine: string, _: unknown, command: Command) =>
      (await import('./upkeep.js')).upkeepCommand(machine, command.optsWithGlobals<UpkeepOptions>(), io),
    );
}

function addServe(program: Command, io: CliIo): void {
  program
    .command('serve')
    .description('serve the disks of a recovery point over NBD, in the foreground, until Ctrl-C')
    .argument('<machine>', MACHINE_HELP)
    .requiredOption('--point <point>', POINT_HELP)
    .option('--disk <disk>', 'only this disk')
    .option(...KEY_OPTION, collectKeys)
    .option('--writable', 'take writes; they stay on this host and are thrown away at the end')
    .option('--keep', 'with --writable: keep the writes, and go on with them when the same command is run again')
    .option(
      '--listen <address>',
      'unix:PATH or tcp:HOST:PORT, by TLS unless on loopback (default: a socket in the state)',
    )
    .option('--cache-bytes <size>', 'how much of the point is kept on this host (default: 4GiB)')
    .option('--state <folder>', 'where cache and writes lie (default: in /var/tmp; with --keep in /var/lib/afterimage)')
    .option(...JSON_OPTION)
    .addHelpText('after', serveExamples)
    .action(async (machine: string, _: unknown, command: Command) =>
      (await import('./serve.js')).serveCommand(machine, command.optsWithGlobals<ServeOptions>(), io),
    );
}

/** What is known about recovery, and what it is to be done with. */
function addRecoveryVerbs(program: Command, io: CliIo): void {
  program
    .command('status')
    .description('where machines run, what copies of them run here, and what can be done')
    .argument('[machine]', `${MACHINE_HELP}; all unless given`)
    .option('--all', 'also what can not be done now, and why')
    .option(...SOCKET_OPTION)
    .option(...JSON_OPTION)
    .addHelpText('after', '\nExamples:\n  afterimage status\n  afterimage status web1 --all\n')
    .action(async (machine: string | undefined, _: unknown, command: Command) =>
      (await import('./status.js')).statusCommand(machine, command.optsWithGlobals<StatusOptions>(), io),
    );

  program
    .command('jobs')
    .description('what was done with a machine, newest first')
    .argument('<machine>', MACHINE_HELP)
    .option('--job <id>', 'the tasks of this job, with their output')
    .option(...SOCKET_OPTION)
    .option(...JSON_OPTION)
    .addHelpText('after', '\nExamples:\n  afterimage jobs web1\n  afterimage jobs web1 --job 3f2a\n')
    .action(async (machine: string, _: unknown, command: Command) =>
      (await import('./jobs.js')).jobsCommand(machine, command.optsWithGlobals<JobsOptions>(), io),
    );

  program
    .command('launch-settings')
    .description('show or replace how a machine is started here; kept in the store')
    .argument('<machine>', MACHINE_HELP)
    .option('--set <file>', 'replace them by this YAML file, or by standard input with -')
    .option(...JSON_OPTION)
    .addHelpText('after', launchExamples)
    .action(async (machine: string, _: unknown, command: Command) =>
      (await import('./launch-settings.js')).launchSettingsCommand(
        machine,
        command.optsWithGlobals<LaunchSettingsOptions>(),
        io,
      ),
    );
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
