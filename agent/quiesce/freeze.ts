/**
 * Runs work while filesystems are frozen, with a deadline that holds whatever happens to this process.
 *
 * Promises: each filesystem is thawed when the work ends, when the deadline passes, when the guard dies and when this process dies. A result is
 * handed out only when all filesystems were frozen from before the work's start until after its end; else a typed reason.
 * The work must stop soon after its signal is aborted, and must not write to any file (a log on a frozen filesystem would block it).
 */
import { closeSync } from 'node:fs';
import type { Clock } from '../../shared/clock.js';
import { errnoOf, messageOf } from '../../shared/errors.js';
import { PRESYNC_ROUNDS_MAX, PRESYNC_TIMEOUT_MS } from '../../shared/limits.js';
import { holdLogs, type Logger } from '../../shared/log.js';
import { syncfsAsync } from '../../shared/native/libc.js';
import { forgetFreeze, noteFreeze } from './frozen-note.js';
import { FreezeGuard, type Frozen, type GuardEnd } from './guard.js';
import { openMount, type MountedFilesystem } from './mounts.js';

export type FreezeReason =
  | 'mount-hidden'
  | 'presync-failed'
  | 'guard-not-started'
  | 'not-noted'
  | 'already-frozen'
  | 'cannot-freeze'
  | 'freeze-failed'
  | 'deadline'
  | 'guard-lost'
  | 'thawed-by-other'
  | 'thaw-failed';

export type FreezeOutcome<T> =
  | { readonly held: true; readonly result: T; readonly freezeMs: number }
  /** `freezeMs`: for how long writes were paused nevertheless. */
  | { readonly held: false; readonly reason: FreezeReason; readonly detail: string; readonly freezeMs: number };

export interface FreezeOptions {
  /** From the first freeze to the last thaw. */
  readonly deadlineMs: number;
  readonly clock: Clock;
  readonly log: Logger;
  /** Runs when all stands ready for the freeze: what is done here needn't be done while frozen. When it throws, nothing is frozen. */
  readonly beforeFreeze?: () => Promise<void>;
  /** Where it is noted that filesystems may be frozen, so that the next agent thaws them should this one and the guard both end. */
  readonly notePath?: string;
  /** The guard's program, where it isn't beside this file. */
  readonly guardProgram?: string;
}

/** Flushes filesystems ahead of a freeze, which then has less to do. Null, or why it didn't work. */
export async function presyncFilesystems(
  filesystems: readonly MountedFilesystem[],
  clock: Clock,
): Promise<string | null> {
  const folders: number[] = [];
  try {
    for (const filesystem of filesystems) folders.push(openMount(filesystem));
    return await presync(folders, clock, Infinity);
  } catch (error) {
    return messageOf(error);
  } finally {
    for (const fd of folders) closeSync(fd);
  }
}

type Failure = Extract<FreezeOutcome<never>, { held: false }>;
const failure = (reason: FreezeReason, detail: string, freezeMs = 0): Failure => ({
  held: false,
  reason,
  detail,
  freezeMs,
});

const EBUSY = 16;
const ENOTTY = 25;
const EOPNOTSUPP = 95;

/** `filesystems` in the order of freezing. With none, the work just runs. Errors of the work are thrown, after the thaw. */
export async function withFrozen<T>(
  filesystems: readonly MountedFilesystem[],
  options: FreezeOptions,
  work: (deadline: AbortSignal) => Promise<T> | T,
): Promise<FreezeOutcome<T>> {
  if (filesystems.length === 0) {
    return { held: true, result: await work(new AbortController().signal), freezeMs: 0 };
  }
  const folders: number[] = [];
  try {
    for (const filesystem of filesystems) folders.push(openMount(filesystem));
    return await freezeFolders(filesystems, folders, options, work);
  } catch (error) {
    if (errnoOf(error) !== 'mount-hidden') throw error;
    return failure('mount-hidden', messageOf(error));
  } finally {
    for (const fd of folders) closeSync(fd);
  }
}

async function freezeFolders<T>(
  filesystems: readonly MountedFilesystem[],
  folders: readonly number[],
  options: FreezeOptions,
  work: (deadline: AbortSignal) => Promise<T> | T,
): Promise<FreezeOutcome<T>> {
  // The guard needs a moment to start: it does so while the filesystems flush, which is over just before the freeze.
  const starting = FreezeGuard.start(folders, options.guardProgram).then(
    (guard) => ({ guard }),
    (error: unknown) => ({ error }),
  );
  const syncError = await presync(folders, options.clock, options.deadlineMs / 2);
  const started = await starting;
  if ('error' in started) return failure('guard-not-started', messageOf(started.error));
  const { guard } = started;
  if (syncError !== null) {
    await guard.thaw();
    return failure('presync-failed', syncError);
  }
  const { notePath } = options;
  const forget = (): void => {
    if (notePath !== undefined) forgetFreeze(notePath);
  };
  try {
    if (notePath !== undefined) noteFreeze(notePath, guard.pid ?? 0, filesystems);
  } catch (error) {
    await guard.thaw();
    return failure('not-noted', messageOf(error));
  }
  try {
    await options.beforeFreeze?.();
  } catch (error) {
    await guard.thaw();
    forget();
    throw error;
  }
  const late = await flushedWithin(folders, options.clock, options.deadlineMs);
  if (late !== null) {
    await guard.thaw();
    forget();
    return failure('presync-failed', late);
  }
  try {
    const outcome = await new FrozenRun(filesystems, guard, options).run(work);
    // What could not be thawed stays noted.
    if (outcome.held || outcome.reason !== 'thaw-failed') forget();
    return outcome;
  } catch (error) {
    forget();
    throw error;
  }
}

/**
 * At least two rounds: the first moves the bulk to disk, the second what was written meanwhile. More, until one is within its limit: the freeze has as much to
 * flush as the last, and holds writes back for that long, whatever its deadline.
 */
async function presync(folders: readonly number[], clock: Clock, limitMs: number): Promise<string | null> {
  const stop = new AbortController();
  const rounds = async (): Promise<string | null> => {
    let tookMs = Infinity;
    for (let round = 0; round < PRESYNC_ROUNDS_MAX && (round < 2 || tookMs > limitMs); round++) {
      const startMs = clock.monotonicMs();
      for (const fd of folders) {
        if (stop.signal.aborted) return null;
        await syncfsAsync(fd);
      }
      tookMs = clock.monotonicMs() - startMs;
    }
    if (tookMs <= limitMs) return null;
    return `the disks are written faster than they can be flushed: the last of ${PRESYNC_ROUNDS_MAX} rounds took ${tookMs.toFixed(0)} ms, and ${limitMs.toFixed(0)} ms are free for that in a freeze`;
  };
  const timeout = clock
    .sleep(PRESYNC_TIMEOUT_MS, stop.signal)
    .then(() => `flushing took longer than ${PRESYNC_TIMEOUT_MS / 1000} s`);
  const result = await Promise.race([rounds().catch(messageOf), timeout]);
  stop.abort();
  return result;
}

/** What was written since: flushed here, it holds nobody back, and what takes too long for a freeze shows in time. Null, or why it didn't work. */
async function flushedWithin(folders: readonly number[], clock: Clock, limitMs: number): Promise<string | null> {
  const stop = new AbortController();
  const flush = async (): Promise<string | null> => {
    for (const fd of folders) if (!stop.signal.aborted) await syncfsAsync(fd);
    return null;
  };
  const late = clock
    .sleep(limitMs, stop.signal)
    .then(() => `flushing just before the freeze took longer than ${limitMs} ms`);
  const result = await Promise.race([flush().catch(messageOf), late]);
  stop.abort();
  return result;
}

/** One freeze, from the command to the thaw. */
class FrozenRun {
  readonly #filesystems: readonly MountedFilesystem[];
  readonly #guard: FreezeGuard;
  readonly #options: FreezeOptions;
  readonly #stop = new AbortController();

  constructor(filesystems: readonly MountedFilesystem[], guard: FreezeGuard, options: FreezeOptions) {
    this.#filesystems = filesystems;
    this.#guard = guard;
    this.#options = options;
  }

  async run<T>(work: (deadline: AbortSignal) => Promise<T> | T): Promise<FreezeOutcome<T>> {
    const { clock, deadlineMs } = this.#options;
    const startMs = clock.monotonicMs();
    const timerOff = new AbortController();
    void clock.sleep(deadlineMs, timerOff.signal).then(() => {
      if (!timerOff.signal.aborted) this.#pastDeadline();
    });
    void this.#guard.ended.then(() => this.#stop.abort());
    // A line of any other part of the agent would wait for the thaw, and with it the whole process.
    const letLogsGo = holdLogs();
    void this.#guard.ended.then(letLogsGo);
    const frozen = await this.#guard.freeze(deadlineMs);
    const worked = frozen.is === 'frozen' ? await settle(work, this.#stop.signal) : null;
    const inTime = clock.monotonicMs() - startMs < deadlineMs;
    timerOff.abort();
    const end = await this.#guard.thaw();
    letLogsGo();
    const freezeMs = frozenMsOf(end) ?? clock.monotonicMs() - startMs;
    this.#logAfterThaw(frozen, end, freezeMs);
    const failed = this.#failureOf(end, inTime, freezeMs);
    if (failed !== null) return failed;
    if (worked === null) return failure('guard-lost', 'the thaw guard ended before the freeze', freezeMs);
    if ('error' in worked) throw worked.error;
    return { held: true, result: worked.result, freezeMs };
  }

  /** Thaw first; the work hears of it at the same time. */
  #pastDeadline(): void {
    this.#stop.abort();
    void this.#guard.thaw();
  }

  #name(index: number): string {
    const filesystem = this.#filesystems[index];
    return `${filesystem?.fsType ?? 'filesystem'} at ${filesystem?.mounts[0]?.path ?? '?'}`;
  }

  #failureOf(end: GuardEnd, inTime: boolean, freezeMs: number): Failure | null {
    const { deadlineMs } = this.#options;
    if (end.is === 'failed') return this.#refusal(end.index, end.errno, freezeMs);
    if (end.stuck.length > 0)
      return failure('thaw-failed', end.stuck.map((index) => this.#name(index)).join(', '), freezeMs);
    if (end.is === 'lost')
      return failure('guard-lost', `the thaw guard died (${end.exit}); the agent thawed`, freezeMs);
    if (end.cause === 'deadline' || !inTime) return failure('deadline', `not done within ${deadlineMs} ms`, freezeMs);
    if (end.cause !== 'command') return failure('guard-lost', `the thaw guard ended early (${end.cause})`, freezeMs);
    if (!end.held) return failure('thawed-by-other', 'another program thawed a filesystem during the freeze', freezeMs);
    return null;
  }

  #refusal(index: number, errno: number, freezeMs: number): Failure {
    const name = this.#name(index);
    if (errno === EBUSY) return failure('already-frozen', `${name} was frozen by another program`, freezeMs);
    if (errno === ENOTTY || errno === EOPNOTSUPP) return failure('cannot-freeze', `${name} can't be frozen`, freezeMs);
    return failure('freeze-failed', `${name}: error ${errno}`, freezeMs);
  }

  #logAfterThaw(frozen: Frozen | GuardEnd, end: GuardEnd, freezeMs: number): void {
    const { log } = this.#options;
    if (frozen.is === 'frozen' && !frozen.memoryLocked) {
      log.warn('the thaw guard may not lock its memory; give the service CAP_IPC_LOCK');
    }
    if (end.is !== 'failed' && end.stuck.length > 0) {
      log.error(
        { mounts: end.stuck.map((index) => this.#name(index)) },
        'thaw failed: run fsfreeze -u on these mounts',
      );
    }
    log.debug({ freezeMs: Math.round(freezeMs), end: end.is }, 'filesystems were frozen');
  }
}

const frozenMsOf = (end: GuardEnd): number | null => (end.is === 'lost' ? null : end.frozenMs);

async function settle<T>(
  work: (deadline: AbortSignal) => Promise<T> | T,
  signal: AbortSignal,
): Promise<{ result: T } | { error: unknown }> {
  try {
    return { result: await work(signal) };
  } catch (error) {
    return { error };
  }
}
