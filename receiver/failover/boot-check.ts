/**
 * Boot checks: whether a started machine came up, by what it shows to the outside. Tried again and again until passed, out of time, or the guest
 * has ended. A check that fails is a result with its reason, never an error; only a cancelled one throws.
 */
import { open } from 'node:fs/promises';
import { connect } from 'node:net';
import { once } from 'node:events';
import type { Clock } from '../../shared/clock.js';
import { AfterimageError, errnoOf, messageOf } from '../../shared/errors.js';
import {
  BOOT_CHECK_BODY_BYTES_MAX,
  BOOT_CHECK_COMMAND_POLL_MS,
  BOOT_CHECK_POLL_MS,
  BOOT_CHECK_TRY_MS,
} from '../../shared/limits.js';
import { KIB } from '../../shared/units.js';
import type { BootCheck } from '../catalog/launch.js';
import type { BootResult } from '../catalog/recovery.js';
import type { GuestState, LaunchSpec } from './compute/provider.js';
import { runProgram } from './compute/run-program.js';
import { forwardOf, reachesGuest } from './compute/usernet.js';

export interface BootCheckContext {
  readonly spec: LaunchSpec;
  /** File of the guest's serial console; null where the provider has none. */
  readonly serialPath: string | null;
  /** Wall time at which the guest began to run. */
  readonly startedAtMs: number;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly say: (line: string) => void;
  /** The provider's view of the guest. */
  readonly state: () => Promise<GuestState>;
}

/** Null: passed; else why not yet. */
type Probe = (timeLeftMs: number) => Promise<string | null>;

const DETAIL_CHARS_MAX = 2000;
const READ_BYTES = 64 * KIB;

/** Looks for a text in a file that grows, and may begin anew when it has become too large. Reads each byte once. */
export function serialProbe(path: string, text: string): Probe {
  const wanted = Buffer.from(text);
  let [offset, kept] = [0, Buffer.alloc(0)];
  const buffer = Buffer.alloc(READ_BYTES);
  return async () => {
    let handle;
    try {
      handle = await open(path, 'r');
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return 'the serial console has printed nothing';
      throw error;
    }
    try {
      if ((await handle.stat()).size < offset) offset = 0;
      for (;;) {
        const { bytesRead } = await handle.read(buffer, 0, READ_BYTES, offset);
        if (bytesRead === 0) return `"${text}" is not on the serial console; its last line: ${lastLine(kept)}`;
        offset += bytesRead;
        // What was read before is kept as far as the text could begin in it.
        const seen = Buffer.concat([kept, buffer.subarray(0, bytesRead)]);
        if (seen.includes(wanted)) return null;
        kept = Buffer.from(seen.subarray(-Math.max(wanted.length - 1, 200)));
      }
    } finally {
      await handle.close();
    }
  };
}

const lastLine = (bytes: Buffer): string =>
  JSON.stringify(bytes.toString('latin1').trimEnd().split('\n').at(-1)?.trim().slice(-200) ?? '');

function tcpProbe(spec: LaunchSpec, host: string, port: number): Probe {
  const forward = forwardOf(spec, host, port);
  return async (timeLeftMs) => {
    const socket = connect({ host, port, timeout: Math.min(timeLeftMs, BOOT_CHECK_TRY_MS) });
    socket.once('timeout', () => socket.destroy(new Error('no answer')));
    try {
      await once(socket, 'connect');
      if (forward === null || (await reachesGuest(spec, forward))) return null;
      return `nothing in the guest answers at port ${forward.guestPort}`;
    } catch (error) {
      return `${host}:${port}: ${messageOf(error)}`;
    } finally {
      socket.destroy();
    }
  };
}

async function bodyOf(answer: Response): Promise<string> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of answer.body ?? []) {
    parts.push(Buffer.from(part as Uint8Array));
    bytes += parts.at(-1)?.length ?? 0;
    if (bytes >= BOOT_CHECK_BODY_BYTES_MAX) break;
  }
  return Buffer.concat(parts).toString('utf8');
}

function httpProbe({ url, status, text }: Extract<BootCheck, { type: 'http' }>, signal: AbortSignal): Probe {
  return async (timeLeftMs) => {
    const limit = AbortSignal.timeout(Math.ceil(Math.min(timeLeftMs, BOOT_CHECK_TRY_MS)));
    try {
      const answer = await fetch(url, {
        signal: AbortSignal.any([signal, limit]),
        // A status that was asked for is that of the page itself.
        redirect: status === undefined ? 'follow' : 'manual',
      });
      if (status === undefined ? !answer.ok : answer.status !== status) {
        await answer.body?.cancel();
        return `${url} answers with status ${answer.status}, not ${status ?? '2xx'}`;
      }
      if (text === undefined) {
        await answer.body?.cancel();
        return null;
      }
      return (await bodyOf(answer)).includes(text) ? null : `${url} answers, without "${text}"`;
    } catch (error) {
      const cause = error instanceof Error && error.cause !== undefined ? `: ${messageOf(error.cause)}` : '';
      return `${url}: ${limit.aborted ? 'no answer in time' : `${messageOf(error)}${cause}`}`;
    }
  };
}

function commandProbe(command: readonly string[], { spec, clock, signal }: BootCheckContext): Probe {
  const env = {
    AFTERIMAGE_MACHINE: spec.machine.id,
    AFTERIMAGE_INSTANCE: spec.instance,
    AFTERIMAGE_TEST: spec.test ? '1' : '0',
  };
  return async (timeLeftMs) => {
    const lines: string[] = [];
    const say = (line: string): void => void lines.push(line);
    const { problem } = await runProgram(clock, { command, env, timeoutMs: timeLeftMs, signal, say });
    if (problem === null) return null;
    const words = lines.filter((line) => line.trim() !== '').slice(-3);
    return `${command.join(' ')}: ${problem}${words.length === 0 ? '' : ` (${words.join(' | ')})`}`;
  };
}

/** The probe of a check; a text where it can't be made. */
function probeOf(check: BootCheck, context: BootCheckContext): Probe | string {
  switch (check.type) {
    case 'none':
      return async () => {
        const { running, detail } = await context.state();
        return running && !detail.startsWith('paused') ? null : `the guest is ${detail}`;
      };
    case 'serial':
      if (context.serialPath === null) return 'this provider has no serial console: choose another check';
      return serialProbe(context.serialPath, check.text);
    case 'tcp':
      return tcpProbe(context.spec, check.host, check.port);
    case 'http':
      return httpProbe(check, context.signal);
    case 'command':
      return commandProbe(check.command, context);
  }
}

/** Default for machines without a check. */
export const NO_CHECK: BootCheck = { type: 'none' };

export async function runBootCheck(check: BootCheck, context: BootCheckContext): Promise<BootResult> {
  const { clock, signal } = context;
  // From the start of the guest by the wall clock, from here on by the steady one.
  const beforeMs = Math.max(0, clock.nowMs() - context.startedAtMs);
  const beganMs = clock.monotonicMs();
  const tookMs = (): number => beforeMs + clock.monotonicMs() - beganMs;
  const result = (passed: boolean, detail: string): BootResult => {
    context.say(
      `boot check ${check.type} ${passed ? 'passed' : 'failed'} after ${(tookMs() / 1000).toFixed(1)} s: ${detail}`,
    );
    return {
      type: check.type,
      passed,
      detail: detail.slice(0, DETAIL_CHARS_MAX),
      tookMs: tookMs(),
      atMs: clock.nowMs(),
    };
  };
  const probe = probeOf(check, context);
  if (typeof probe === 'string') return result(false, probe);
  const limitMs = check.type === 'none' ? BOOT_CHECK_TRY_MS : check.timeoutMs;
  const pollMs = check.type === 'command' ? BOOT_CHECK_COMMAND_POLL_MS : BOOT_CHECK_POLL_MS;
  for (;;) {
    // Asked first: what the guest printed before it ended is still looked at, but nothing is waited for any more.
    const state = await context.state().catch((error: unknown) => messageOf(error));
    const ended = typeof state === 'object' && !state.running ? state.detail : null;
    // At least a moment is left for a last try, also when the check begins late.
    const timeLeftMs = Math.max(limitMs - tookMs(), BOOT_CHECK_POLL_MS);
    const why = ended !== null && check.type !== 'serial' ? '' : await probe(timeLeftMs).catch(messageOf);
    if (signal.aborted) {
      throw new AfterimageError('the boot check was cancelled', { code: 'cancelled', kind: 'cancelled' });
    }
    if (why === null) return result(true, passedWords(check));
    if (ended !== null) return result(false, `the guest is not running: ${ended}${why === '' ? '' : `; ${why}`}`);
    if (tookMs() >= limitMs) return result(false, `not within ${limitMs / 1000} s: ${why}`);
    await clock.sleep(Math.min(pollMs, Math.max(0, limitMs - tookMs())), signal);
  }
}

function passedWords(check: BootCheck): string {
  switch (check.type) {
    case 'serial':
      return `"${check.text}" is on the serial console`;
    case 'tcp':
      return `${check.host}:${check.port} answers`;
    case 'http':
      return `${check.url} answers`;
    case 'command':
      return `${check.command.join(' ')} ended with 0`;
    case 'none':
      return 'the guest is running; no check is set';
  }
}
