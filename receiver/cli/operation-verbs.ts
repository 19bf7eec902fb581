/**
 * The verbs of failover: their options, their help, and the request that each becomes.
 */
import { Option, type Command } from 'commander';
import { parseDuration } from '../../shared/config/parse-values.js';
import { usageError } from '../../shared/errors.js';
import { parsePointSelector } from '../catalog/point-selector.js';
import type { OperationInput, RecoveryView } from '../failover/operations.js';
import type { CliIo } from './io.js';
import type { Question, RunOptions } from './run-operation.js';
import {
  CHECK_HELP,
  DEFAULT_CHECK_TIMEOUT,
  JSON_OPTION,
  MACHINE_HELP,
  POINT_HELP,
  SOCKET_OPTION,
} from './verb-options.js';

interface StartOptions extends RunOptions {
  readonly point?: string;
  readonly provider?: 'qemu' | 'command' | 'none';
  readonly check?: string;
  readonly checkTimeout?: string;
  readonly withoutDisk?: readonly string[];
}

interface FailoverOptions extends StartOptions {
  readonly planned?: boolean;
  readonly hookTimeout?: string;
  readonly shutdown?: boolean;
  readonly commit?: boolean;
}

interface FailbackOptions extends RunOptions {
  readonly force?: boolean;
  readonly shutdownTimeout?: string;
}

const nothing: Question = () => null;

async function startFields({ point, provider, check, checkTimeout, withoutDisk }: StartOptions): Promise<object> {
  if (point !== undefined) parsePointSelector(point);
  if (checkTimeout !== undefined && check === undefined) throw usageError('--check-timeout needs --check');
  return {
    ...(point === undefined ? {} : { point }),
    ...(provider === undefined ? {} : { provider }),
    ...(check === undefined ? {} : { bootCheck: await parsedCheck(check, checkTimeout) }),
    ...(withoutDisk === undefined ? {} : { withoutDisks: withoutDisk }),
  };
}

/** Loaded where it is needed, as in program.ts. */
const parsedCheck = async (check: string, timeout: string | undefined): Promise<object> =>
  (await import('./boot-check-option.js')).parseBootCheck(check, timeout);

function durationField(field: string, option: string, text: string | undefined): object {
  if (text === undefined) return {};
  const ms = parseDuration(text);
  if (ms === null) throw usageError(`${option} ${text} is not a duration`, 'Give it as 90s, 5min or 1h.');
  return { [field]: ms };
}

async function failoverInput(options: FailoverOptions): Promise<OperationInput> {
  const { planned = false, shutdown = false, commit = false, hookTimeout } = options;
  if (planned && shutdown)
    throw usageError('--planned shuts the workload at home down in any case: leave --shutdown out');
  if (planned && options.withoutDisk !== undefined)
    throw usageError('--planned needs all disks of the machine at home: leave --without-disk out, or --planned');
  if (!planned && hookTimeout !== undefined) throw usageError('--hook-timeout needs --planned');
  const start = await startFields(options);
  if (!planned) return { operation: 'failover', ...start, shutdown, commit };
  return {
    operation: 'planned-failover',
    ...start,
    commit,
    ...durationField('hookTimeoutMs', '--hook-timeout', hookTimeout),
  };
}

const failoverQuestion =
  ({ planned, shutdown, point = 'latest' }: FailoverOptions): Question =>
  ({ machine: { name }, lastPoint }) => {
    if (planned === true) return `Shut ${name} down at home and run it here with everything that it wrote?`;
    const home = shutdown === true ? 'is shut down, if it answers' : 'is cut off, not shut down';
    return `Fail ${name} over to point ${point} (the newest is ${lastPoint})? Home ${home}.`;
  };

function cancelQuestion({ machine, recovery }: RecoveryView): string {
  const job = recovery?.job ?? null;
  if (job !== null) return `Cancel ${job.operation} of ${machine.name}, which is running?`;
  return `Give the failover of ${machine.name} up? What its copy wrote since is thrown away; home goes on.`;
}

export function addOperationVerbs(program: Command, io: CliIo): void {
  const verb = (name: string, description: string, examples: readonly string[]): Command =>
    program
      .command(name)
      .description(description)
      .argument('<machine>', MACHINE_HELP)
      .option(...SOCKET_OPTION)
      .option('--no-wait', 'return at once with the id of the job')
      .option(...JSON_OPTION)
      .addHelpText('after', `\nExamples:\n${examples.map((e) => `  afterimage ${e}\n`).join('')}`);
  const withLaunch = (command: Command): Command =>
    command
      .addOption(
        new Option('--provider <provider>', 'what starts it; else as in its launch settings').choices([
          'qemu',
          'command',
          'none',
        ]),
      )
      .option('--check <check>', `${CHECK_HELP}; else as in its launch settings`)
      .option('--check-timeout <duration>', `how long the check may take (default: ${DEFAULT_CHECK_TIMEOUT})`)
      .option(
        '--without-disk <disk>',
        'take the point although it lacks this disk, by id or device; once for each. A point given by number is taken as it is',
        (disk: string, before: readonly string[] | undefined) => [...(before ?? []), disk],
      );
  const withStart = (command: Command): Command =>
    withLaunch(command.option('--point <point>', `${POINT_HELP}; the latest unless given`));
  const withYes = (command: Command): Command => command.option('--yes', "don't ask");
  const run = async (
    machine: string,
    input: OperationInput,
    question: Question,
    options: RunOptions,
  ): Promise<void> => {
    const [{ parseOperation }, { runOperation }] = await Promise.all([
      import('../api/parse-operation.js'),
      import('./run-operation.js'),
    ]);
    await runOperation(machine, parseOperation(input), question, options, io);
  };

  withYes(
    withStart(
      verb('failover', 'run a machine here, from one of its recovery points', [
        'failover web1',
        'failover web1 --point 812 --check tcp:127.0.0.1:8022',
        'failover web1 --planned --hook-timeout 5min --commit',
      ]),
    ),
  )
    .option('--planned', 'nothing is lost: home is shut down and its last cut committed first')
    .option('--hook-timeout <duration>', 'with --planned: how long the shutdown at home may take (default: 10min)')
    .option('--shutdown', 'shut home down and get its last cut first, if it answers; go on without if not')
    .option('--commit', 'commit at once when it succeeds')
    .action(async (machine: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<FailoverOptions>();
      await run(machine, await failoverInput(options), failoverQuestion(options), options);
    });

  withStart(
    verb('test-failover', 'run a copy of a machine on the side; production goes on, its writes are thrown away later', [
      'test-failover web1',
      'test-failover web1 --point latest-app-consistent --check serial:login:',
    ]),
  ).action(async (machine: string, _: unknown, command: Command) => {
    const options = command.optsWithGlobals<StartOptions>();
    await run(machine, { operation: 'test-failover', ...(await startFields(options)) }, nothing, options);
  });

  verb('cleanup', 'end the test failover of a machine and throw away what it wrote', [
    'cleanup web1 --notes "mail queue was empty, login worked"',
  ])
    .option('--notes <text>', 'what came of the test; kept with the job')
    .action((machine: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<RunOptions & { notes?: string }>();
      const notes = options.notes === undefined ? {} : { notes: options.notes };
      return run(machine, { operation: 'cleanup', ...notes }, nothing, options);
    });

  verb('commit', 'settle a failover: its point can no longer be changed', ['commit web1']).action(
    (machine: string, _: unknown, command: Command) =>
      run(machine, { operation: 'commit' }, nothing, command.optsWithGlobals<RunOptions>()),
  );

  withYes(
    withLaunch(
      verb('change-point', 'start a failover that is not committed again from another point', [
        'change-point web1 --point 810',
      ]).requiredOption('--point <point>', POINT_HELP),
    ),
  ).action(async (machine: string, _: unknown, command: Command) => {
    const options = command.optsWithGlobals<StartOptions & { point: string }>();
    const input: OperationInput = { operation: 'change-point', ...(await startFields(options)), point: options.point };
    const question: Question = (view) =>
      `Start ${view.machine.name} again from point ${options.point}? What its copy wrote since is thrown away.`;
    await run(machine, input, question, options);
  });

  withYes(
    verb('cancel', 'cancel the running job, or give up a failover that is not committed', ['cancel web1']),
  ).action((machine: string, _: unknown, command: Command) =>
    run(machine, { operation: 'cancel' }, cancelQuestion, command.optsWithGlobals<RunOptions>()),
  );

  verb('reprotect', 'let home follow the machine that runs here, as its agent connects', ['reprotect web1']).action(
    (machine: string, _: unknown, command: Command) =>
      run(machine, { operation: 'reprotect' }, nothing, command.optsWithGlobals<RunOptions>()),
  );

  withYes(
    verb('failback', 'bring a machine home with everything that it wrote here', [
      'failback web1',
      'failback web1 --shutdown-timeout 2min --force',
    ]),
  )
    .option('--force', 'end the guest when it does not power off in time')
    .option('--shutdown-timeout <duration>', 'how long the guest may take to power off (default: 5min)')
    .action((machine: string, _: unknown, command: Command) => {
      const options = command.optsWithGlobals<FailbackOptions>();
      const timeout = durationField('shutdownTimeoutMs', '--shutdown-timeout', options.shutdownTimeout);
      const input: OperationInput = { operation: 'failback', force: options.force === true, ...timeout };
      const question: Question = (view) => `Shut ${view.machine.name} down here and let home take over?`;
      return run(machine, input, question, options);
    });
}
