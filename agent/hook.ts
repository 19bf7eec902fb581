/**
 * Runs an operator's commands, one after the other, with a limit of time for all and bounded output. When it resolves, none of their processes that
 * stayed in the command's group is left; a crash of the agent leaves them running.
 */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { messageOf } from '../shared/errors.js';
import { HOOK_LINE_CHARS_MAX, HOOK_OUTPUT_LINES_MAX } from '../shared/limits.js';
import { formatDuration } from '../shared/units.js';

export type HookResult =
  | { readonly ok: true; readonly output: readonly string[] }
  | { readonly ok: false; readonly reason: string; readonly output: readonly string[] };

export async function runHook(
  commands: readonly string[],
  timeoutMs: number,
  signal: AbortSignal,
): Promise<HookResult> {
  const output: string[] = [];
  const limit = AbortSignal.timeout(timeoutMs);
  const end = AbortSignal.any([signal, limit]);
  for (const command of commands) {
    const failed = await runOne(command, end, output);
    if (limit.aborted)
      return { ok: false, reason: `\`${command}\` took longer than ${formatDuration(timeoutMs)}`, output };
    if (signal.aborted) return { ok: false, reason: `\`${command}\` was interrupted`, output };
    if (failed !== null) return { ok: false, reason: `\`${command}\` failed: ${failed}`, output };
  }
  return { ok: true, output };
}

/** Why it failed; null when it didn't. */
function runOne(command: string, end: AbortSignal, output: string[]): Promise<string | null> {
  if (end.aborted) return Promise.resolve('interrupted');
  return new Promise((resolve) => {
    // A group of its own, so that all that the command started can be ended with it.
    const child = spawn('/bin/sh', ['-c', command], { detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
    const kill = (): void => {
      try {
        if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
      } catch {
        // Nothing of the group is left.
      }
    };
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on('line', (line) => {
        output.push(line.slice(0, HOOK_LINE_CHARS_MAX));
        if (output.length > HOOK_OUTPUT_LINES_MAX) output.shift();
      });
    }
    end.addEventListener('abort', kill, { once: true });
    const done = (why: string | null): void => {
      end.removeEventListener('abort', kill);
      child.stdout.destroy();
      child.stderr.destroy();
      resolve(why);
    };
    child.once('error', (error) => done(messageOf(error)));
    // 'exit', not 'close': a service that the command started may keep its output open for ever.
    child.once('exit', (code, by) => {
      // What was written last may still be on its way.
      setImmediate(() =>
        done(code === 0 ? null : code === null ? `ended by ${by ?? 'a signal'}` : `exit code ${code}`),
      );
    });
  });
}
