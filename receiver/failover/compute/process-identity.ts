/**
 * Processes of other programs, known by pid and start time: a pid that was given to somebody else is never taken for ours.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { z } from 'zod';
import { errnoOf } from '../../../shared/errors.js';

export const processIdSchema = z.strictObject({
  pid: z.number().int().positive(),
  /** Field 22 of /proc/PID/stat: clock ticks since the boot of the host. */
  startTicks: z.number().int().nonnegative(),
});
export type ProcessId = z.infer<typeof processIdSchema>;

function procFile(pid: number, name: string): string | null {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'utf8');
  } catch (error) {
    // ESRCH: it ended between open and read.
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ESRCH') return null;
    throw error;
  }
}

/** The process that has this pid now; null when there is none, or only its remains that nobody has collected yet. */
export function processId(pid: number): ProcessId | null {
  const stat = procFile(pid, 'stat');
  if (stat === null) return null;
  // The name in parentheses may hold anything, also parentheses and blanks.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields[0] === 'Z' || fields[0] === 'X' ? null : { pid, startTicks: Number(fields[19]) };
}

export const isAlive = (id: ProcessId | null): boolean =>
  id !== null && processId(id.pid)?.startTicks === id.startTicks;

/** Arguments of a process, with its program first; empty when it is gone. */
export const argumentsOf = (pid: number): readonly string[] => (procFile(pid, 'cmdline') ?? '').split('\0');

/** All processes whose arguments fit. Those that end meanwhile are left out. */
export function processesWhere(fits: (args: readonly string[]) => boolean): readonly ProcessId[] {
  const pids = readdirSync('/proc')
    .map(Number)
    .filter((pid) => Number.isInteger(pid) && pid !== process.pid);
  return pids.flatMap((pid) => (fits(argumentsOf(pid)) ? (processId(pid) ?? []) : []));
}

/** Sends a signal to that very process; false when it is gone. */
export function signalProcess(id: ProcessId, signal: NodeJS.Signals): boolean {
  if (!isAlive(id)) return false;
  try {
    process.kill(id.pid, signal);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ESRCH') return false;
    throw error;
  }
}
