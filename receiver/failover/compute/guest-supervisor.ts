/**
 * A process of its own for each guest: starts QEMU, notes who it is, keeps its logs small, notes how it ended. It belongs to no receiver: a
 * receiver that is killed, restarted or upgraded finds guest and supervisor as they were.
 *
 * On a crash of the supervisor QEMU goes on, found by its pid file; only how it ends isn't known then. SIGTERM (the host stops) presses the guest's
 * power button. One per instance: the abstract socket is a lock that the kernel gives back when the process is gone, whatever the way.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { copyFile, readFile, stat, truncate } from 'node:fs/promises';
import { createServer } from 'node:net';
import { systemClock, type Clock } from '../../../shared/clock.js';
import { errnoOf, messageOf } from '../../../shared/errors.js';
import {
  GUEST_LOG_BYTES_MAX,
  GUEST_LOG_CHECK_MS,
  GUEST_START_TIMEOUT_MS,
  GUEST_STOP_TIMEOUT_MS,
  POWER_BUTTON_INTERVAL_MS,
} from '../../../shared/limits.js';
import { describeGuestEnd } from './guest-end.js';
import { processId, type ProcessId } from './process-identity.js';
import { guestFiles } from './qemu-arguments.js';
import { QmpClient } from './qmp.js';
import { endedFile, launchFile, supervisorFile } from './supervisor-files.js';

const QMP_RETRY_MS = 50;

/** False when another supervisor has the instance. */
async function lock(instance: string): Promise<boolean> {
  const server = createServer().listen({ path: `\0afterimage-guest-${instance}` });
  try {
    await once(server, 'listening');
  } catch (error) {
    if (errnoOf(error) === 'EADDRINUSE') return false;
    throw error;
  }
  server.unref();
  return true;
}

/** Moves a log that has grown too large aside and begins it anew. Its writer appends, so it goes on at the new beginning. */
async function boundLog(path: string): Promise<void> {
  const { size } = await stat(path).catch(() => ({ size: 0 })); // not there yet
  if (size <= GUEST_LOG_BYTES_MAX) return;
  await copyFile(path, `${path}.1`);
  await truncate(path, 0);
}

async function lastLine(path: string): Promise<string> {
  const text = await readFile(path, 'latin1');
  return (text.trimEnd().split('\n').at(-1) ?? '').slice(0, 500);
}

class Supervisor {
  #qmp: QmpClient | null = null;
  #shutdown: string | null = null;
  #child: ChildProcess | null = null;
  #startedAtMs: number | null = null;

  constructor(
    readonly folder: string,
    readonly self: ProcessId,
    readonly clock: Clock,
  ) {}

  async run(): Promise<void> {
    const { folder } = this;
    const files = guestFiles(folder);
    const launch = await launchFile.read(folder);
    if (launch === null) throw new Error(`no launch.json in ${folder}`);
    if (!(await lock(launch.instance))) return;
    await this.#write(null, false);
    const log = openSync(files.log, 'a', 0o600);
    const child = spawn(launch.program, launch.arguments, { cwd: '/', stdio: ['ignore', log, log] });
    this.#child = child;
    closeSync(log);
    const ended = new Promise<{ code: number | null; signal: string | null; error: string | null }>((resolve) => {
      child.once('error', (error) => resolve({ code: null, signal: null, error: error.message }));
      child.once('exit', (code, signal) => resolve({ code, signal, error: null }));
    });
    process.on('SIGTERM', () => void this.#stop());
    const guest = child.pid === undefined ? null : processId(child.pid);
    if (guest !== null) {
      this.#startedAtMs = this.clock.nowMs();
      await this.#write(guest, false);
    }
    const over = new AbortController();
    const logs = this.#keepLogs([files.log, files.serial], over.signal);
    const ready = this.#connect(files.events, guest, over.signal);
    const { code, signal, error } = await ended;
    over.abort();
    await Promise.all([logs, ready]);
    await this.#qmp?.closed;
    const lastWords = error ?? (await lastLine(files.log));
    const { poweredOff, detail } = describeGuestEnd({ exitCode: code, signal, shutdown: this.#shutdown, lastWords });
    const atMs = this.clock.nowMs();
    await endedFile.write(folder, { atMs, startedAtMs: this.#startedAtMs, exitCode: code, signal, poweredOff, detail });
  }

  #write(guest: ProcessId | null, ready: boolean): Promise<void> {
    return supervisorFile.write(this.folder, {
      supervisor: this.self,
      guest,
      startedAtMs: this.#startedAtMs,
      ready,
    });
  }

  /** Until QEMU answers, or has ended. */
  async #connect(path: string, guest: ProcessId | null, over: AbortSignal): Promise<void> {
    const deadlineMs = this.clock.monotonicMs() + GUEST_START_TIMEOUT_MS;
    let last: unknown = null;
    while (!over.aborted && this.clock.monotonicMs() < deadlineMs) {
      try {
        this.#qmp = await QmpClient.connect(path, {
          onEvent: ({ event, data }) => {
            if (event === 'SHUTDOWN') this.#shutdown = String(data['reason']);
          },
        });
        await this.#write(guest, true);
        return;
      } catch (error) {
        // Not there yet, or ended meanwhile; what it last was is told when the time is over.
        last = error;
        await this.clock.sleep(QMP_RETRY_MS, over);
      }
    }
    if (!over.aborted) process.stderr.write(`${messageOf(last)}\n`);
  }

  async #keepLogs(paths: readonly string[], over: AbortSignal): Promise<void> {
    while (!over.aborted) {
      for (const path of paths) {
        // A full disk must not end the supervision; the log is looked at again soon.
        await boundLog(path).catch((error: unknown) => process.stderr.write(`${path}: ${messageOf(error)}\n`));
      }
      await this.clock.sleep(GUEST_LOG_CHECK_MS, over);
    }
  }

  #stopping = false;
  async #stop(): Promise<void> {
    if (this.#stopping) return;
    this.#stopping = true;
    for (let waitedMs = 0; waitedMs < GUEST_STOP_TIMEOUT_MS; waitedMs += POWER_BUTTON_INTERVAL_MS) {
      // Without an answer the next one may succeed; at the end the guest is ended anyway.
      await this.#qmp?.execute('system_powerdown').catch(() => undefined);
      await this.clock.sleep(POWER_BUTTON_INTERVAL_MS);
    }
    this.#child?.kill('SIGTERM');
  }
}

const self = processId(process.pid);
const folder = process.argv[2];
if (self === null || folder === undefined) throw new Error('usage: guest-supervisor FOLDER');
process.on('SIGINT', () => undefined);
process.on('SIGHUP', () => undefined);
new Supervisor(folder, self, systemClock).run().then(
  // A pressed power button may still be waiting for its next turn.
  () => process.exit(0),
  (error: unknown) => {
    process.stderr.write(`guest supervisor: ${messageOf(error)}\n`);
    process.exit(1);
  },
);
