#!/usr/bin/env node
/**
 * `afterimage-agent`: enrol, protect, run, look.
 */
import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { Command } from 'commander';
import { runCommandLine, signalOfProcess } from '../shared/cli.js';
import { systemClock, systemRandom } from '../shared/clock.js';
import { durationText } from '../shared/config/parse-values.js';
import { AfterimageError, usageError } from '../shared/errors.js';
import { PROFILE_EVERY_MS, PROFILE_FOR_MS } from '../shared/limits-profile.js';
import { formatBytes, formatDuration, isDiskId, type DiskId } from '../shared/units.js';
import { VERSION } from '../shared/version.js';
import { ask, CONTROL, isRunning, reloadIfRunning, reloadSoon } from './client.js';
import { AGENT_CONFIG_PATH, loadAgentConfig } from './config.js';
import type { CycleResult } from './cycle/machine-cycle.js';
import { hardwareId } from './describe.js';
import { initKeys, KEEP_A_COPY, keysText, rotateKeys, showKeys, type KeysShown } from './keys/commands.js';
import { loadCredentials } from './session/credentials.js';
import { protect, replaceDisk, unprotect } from './protect.js';
import { ruleThatTakes } from './protect-by-rule.js';
import { Sysfs } from './disks/sysfs.js';
import { POINT_LABEL_CHARS_MAX } from '../shared/limits-quiesce.js';
import { labelSchema } from '../shared/wire/quiesce-record.js';
import type { PointRequest } from './quiesce/machine-asked.js';
import type { ProfileOptions } from './profile/command.js';
import type { Profile } from './profile/report.js';
import { dryRun } from './quiesce-command.js';
import { planText } from './quiesce/plan/view.js';
import { statusText } from './status-view.js';
import type { AgentSnapshot } from './status.js';

type ProfileSample = Profile['samples'][number];

const program = new Command('afterimage-agent')
  .description('Follows the changes of this machine’s disks and sends them to a receiver as recovery points.')
  .version(VERSION)
  .option('--config <file>', 'configuration (default: /etc/afterimage/agent.yaml, all keys optional)')
  .addHelpText(
    'after',
    `
Examples:
  afterimage-agent enroll ai1.eyJhIjoi…         (the token comes from \`afterimage-receiver token\`)
  afterimage-agent protect /dev/sda /dev/sdb
  afterimage-agent run
  afterimage-agent status --watch

Exit codes: 0 done, 1 failed, 2 bad input (nothing was changed).
`,
  );

const config = (): ReturnType<typeof loadAgentConfig> => loadAgentConfig(program.opts<{ config?: string }>().config);
const print = (text: string): void => void process.stdout.write(`${text}\n`);
/** What a change still waits for. */
const sayLater = (note: string | null): void => {
  if (note !== null) process.stderr.write(`note: ${note}\n`);
};
const printJson = (value: unknown): void => print(JSON.stringify(value, null, 2));

program
  .command('enroll')
  .description('enrol this machine with a one-time token of the receiver')
  .argument('<token>', 'as printed by `afterimage-receiver token`')
  .option('--name <name>', 'name of this machine at the receiver', hostname())
  .option('--address <host:port>', 'reach the receiver at another address than the token’s')
  .option('--json', 'print JSON')
  .action(async (token: string, options: { name: string; address?: string; json?: boolean }) => {
    const { stateDir } = await config();
    const { name, address } = options;
    // Loaded for this command alone: what makes keys and certificates costs a running agent 15 MiB.
    const { enroll } = await import('./session/enroll.js');
    const enrolled = await enroll({
      stateDir,
      token,
      name,
      hardwareId: hardwareId(),
      ...(address === undefined ? {} : { address }),
    });
    const { machine, generation, receiver } = enrolled;
    if (options.json === true) printJson({ machine, name: enrolled.name, generation, receiver });
    else print(`Enrolled as ${enrolled.name} (${machine}) at ${receiver}. Next: afterimage-agent protect DEVICE`);
  });

program
  .command('protect')
  .description('protect block devices or image files')
  .argument('<device...>', 'e.g. /dev/sda; a whole disk, a partition, or an image file')
  .option(
    '--as <disk>',
    'the one device takes the place of this disk (its id), which is gone; it will be written over by a failback',
  )
  .option('--block-bytes <bytes>', 'with --as: block size of the disk’s points, when this machine does not know it')
  .option('--json', 'print JSON')
  .action(async (devices: string[], options: { as?: string; blockBytes?: string; json?: boolean }) => {
    const { stateDir, controlSocket } = await config();
    const added =
      options.as === undefined
        ? await protect(stateDir, devices, randomUUID)
        : [
            await replaceDisk(stateDir, diskIdOf(options.as), onlyOne(devices), {
              newUuid: randomUUID,
              blockBytes: options.blockBytes === undefined ? null : Number(options.blockBytes),
            }),
          ];
    sayLater(await reloadIfRunning(controlSocket));
    if (options.json === true) printJson(added);
    else {
      for (const disk of added) {
        print(`${disk.path}: protected as disk ${disk.id}, ${formatBytes(disk.sizeBytes)}, tracker ${disk.tracker}`);
        for (const warning of disk.warnings) print(`  note: ${warning}`);
      }
    }
  });

program
  .command('unprotect')
  .description('stop protecting a disk; its recovery points stay')
  .argument('<disk>', 'its device or its id')
  .action(async (word: string) => {
    const loaded = await config();
    const { stateDir, controlSocket, tracker } = loaded;
    const running = await isRunning(controlSocket);
    const gone = await unprotect(stateDir, word, {
      pinDirectory: tracker.pinDir,
      reload: async () => {
        if (running) await ask(controlSocket, 'POST', CONTROL.reload);
      },
      takeBack: () => reloadSoon(controlSocket),
      ruleFor: (list, id) => ruleThatTakes(loaded, new Sysfs(), list, id),
    });
    print(`${gone.path} (disk ${gone.id}) is no longer protected; its recovery points stay in the store.`);
  });

program
  .command('run')
  .description('run the agent in the foreground (systemd starts it so)')
  .action(async () => {
    // Half of all that this program consists of: who asks for something else need not wait for it, at boot and shutdown above all.
    const { runAgent } = await import('./daemon.js');
    await runAgent(await config(), signalOfProcess());
  });

program
  .command('status')
  .description('show what the running agent does')
  .option('--watch', 'keep showing it')
  .option('--json', 'print JSON')
  .action(async (options: { watch?: boolean; json?: boolean }) => {
    const { controlSocket } = await config();
    const signal = signalOfProcess();
    for (;;) {
      const status = (await ask(controlSocket, 'GET', '/status')) as AgentSnapshot;
      if (options.json === true) print(JSON.stringify(status));
      else print(`${options.watch === true && process.stdout.isTTY ? '\x1b[H\x1b[2J' : ''}${statusText(status)}`);
      if (options.watch !== true || signal.aborted) return;
      await systemClock.sleep(1000, signal);
      if (signal.aborted) return;
    }
  });

program
  .command('sync-now')
  .description('make a recovery point now and wait for its commit')
  .option('--json', 'print JSON')
  .action(async (options: { json?: boolean }) => {
    const { controlSocket } = await config();
    const result = (await ask(controlSocket, 'POST', CONTROL.sync)) as CycleResult;
    if (options.json === true) printJson(result);
    else
      print(
        `Recovery point ${result.point} is committed: ${result.cut.consistency}-consistent, ${formatBytes(result.changedBytes)} changed.`,
      );
  });

program
  .command('point')
  .description('make a recovery point of a certain consistency now and wait for its commit')
  .option('--consistency <level>', 'application, filesystem or crash', 'application')
  .option('--label <text>', 'a name for it: shown with the point, and in the logs of databases')
  .option('--json', 'print JSON')
  .addHelpText(
    'after',
    '\nA point that came out weaker than asked for is kept all the same; the command then exits with 1 and says why.\n',
  )
  .action(async (options: { consistency: string; label?: string; json?: boolean }) => {
    const request = pointRequestOf(options.consistency, options.label);
    const { controlSocket } = await config();
    const result = (await ask(controlSocket, 'POST', CONTROL.point, request)) as CycleResult;
    if (options.json === true) printJson(result);
    else print(madeText(result));
    if (result.cut.consistency !== request.consistency && result.cut.weaker !== '') process.exitCode = 1;
  });

program
  .command('quiesce')
  .description('show what is frozen and which applications are quiesced for stronger points, and why')
  .argument('[device...]', 'look at these instead of the protected disks')
  .option('--dry-run', 'change nothing; nothing else is offered here')
  .option('--json', 'print JSON')
  .action(async (devices: string[], options: { dryRun?: boolean; json?: boolean }) => {
    if (options.dryRun !== true)
      throw usageError('quiesce only shows: give --dry-run', 'To make such a point: `afterimage-agent point`.');
    const path = program.opts<{ config?: string }>().config ?? AGENT_CONFIG_PATH;
    const plan = await dryRun(await config(), path, devices, randomUUID);
    if (options.json === true) printJson(plan);
    else print(planText(plan));
  });

program
  .command('verify')
  .description('compare all protected disks with what the receiver has, from end to end')
  .option('--json', 'print JSON')
  .addHelpText(
    'after',
    '\nWhat differs is sent and becomes part of the next recovery point; a block that differs although no write to it was seen is reported.\n',
  )
  .action(async (options: { json?: boolean }) => {
    const { controlSocket } = await config();
    const result = await compareAndWait(controlSocket);
    if (options.json === true) printJson(result);
    else
      print(
        `Compared ${formatBytes(result.comparedBytes)}; point ${result.point} holds what the disks hold. ${formatBytes(result.sentBytes)} differed or changed meanwhile.`,
      );
  });

program
  .command('doctor')
  .description('look at all that the agent stands on, and say what to do where something is wrong')
  .option('--json', 'print JSON')
  .addHelpText('after', '\nExit code 1 when something fails; what is only a warning does not count.\n')
  .action(async (options: { json?: boolean }) => {
    const loaded = await config();
    // Loaded for this command alone: a running agent needs none of it.
    const [{ collectFacts }, { judge }, { isFine }, { doctorText }] = await Promise.all([
      import('./doctor/collect/index.js'),
      import('./doctor/judge.js'),
      import('./doctor/check.js'),
      import('./doctor/text.js'),
    ]);
    const checks = judge(await collectFacts(loaded, systemClock));
    if (options.json === true) printJson({ fine: isFine(checks), checks });
    else print(doctorText(checks));
    if (!isFine(checks)) process.exitCode = 1;
  });

program
  .command('profile')
  .description('measure how much disks change over time, and recommend interval, bandwidth and storage')
  .argument('[device...]', 'these, protected or not, instead of the protected disks')
  .option(
    '--for <time>',
    'how long, e.g. 10min or 2h; Ctrl-C ends it with what was measured so far',
    durationText(PROFILE_FOR_MS),
  )
  .option('--every <time>', 'a sample each', durationText(PROFILE_EVERY_MS))
  .option('--bandwidth <rate>', 'what the link can give, e.g. 100Mbit/s: the interval is chosen for it')
  .option('--json', 'print JSON')
  .addHelpText('after', '\nNothing is changed on the disks; a running agent goes on undisturbed.\n')
  .action(async (devices: string[], options: ProfileOptions & { json?: boolean }) => {
    const loaded = await config();
    // Loaded for this command alone: a running agent needs none of it.
    const [{ profileCommand }, { profileText }] = await Promise.all([
      import('./profile/command.js'),
      import('./profile/text.js'),
    ]);
    const onSample = ({ atMs, writtenBytes, changedBytes }: ProfileSample): void => {
      if (!process.stderr.isTTY) return;
      const sample = `written ${formatBytes(writtenBytes)}, changed ${formatBytes(changedBytes)}`;
      process.stderr.write(`\r\x1b[K${formatDuration(atMs)}: ${sample}`);
    };
    const tools = { clock: systemClock, random: systemRandom, newUuid: randomUUID, onSample };
    const found = await profileCommand(loaded, devices, options, tools, signalOfProcess());
    if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');
    if (options.json === true) printJson(found);
    else print(profileText(found.profile, found.recommendation));
  });

const tracking = program
  .command('tracking')
  .description('change tracking in the kernel, apart from the agent that reads it');

/** While the agent runs, the marks are its. */
async function mustNotRun(socket: string): Promise<void> {
  if (!(await isRunning(socket))) return;
  throw new AfterimageError('the agent is running', {
    code: 'agent-running',
    kind: 'refused',
    hint: 'Stop it first: `systemctl stop afterimage-agent`.',
  });
}

tracking
  .command('close')
  .description('note of each disk that it is closed, or why not: at shutdown, when filesystems are unmounted')
  .action(async () => {
    const loaded = await config();
    await mustNotRun(loaded.controlSocket);
    await (await import('./reboot/commands.js')).closeForReboot(loaded);
  });

tracking
  .command('arm')
  .description('go on tracking the disks that were closed and are untouched: at boot, before filesystems are mounted')
  .action(async () => {
    const loaded = await config();
    await mustNotRun(loaded.controlSocket);
    await (await import('./reboot/commands.js')).armAfterReboot(loaded);
  });

tracking
  .command('end')
  .description('end the tracking of all disks: when the agent is removed; the next agent compares')
  .action(async () => {
    const { controlSocket, tracker } = await config();
    await mustNotRun(controlSocket);
    const { removeAllPins } = await import('./tracker/ebpf/objects.js');
    print(`Tracking of ${removeAllPins(tracker.pinDir)} disks has ended.`);
  });

const keys = program.command('keys').description('keys with which this machine encrypts before anything leaves it');

/** The key file of the configuration, unless another is named. */
async function keyPath(given: string | undefined): Promise<string> {
  const path = given ?? (await config()).encryption.keyFile;
  if (path !== undefined) return path;
  throw usageError('no key file is named', 'Give --file, or set `encryption: { keyFile: … }` in agent.yaml.');
}

function printKeys(shown: KeysShown, json: boolean | undefined): void {
  if (json === true) printJson(shown);
  else print(keysText(shown));
}

keys
  .command('init')
  .description('make the key file; an existing one is left alone')
  .option('--file <path>', 'where (default: `encryption: { keyFile }` of the configuration)')
  .option('--json', 'print JSON')
  .action(async (options: { file?: string; json?: boolean }) => {
    const path = await keyPath(options.file);
    const credentials = await loadCredentials((await config()).stateDir);
    printKeys(await initKeys(path, credentials?.machine ?? null, systemClock.nowMs()), options.json);
    process.stderr.write(`${KEEP_A_COPY}\n`);
  });

keys
  .command('rotate')
  .description('add a data key: what is sent from now on is encrypted with it')
  .option('--file <path>', 'which (default: that of the configuration)')
  .option('--json', 'print JSON')
  .action(async (options: { file?: string; json?: boolean }) => {
    const { controlSocket } = await config();
    printKeys(await rotateKeys(await keyPath(options.file), systemClock.nowMs()), options.json);
    process.stderr.write(`${KEEP_A_COPY}\n`);
    sayLater(await reloadIfRunning(controlSocket));
  });

keys
  .command('show')
  .description('show which keys there are, never a key')
  .option('--file <path>', 'which (default: that of the configuration)')
  .option('--json', 'print JSON')
  .action(async (options: { file?: string; json?: boolean }) => {
    printKeys(await showKeys(await keyPath(options.file)), options.json);
  });

const LEVELS = ['application', 'filesystem', 'crash'] as const;

function pointRequestOf(consistency: string, label: string | undefined): PointRequest {
  const level = LEVELS.find((name) => name === consistency);
  if (level === undefined) throw usageError(`--consistency ${consistency}: expected ${LEVELS.join(', ')}`);
  const parsed = labelSchema.safeParse(label ?? 'none');
  if (!parsed.success)
    throw usageError(`--label: expected 1 to ${POINT_LABEL_CHARS_MAX} printable characters, in one line`);
  return { consistency: level, label: label ?? null };
}

function madeText({ point, cut, quiesce, changedBytes }: CycleResult): string {
  const pause = cut.freezeMs > 0 ? `, frozen for ${cut.freezeMs.toFixed(0)} ms` : '';
  const held = quiesce !== null && quiesce.heldMs > 0 ? `, commits held back for ${quiesce.heldMs} ms` : '';
  const made = `Recovery point ${point} is committed: ${cut.consistency}-consistent${pause}${held}, ${formatBytes(changedBytes)} changed.`;
  return cut.weaker === '' ? made : `${made}\nWeaker than asked for: ${cut.weaker}`;
}

function diskIdOf(text: string): DiskId {
  if (isDiskId(text)) return text as DiskId;
  throw usageError(
    `${text} is not the id of a disk`,
    'See `afterimage-agent status --json`, or the point at the receiver.',
  );
}

function onlyOne(devices: readonly string[]): string {
  const [device, ...more] = devices;
  if (device !== undefined && more.length === 0) return device;
  throw usageError('--as takes one device');
}

interface Comparison {
  readonly comparedBytes: number;
  readonly sentBytes: number;
  readonly point: number;
}

/** Starts the comparison and waits for the point after it, with a line of progress every few seconds. */
async function compareAndWait(socket: string): Promise<Comparison> {
  const before = (await ask(socket, 'GET', '/status')) as AgentSnapshot;
  const pointBefore = before.lastPoint?.number ?? 0;
  const sent = (s: AgentSnapshot): number => s.disks.reduce((sum, d) => sum + d.counters.sentBytes, 0);
  await ask(socket, 'POST', CONTROL.verify);
  const signal = signalOfProcess();
  for (let tick = 0; !signal.aborted; tick++) {
    await systemClock.sleep(1000, signal);
    const now = (await ask(socket, 'GET', '/status')) as AgentSnapshot;
    const point = now.lastPoint?.number ?? 0;
    if (now.state === 'Protected' && point > pointBefore) {
      return {
        comparedBytes: now.disks.reduce((sum, d) => sum + d.sizeBytes, 0),
        sentBytes: sent(now) - sent(before),
        point,
      };
    }
    if (!now.receiver.connected)
      throw new AfterimageError(`comparison interrupted: ${now.receiver.reason}`, {
        code: 'not-connected',
        kind: 'disconnected',
        hint: 'It goes on by itself when the agent is connected again.',
      });
    if (tick % 3 === 0) process.stderr.write(`${statusText(now)}\n`);
  }
  throw usageError('cancelled: the comparison goes on in the agent');
}

await runCommandLine(program, process.argv.slice(2));
