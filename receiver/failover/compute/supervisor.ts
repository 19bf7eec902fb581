/**
 * The receiver's side of a guest's supervisor: starts it so that it outlives the receiver, waits until the guest runs or has failed.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, openSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Clock } from '../../../shared/clock.js';
import { AfterimageError } from '../../../shared/errors.js';
import { GUEST_START_TIMEOUT_MS, GUEST_STOP_TIMEOUT_MS } from '../../../shared/limits.js';
import { isAlive } from './process-identity.js';
import { guestFiles } from './qemu-arguments.js';
import { endedFile, launchFile, runningGuest, supervisorFile, type LaunchFile } from './supervisor-files.js';

const WAIT_STEP_MS = 50;
/** A supervisor has little to do; its heap need not grow before it is collected. */
const NODE_FLAGS = ['--max-old-space-size=64', '--max-semi-space-size=1'];

export const supervisorProgram = (): string => fileURLToPath(new URL('./guest-supervisor.js', import.meta.url));

export interface SupervisorCommand {
  /** The receiver is a service of systemd: what it starts would end with it, so systemd is asked to start it. */
  readonly systemd: boolean;
  readonly instance: string;
  readonly uid: number;
  readonly gid: number;
  readonly node: string;
  readonly program: string;
  readonly folder: string;
}

/** Pure. */
export function supervisorCommand(command: SupervisorCommand): { program: string; args: string[] } {
  const { systemd, instance, uid, gid, node, program, folder } = command;
  const args = [...NODE_FLAGS, program, folder];
  if (!systemd) return { program: node, args };
  // The guest is told to power off before the receiver, which serves its disks, is stopped with the host.
  const properties = [
    'KillMode=mixed',
    `TimeoutStopSec=${GUEST_STOP_TIMEOUT_MS / 1000 + 10}`,
    'After=afterimage-receiver.service',
  ];
  return {
    program: 'systemd-run',
    args: [
      ...['--collect', '--quiet', '--no-ask-password', `--unit=afterimage-guest-${instance}`],
      ...[`--uid=${uid}`, `--gid=${gid}`, ...properties.map((property) => `--property=${property}`)],
      ...['--', node, ...args],
    ],
  };
}

/** As systemd sets it for its services. */
export const underSystemd = (env: Readonly<NodeJS.ProcessEnv>): boolean =>
  env['INVOCATION_ID'] !== undefined && existsSync('/run/systemd/system');

/** Starts a process in a session of its own, with its output in `log`. */
async function spawnDetached(program: string, args: readonly string[], log: string): Promise<ReturnType<typeof spawn>> {
  const fd = openSync(log, 'a', 0o600);
  try {
    const child = spawn(program, args, { detached: true, cwd: '/', stdio: ['ignore', fd, fd] });
    await once(child, 'spawn');
    return child;
  } finally {
    closeSync(fd);
  }
}

export interface StarterDeps {
  readonly clock: Clock;
  readonly env: Readonly<NodeJS.ProcessEnv>;
  /** Script of the supervisor. */
  readonly supervisorProgram: string;
}

async function startSupervisor(
  deps: StarterDeps,
  folder: string,
  instance: string,
  say: (line: string) => void,
): Promise<void> {
  const log = guestFiles(folder).log;
  const command = {
    systemd: underSystemd(deps.env),
    instance,
    uid: process.getuid?.() ?? 0,
    gid: process.getgid?.() ?? 0,
    node: process.execPath,
    program: deps.supervisorProgram,
    folder,
  };
  if (command.systemd) {
    const { program, args } = supervisorCommand(command);
    const problem = await spawnDetached(program, args, log).then(
      async (child) => ((child.exitCode ?? Number((await once(child, 'exit'))[0])) === 0 ? null : `see ${log}`),
      (error: unknown) => String(error),
    );
    if (problem === null) return;
    say(`systemd-run did not start the guest (${problem}); it runs inside the receiver's service and ends with it`);
  }
  const { program, args } = supervisorCommand({ ...command, systemd: false });
  (await spawnDetached(program, args, log)).unref();
}

/** The last lines that QEMU or its supervisor printed. */
async function lastWords(folder: string): Promise<string> {
  const text = await readFile(join(folder, 'qemu.log'), 'utf8').catch(() => ''); // nothing was printed
  return text.trim().split('\n').slice(-3).join(' | ').slice(-1000);
}

/**
 * Makes the guest run: takes up one that was half started, else starts it. Throws when QEMU refuses, with what it said.
 */
export async function superviseGuest(
  deps: StarterDeps,
  folder: string,
  launch: LaunchFile,
  { say, signal }: { say: (line: string) => void; signal: AbortSignal },
): Promise<void> {
  const deadlineMs = deps.clock.monotonicMs() + GUEST_START_TIMEOUT_MS;
  let started = false;
  for (;;) {
    const file = await supervisorFile.read(folder);
    if (file?.ready === true && (await runningGuest(folder)) !== null) return;
    // One that is there already is starting the guest, or noting its end; then the next round finds it gone.
    if (!started && !isAlive(file?.supervisor ?? null)) {
      await endedFile.remove(folder);
      await supervisorFile.remove(folder);
      await launchFile.write(folder, launch);
      await startSupervisor(deps, folder, launch.instance, say);
      started = true;
    }
    const end = started ? await endedFile.read(folder) : null;
    if (end !== null) {
      throw new AfterimageError(`the guest did not start; ${end.detail}`, {
        code: 'guest-not-started',
        kind: 'io',
        hint: `QEMU said: ${await lastWords(folder)}. Its command is in ${join(folder, 'launch.json')}.`,
      });
    }
    if (signal.aborted) {
      throw new AfterimageError('waiting for the guest was cancelled; it may be starting', {
        code: 'cancelled',
        kind: 'cancelled',
      });
    }
    if (deps.clock.monotonicMs() > deadlineMs) {
      throw new AfterimageError(`the guest was not ready within ${GUEST_START_TIMEOUT_MS / 1000} s`, {
        code: 'guest-not-started',
        kind: 'io',
        hint: `See ${guestFiles(folder).log}: ${await lastWords(folder)}`,
      });
    }
    await deps.clock.sleep(WAIT_STEP_MS, signal);
  }
}
