/**
 * Provider `qemu`: a guest in QEMU on this host, with its disks over NBD from the receiver. Keeps nothing in memory: what it has to remember of a
 * guest lies in the instance's folder (supervisor-files.ts), so any receiver on this host finds it again after a crash.
 */
import { constants } from 'node:fs';
import { copyFile, mkdir, rename, rm, stat } from 'node:fs/promises';
import { z } from 'zod';
import { syncFolder } from '../../../shared/durable-file.js';
import { AfterimageError, errnoOf, messageOf } from '../../../shared/errors.js';
import { GUEST_KILL_TIMEOUT_MS, POWER_BUTTON_INTERVAL_MS } from '../../../shared/limits.js';
import { chooseAcceleration, probeAcceleration, type Acceleration } from './acceleration.js';
import { guestShape } from './guest-shape.js';
import { isAlive, processesWhere, signalProcess, type ProcessId } from './process-identity.js';
import {
  PAUSED_BY_ERROR,
  type CheckContext,
  type ComputeProvider,
  type GuestState,
  type LaunchSpec,
} from './provider.js';
import { guestFiles, qemuArguments } from './qemu-arguments.js';
import { findBridgeHelper, findOvmf, gatherFacts, launchProblems, QEMU_PROGRAM } from './qemu-problems.js';
import { withQmp } from './qmp.js';
import { superviseGuest, type StarterDeps } from './supervisor.js';
import {
  endedFile,
  isGuestOf,
  isSupervisorOf,
  launchFile,
  runningGuest,
  supervisorFile,
  type EndedFile,
} from './supervisor-files.js';

const statusSchema = z.object({ status: z.string() });
const WAIT_STEP_MS = 50;
/** The supervisor notes the end right after QEMU's; it may be busy. */
const END_NOTE_MS = 3_000;

export type QemuDeps = StarterDeps;

export class QemuProvider implements ComputeProvider {
  readonly kind = 'qemu';
  readonly #deps: QemuDeps;
  readonly #starting = new Map<string, Promise<void>>();

  constructor(deps: QemuDeps) {
    this.#deps = deps;
  }

  async problems(spec: LaunchSpec, replaced: LaunchSpec | null): Promise<readonly string[]> {
    if ((await runningGuest(spec.folder)) !== null) return [];
    const leaving = replaced !== null && (await runningGuest(replaced.folder)) !== null ? guestShape(replaced) : null;
    const shape = guestShape(spec);
    let accelerationProblem: string | null = null;
    try {
      const probe = await this.#probe();
      if (chooseAcceleration(probe).kind === 'kvm' && probe.kvmProblem !== null) {
        accelerationProblem = `KVM can't be used (${probe.kvmProblem}): give the receiver access to /dev/kvm, or set AFTERIMAGE_QEMU_ACCEL=auto`;
      }
    } catch (error) {
      accelerationProblem = `${messageOf(error)}: set it to kvm, tcg or auto`;
    }
    const host = {
      program: QEMU_PROGRAM,
      path: this.#deps.env['PATH'] ?? '',
      ovmfFound: (await findOvmf()) !== null,
      accelerationProblem,
    };
    return launchProblems(spec, shape, await gatherFacts(spec, shape, host, leaving));
  }

  /** One after the other per instance: the second finds what the first has started. */
  start(spec: LaunchSpec, context: CheckContext): Promise<void> {
    const { folder } = spec;
    const before = this.#starting.get(folder) ?? Promise.resolve();
    const mine = before.catch(() => undefined).then(() => this.#start(spec, context)); // its caller has the error
    this.#starting.set(folder, mine);
    const forget = (): void => {
      if (this.#starting.get(folder) === mine) this.#starting.delete(folder);
    };
    mine.then(forget, forget);
    return mine;
  }

  async #start(spec: LaunchSpec, context: CheckContext): Promise<void> {
    const { folder } = spec;
    const guest = await runningGuest(folder);
    const file = await supervisorFile.read(folder);
    if (guest !== null && (file?.ready === true || !isAlive(file?.supervisor ?? null))) {
      await this.#resume(spec, context);
      return;
    }
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const shape = guestShape(spec);
    const acceleration = await this.#acceleration();
    const ovmf = await findOvmf();
    if (shape.firmware === 'uefi') await this.#prepareVars(spec, ovmf);
    const host = { acceleration: acceleration.kind, ovmf, bridgeHelper: await findBridgeHelper() };
    for (const note of shape.notes) context.say(note);
    context.say(`QEMU with ${acceleration.kind}: ${acceleration.reason}`);
    const launch = { instance: spec.instance, program: QEMU_PROGRAM, arguments: qemuArguments(spec, shape, host) };
    await superviseGuest(this.#deps, folder, launch, context);
  }

  async state({ folder }: LaunchSpec): Promise<GuestState> {
    const guest = await runningGuest(folder);
    const file = await supervisorFile.read(folder);
    if (guest !== null) {
      return { running: true, detail: await this.#status(folder), startedAtMs: file?.startedAtMs ?? null };
    }
    const end = await endedFile.read(folder);
    if (end !== null) return { running: false, detail: end.detail, startedAtMs: end.startedAtMs };
    if (file === null) return { running: false, detail: 'never started', startedAtMs: null };
    if (isAlive(file.supervisor)) {
      const detail = file.startedAtMs === null ? 'starting' : 'ended a moment ago';
      return { running: false, detail, startedAtMs: file.startedAtMs };
    }
    const detail = 'ended for an unknown reason: its supervisor is gone too (a restart of this host?)';
    return { running: false, detail, startedAtMs: file.startedAtMs };
  }

  async shutdown(
    spec: LaunchSpec,
    { timeoutMs, force, signal, say }: { timeoutMs: number; force: boolean } & CheckContext,
  ): Promise<'clean' | 'forced' | 'not-running'> {
    const { clock } = this.#deps;
    const guest = await runningGuest(spec.folder);
    if (guest === null) return 'not-running';
    const deadlineMs = clock.monotonicMs() + timeoutMs;
    say(`pressing the power button; waiting ${Math.round(timeoutMs / 1000)} s at most`);
    let trouble = '';
    while (isAlive(guest) && clock.monotonicMs() < deadlineMs && !signal.aborted) {
      trouble = await this.#pressPower(spec.folder);
      await this.#waitForEnd(guest, Math.min(POWER_BUTTON_INTERVAL_MS, deadlineMs - clock.monotonicMs()), signal);
    }
    if (!isAlive(guest)) return this.#judgeEnd(await this.#endNote(spec.folder), { force, say });
    if (signal.aborted)
      throw new AfterimageError('the shutdown was cancelled', { code: 'cancelled', kind: 'cancelled' });
    if (!force) {
      throw new AfterimageError(`the guest did not power off within ${Math.round(timeoutMs / 1000)} s${trouble}`, {
        code: 'guest-does-not-power-off',
        kind: 'io',
        hint: 'It runs on, and may still heed the power button. Try again, or use --force to end it as by a power cut.',
      });
    }
    say(`the guest did not power off in time${trouble}: ending it`);
    await this.kill(spec);
    return 'forced';
  }

  async kill({ folder }: LaunchSpec): Promise<void> {
    const { clock } = this.#deps;
    const deadlineMs = clock.monotonicMs() + GUEST_KILL_TIMEOUT_MS;
    // A supervisor that is only beginning finds nothing to start any more.
    await launchFile.remove(folder);
    for (let round = 0; ; round++) {
      // By their arguments, not by what was noted: one that was started a moment ago may not be noted yet.
      const guests = processesWhere((args) => isGuestOf(folder, args));
      const supervisors = processesWhere((args) => isSupervisorOf(folder, args));
      if (guests.length + supervisors.length === 0) return;
      // Not QMP's `quit`: it waits for the disks, which may not be served.
      for (const guest of guests) signalProcess(guest, 'SIGKILL');
      if (round === 0 && guests.length > 0) await this.#endNote(folder);
      else for (const supervisor of supervisors) signalProcess(supervisor, 'SIGKILL');
      if (clock.monotonicMs() > deadlineMs) {
        const pids = [...guests, ...supervisors].map(({ pid }) => pid).join(', ');
        throw new AfterimageError(`QEMU (process ${pids}) was killed, but is not gone`, {
          code: 'guest-not-killed',
          kind: 'io',
          hint: 'It hangs in the kernel and may still write. Look at what it waits for (/proc/PID/stack), then repeat.',
        });
      }
      await clock.sleep(WAIT_STEP_MS);
    }
  }

  async cleanup(spec: LaunchSpec): Promise<void> {
    if ((await runningGuest(spec.folder)) !== null) {
      throw new AfterimageError('the guest runs; its files are not removed', {
        code: 'guest-runs',
        kind: 'refused',
        hint: 'Shut it down first.',
      });
    }
    // What is left of its supervisor would write into a folder that is gone.
    await this.#endNote(spec.folder);
    await this.kill(spec);
    await rm(spec.folder, { recursive: true, force: true });
  }

  #probe(): ReturnType<typeof probeAcceleration> {
    return probeAcceleration(this.#deps.env['AFTERIMAGE_QEMU_ACCEL']);
  }

  async #acceleration(): Promise<Acceleration> {
    return chooseAcceleration(await this.#probe());
  }

  /** A guest that runs is left alone, but for one that was stopped by an I/O error: its disks are served again. */
  async #resume({ folder }: LaunchSpec, { say }: CheckContext): Promise<void> {
    if ((await this.#status(folder)) !== PAUSED_BY_ERROR) return;
    await withQmp(guestFiles(folder).qmp, (qmp) => qmp.execute('cont'));
    say('the guest was paused by an I/O error; it goes on');
  }

  /** The firmware's variables are the guest's own, kept over its restarts. */
  async #prepareVars({ folder }: LaunchSpec, ovmf: { vars: string } | null): Promise<void> {
    if (ovmf === null) {
      throw new AfterimageError('the machine starts with UEFI, and OVMF is not installed', {
        code: 'ovmf-missing',
        kind: 'unsupported',
        hint: 'Install it (Debian: ovmf) and try again.',
      });
    }
    const { vars } = guestFiles(folder);
    if (await stat(vars).then(Boolean, (error: unknown) => errnoOf(error) !== 'ENOENT')) return;
    await copyFile(ovmf.vars, `${vars}.new`, constants.COPYFILE_FICLONE);
    await rename(`${vars}.new`, vars);
    await syncFolder(folder);
  }

  async #status(folder: string): Promise<string> {
    try {
      const answer = await withQmp(guestFiles(folder).qmp, (qmp) => qmp.execute('query-status'));
      const { status } = statusSchema.parse(answer);
      return STATUS_WORDS[status] ?? status;
    } catch (error) {
      return `running, but QEMU does not answer (${messageOf(error)})`;
    }
  }

  /** Text to be added to a message about a guest that doesn't power off; empty when the button was pressed. */
  async #pressPower(folder: string): Promise<string> {
    try {
      return await withQmp(guestFiles(folder).qmp, async (qmp) => {
        const { status } = statusSchema.parse(await qmp.execute('query-status'));
        // A press is kept for a paused guest: it would power off much later, when nobody wants it any more.
        if (status !== 'running') return ` (it is ${STATUS_WORDS[status] ?? status})`;
        await qmp.execute('system_powerdown');
        return '';
      });
    } catch (error) {
      return ` (${messageOf(error)})`;
    }
  }

  async #waitForEnd(guest: ProcessId, timeoutMs: number, signal?: AbortSignal): Promise<void> {
    const { clock } = this.#deps;
    const deadlineMs = clock.monotonicMs() + timeoutMs;
    while (isAlive(guest) && clock.monotonicMs() < deadlineMs && signal?.aborted !== true) {
      await clock.sleep(WAIT_STEP_MS, signal);
    }
  }

  /** How the guest ended, as its supervisor notes it; null when that is gone. */
  async #endNote(folder: string): Promise<EndedFile | null> {
    const { clock } = this.#deps;
    const deadlineMs = clock.monotonicMs() + END_NOTE_MS;
    const supervisor = (await supervisorFile.read(folder))?.supervisor ?? null;
    while (isAlive(supervisor) && clock.monotonicMs() < deadlineMs) await clock.sleep(WAIT_STEP_MS);
    return endedFile.read(folder);
  }

  /** A QEMU that vanished is not a guest that was shut down. */
  #judgeEnd(
    end: EndedFile | null,
    { force, say }: { force: boolean; say: (line: string) => void },
  ): 'clean' | 'forced' {
    if (end?.poweredOff === true) return 'clean';
    const detail = end?.detail ?? 'ended; how is not known, its supervisor is gone';
    if (force) {
      say(`the guest did not power itself off: ${detail}`);
      return 'forced';
    }
    throw new AfterimageError(`the guest did not power itself off: ${detail}`, {
      code: 'guest-ended-uncleanly',
      kind: 'io',
      hint: 'What it wrote is as after a power cut. Repeat to go on with that.',
    });
  }
}

const STATUS_WORDS: Readonly<Record<string, string>> = {
  running: 'running',
  'io-error': PAUSED_BY_ERROR,
  paused: 'paused (by hand)',
  prelaunch: 'paused (before its start)',
  'internal-error': 'paused (error of the emulation)',
  'guest-panicked': 'paused (the guest panicked)',
  shutdown: 'powered off',
};
