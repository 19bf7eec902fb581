/**
 * The steps of quiescing applications, in the process that does nothing else.
 *
 * Promises: each hook whose `pre` was called is called with `post` or `abort` exactly once, in the reverse order, whatever fails and whatever limit passes;
 * locks are given back before that. Nothing is written to any file between `hold` and `release`.
 */
import { statSync } from 'node:fs';
import type { Clock } from '../../../shared/clock.js';
import { AfterimageError, messageOf } from '../../../shared/errors.js';
import { formatDuration } from '../../../shared/units.js';
import { deviceNumbers } from '../../disks/footprint.js';
import type { Application, ApplicationContext } from '../applications/application.js';
import type { Hook } from '../hooks/hook-files.js';
import {
  descendantsOf,
  killAll,
  readProcesses,
  remainingOf,
  startedWith,
  type ProcessEntry,
} from '../hooks/process-tree.js';
import { runHook, type HookCall, type HookPhase } from '../hooks/run-hook.js';
import type { ApplicationResult, EndCause, QuiesceTask, RunnerReport } from './protocol.js';

export interface WorkDeps {
  readonly applications: readonly Application[];
  readonly clock: Clock;
  readonly report: (report: RunnerReport) => void;
  /** Nothing is left to undo: forgets the note. */
  readonly forget: () => void;
  /** The last word was said. */
  readonly leave: () => void;
}

/** A step that was stopped ends within this: a hook that was killed, a connection that was closed. */
const STEP_END_MS = 3_000;
const KILL_POLL_MS = 5;

type Over = Extract<RunnerReport, { is: 'ended' }>;

export class QuiesceWork {
  readonly #task: QuiesceTask;
  readonly #deps: WorkDeps;
  readonly #stop = new AbortController();
  readonly #begun: Hook[] = [];
  #left: readonly ProcessEntry[] = [];
  #heldAtMs: number | null = null;
  #heldTooLong = false;
  #ending: Promise<Over> | null = null;
  /** What is under way: an end waits until it has stopped. */
  #step: Promise<unknown> = Promise.resolve();

  constructor(task: QuiesceTask, deps: WorkDeps) {
    this.#task = task;
    this.#deps = deps;
  }

  /** Applications first: one that isn't there stops nobody. Then hooks, which may hold their application back from here on. */
  prepare(): Promise<void> {
    return this.#do(async () => {
      void this.#after(this.#task.deadlineMs, () => this.end('abort', 'deadline', this.#late()));
      const context = this.#context();
      for (const application of this.#deps.applications)
        this.#mustBeFrozen(application, await application.locate(context));
      const done: ApplicationResult[] = [];
      for (const application of this.#deps.applications) {
        this.#stop.signal.throwIfAborted();
        done.push({ name: application.name, detail: await application.prepare(context) });
      }
      for (const hook of this.#task.hooks) {
        this.#stop.signal.throwIfAborted();
        this.#deps.report({ is: 'begun', hook: hook.name });
        this.#begun.push(hook);
        const call = await this.#call(hook, 'pre', this.#stop.signal);
        if (call.failure !== null) throw new Error(`hook ${hook.name}: ${call.failure}`);
      }
      if (this.#begun.length > 0) this.#left = descendantsOf(process.pid, readProcesses());
      this.#deps.report({ is: 'prepared', applications: done });
    });
  }

  /** All at once: each one's lock makes its clients wait. */
  hold(): Promise<void> {
    return this.#do(async () => {
      this.#heldAtMs = this.#deps.clock.monotonicMs();
      void this.#after(this.#task.heldMs, () => this.#releaseLate());
      const context = this.#context();
      const held = await Promise.allSettled(
        this.#deps.applications.map(async (application) => ({
          name: application.name,
          detail: await application.hold(context),
        })),
      );
      for (const result of held) if (result.status === 'rejected') throw result.reason;
      const applications = held.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
      this.#deps.report({ is: 'held', applications });
    });
  }

  release(): Promise<void> {
    return this.#do(async () => {
      const heldMs = this.#heldAtMs === null ? 0 : this.#deps.clock.monotonicMs() - this.#heldAtMs;
      const inTime = await this.#releaseAll();
      this.#deps.report({ is: 'released', inTime: inTime && !this.#heldTooLong, heldMs });
    });
  }

  /** Undoes everything, once; whoever asks later gets the same answer. */
  end(as: 'post' | 'abort', cause: EndCause, reason = ''): Promise<Over> {
    this.#ending ??= this.#end(as, cause, reason);
    return this.#ending;
  }

  /** For hooks that another process began. A `pre` that goes on without it must not come to its end after `abort`. */
  async undo(names: readonly string[]): Promise<void> {
    await this.#endPre();
    this.#begun.push(...this.#task.hooks.filter((hook) => names.includes(hook.name)));
    await this.end('abort', 'command');
  }

  /** A signal to kill takes a moment to do so: what it was sent to may run on another processor. */
  async #endPre(): Promise<void> {
    const { clock } = this.#deps;
    const endMs = clock.monotonicMs() + STEP_END_MS;
    for (;;) {
      const left = startedWith({ AFTERIMAGE_ID: this.#task.id, AFTERIMAGE_PHASE: 'pre' });
      killAll(left);
      // One that a dead disk holds back goes on when that does; there is no way to end it before.
      if (left.length === 0 || clock.monotonicMs() > endMs) return;
      await clock.sleep(KILL_POLL_MS);
    }
  }

  /** One step, unless it is over; what fails ends everything. */
  async #do(step: () => Promise<void>): Promise<void> {
    if (this.#ending !== null) return;
    const doing = step();
    this.#step = doing.catch(() => undefined);
    try {
      await doing;
    } catch (error) {
      // A step that was stopped failed for that reason.
      if (this.#ending === null) void this.end('abort', 'failed', reasonOf(error));
    }
  }

  async #end(as: 'post' | 'abort', cause: EndCause, reason: string): Promise<Over> {
    this.#stop.abort();
    // What is lost with its session is given back at once, whatever is under way in it.
    if (as === 'abort') for (const application of this.#deps.applications) application.close();
    // A statement that its server never answers must not keep the others waiting.
    await Promise.race([this.#step, this.#deps.clock.sleep(STEP_END_MS)]);
    await this.#releaseAll();
    for (const application of this.#deps.applications) application.close();
    for (const hook of this.#begun.toReversed()) await this.#call(hook, as, new AbortController().signal);
    const left = this.#left.length === 0 ? [] : remainingOf(this.#left, readProcesses());
    killAll(left);
    this.#deps.forget();
    const over: Over = { is: 'ended', cause, reason, killed: left.length };
    this.#deps.report(over);
    this.#deps.leave();
    return over;
  }

  async #call(hook: Hook, phase: HookPhase, signal: AbortSignal): Promise<HookCall> {
    const { clock, report } = this.#deps;
    const variables = { ...this.#task.variables, AFTERIMAGE_ID: this.#task.id };
    const call = await runHook(hook, phase, { clock, signal, variables });
    report({ is: 'call', call });
    return call;
  }

  async #releaseAll(): Promise<boolean> {
    const released = await Promise.all(this.#deps.applications.map((application) => application.release()));
    return released.every((inTime) => inTime);
  }

  async #releaseLate(): Promise<void> {
    this.#heldTooLong = true;
    await this.#releaseAll();
  }

  /** Unless everything is over before. */
  async #after(ms: number, then: () => Promise<unknown>): Promise<void> {
    await this.#deps.clock.sleep(ms, this.#stop.signal);
    if (!this.#stop.signal.aborted) await then();
  }

  #late(): string {
    return `not done within ${formatDuration(this.#task.deadlineMs)}`;
  }

  #context(): ApplicationContext {
    const { label, heldMs, deadlineMs } = this.#task;
    return { clock: this.#deps.clock, label, deadlineMs, heldMs, signal: this.#stop.signal };
  }

  /** A point that holds half of a database would be listed as consistent and isn't. */
  #mustBeFrozen({ name }: Application, folders: readonly string[]): void {
    const { devices, paths } = this.#task.frozen;
    for (const folder of folders) {
      if (isFrozen(folder, devices, paths)) continue;
      throw new Error(
        `${name}: ${folder} is on no filesystem that is frozen. Protect its disk; where the server runs in a container, set \`dataDirs\``,
      );
    }
  }
}

/** With what to do about it: who reads the point has no other place to find that. */
function reasonOf(error: unknown): string {
  const hint = error instanceof AfterimageError ? error.hint : undefined;
  return hint === undefined ? messageOf(error) : `${messageOf(error)} (${hint})`;
}

function isFrozen(folder: string, devices: readonly string[], paths: readonly string[]): boolean {
  try {
    if (devices.includes(deviceNumbers(statSync(folder).dev).join(':'))) return true;
  } catch {
    return false;
  }
  // A subvolume of btrfs has a number of its own.
  return paths.some((path) => path !== '/' && (folder === path || folder.startsWith(`${path}/`)));
}
