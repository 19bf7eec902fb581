/**
 * Runs one call of one hook, with a limit of time and bounded output. Resolves when the hook's own process is gone, whatever it left running; a call that
 * is over its limit, or given up, is killed with all that it started.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { messageOf } from '../../../shared/errors.js';
import { QUIESCE_HOOK_LINE_CHARS_MAX, QUIESCE_HOOK_LINES_MAX } from '../../../shared/limits-quiesce.js';
import { formatDuration } from '../../../shared/units.js';
import type { Hook } from './hook-files.js';
import { descendantsOf, killAll, readProcesses } from './process-tree.js';
import { boundedLines } from './bounded-lines.js';

export type HookPhase = 'pre' | 'post' | 'abort';

export interface HookCall {
  readonly hook: string;
  readonly phase: HookPhase;
  /** Null: it ended with 0. */
  readonly failure: string | null;
  readonly tookMs: number;
  /** Its last lines. */
  readonly output: readonly string[];
}

export interface HookContext {
  /** Told to the hook, as variables of its environment. */
  readonly variables: Readonly<Record<string, string>>;
  /** Ends the call. */
  readonly signal: AbortSignal;
  readonly clock: { monotonicMs(): number; sleep(ms: number, signal?: AbortSignal): Promise<void> };
}

/** A killed process that is still there waits for a disk: nothing more can be done about it. */
const KILL_WAIT_MS = 2_000;

const argumentFor = (hook: Hook, phase: HookPhase): string => {
  if (hook.style === 'word') return phase;
  // Site Recovery knows two: whatever became of the point, the application has to run again.
  return phase === 'pre' ? '--pre' : '--post';
};

export async function runHook(hook: Hook, phase: HookPhase, context: HookContext): Promise<HookCall> {
  const { clock, signal } = context;
  const startMs = clock.monotonicMs();
  const output: string[] = [];
  const over = new AbortController();
  const child = spawn(hook.path, [argumentFor(hook, phase)], {
    // A group of its own, so that signals to ours don't reach it. Its folder is none that could be unmounted.
    detached: true,
    cwd: '/',
    env: {
      PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
      ...context.variables,
      AFTERIMAGE_PHASE: phase,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  keepLines(child, output);
  const exit = exitOf(child);
  const late = clock.sleep(hook.timeoutMs, AbortSignal.any([signal, over.signal])).then(() => 'late' as const);
  let failure = await Promise.race([exit, late]);
  if (failure === 'late') {
    const why = signal.aborted ? 'given up' : `not done within ${formatDuration(hook.timeoutMs)}`;
    killTree(child.pid);
    const ended = await Promise.race([exit, clock.sleep(KILL_WAIT_MS, over.signal).then(() => 'stuck' as const)]);
    failure = ended === 'stuck' ? `${why}, and can't be killed: it waits for a disk` : why;
  }
  over.abort();
  child.stdout.destroy();
  child.stderr.destroy();
  return { hook: hook.name, phase, failure, tookMs: clock.monotonicMs() - startMs, output };
}

/** Hooks run one after the other, and what they orphan becomes ours: all below us that isn't older than this one is its own. */
function killTree(pid: number | undefined): void {
  const all = readProcesses();
  const own = all.find((entry) => entry.pid === pid);
  if (own === undefined) return;
  killAll([own, ...descendantsOf(process.pid, all).filter((entry) => entry.startTicks >= own.startTicks)]);
}

/** Why it failed; null when it didn't. `exit`, not `close`: what it left running may keep its output open for ever. */
function exitOf(child: ChildProcess): Promise<string | null> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve(messageOf(error)));
    child.once('exit', (code, by) => {
      // What was written last may still be on its way.
      setImmediate(() =>
        resolve(code === 0 ? null : code === null ? `ended by ${by ?? 'a signal'}` : `exit code ${code}`),
      );
    });
  });
}

function keepLines(child: ChildProcess, into: string[]): void {
  for (const stream of [child.stdout, child.stderr]) {
    const keep = boundedLines(QUIESCE_HOOK_LINE_CHARS_MAX, (line) => {
      into.push(line);
      if (into.length > QUIESCE_HOOK_LINES_MAX) into.shift();
    });
    stream?.on('data', keep);
  }
}
