/**
 * A job as people see it: its tasks with states and times. Drawn over and over on a terminal; elsewhere a line for each step, so that a log stays readable.
 */
import { formatDuration } from '../../shared/units.js';
import type { Job, Task } from '../catalog/recovery.js';
import type { CliIo } from './io.js';

const COLUMNS_DEFAULT = 80;
const STATE_WIDTH = 'Succeeded'.length;
const DETAIL_INTERVAL_MS = 5_000;

export interface JobView {
  show(job: Job): void;
  /** A line about the watching itself. */
  note(text: string): void;
}

/** How long it took, or takes until now; empty for what has not begun. */
export function tookText(of: Pick<Task, 'startedAtMs' | 'endedAtMs'>, nowMs: number): string {
  if (of.startedAtMs === null) return '';
  return formatDuration(Math.max(0, (of.endedAtMs ?? nowMs) - of.startedAtMs));
}

export function taskLines(job: Job, nowMs: number): string[] {
  const nameWidth = Math.max(0, ...job.tasks.map((t) => t.name.length));
  return job.tasks.map((task) => {
    const cells = [task.state.padEnd(STATE_WIDTH), task.name.padEnd(nameWidth), tookText(task, nowMs).padStart(11)];
    return `  ${cells.join('  ')}  ${oneLine(task.detail)}`.trimEnd();
  });
}

export const titleOf = (job: Job, machine: string): string => `${job.operation} of ${machine} (job ${job.id})`;

/** Details are shown in a line of a table: whatever a script wrote into them stays there. */
export const oneLine = (text: string): string => text.replaceAll(/[\p{Cc}\s]+/gu, ' ').trim();

export const jobView = (io: CliIo, machine: string): JobView =>
  io.err.isTTY === true ? redrawnView(io, machine) : lineView(io);

function redrawnView(io: CliIo, machine: string): JobView {
  let drawn = 0;
  return {
    show: (job) => {
      const now = io.clock.nowMs();
      // What changes stands first: the rest may be cut off.
      const title = `${job.state}, ${tookText(job, now)}: ${titleOf(job, machine)}`;
      const lines = [title, ...taskLines(job, now)];
      // A line that wraps would break the count of lines to go up.
      const width = (io.err.columns ?? COLUMNS_DEFAULT) - 1;
      const up = drawn === 0 ? '' : `\x1b[${drawn}A\x1b[J`;
      io.err.write(up + lines.map((line) => `${line.slice(0, width)}\n`).join(''));
      drawn = lines.length;
    },
    note: (text) => {
      io.err.write(`${text}\n`);
      drawn = 0;
    },
  };
}

function lineView(io: CliIo): JobView {
  const shown = new Map<number, { readonly state: Task['state']; readonly detail: string; readonly atMs: number }>();
  const changedLine = (task: Task, at: number, now: number): string | null => {
    const before = shown.get(at);
    const isSame = before === undefined ? task.state === 'Pending' : before.state === task.state;
    // Progress of a long task comes often: not every step of it belongs into a log.
    const isNews = task.detail !== before?.detail && now - (before?.atMs ?? 0) >= DETAIL_INTERVAL_MS;
    if (isSame && (before === undefined || !isNews)) return null;
    shown.set(at, { state: task.state, detail: task.detail, atMs: now });
    const took = task.endedAtMs === null ? '' : ` after ${tookText(task, now)}`;
    const detail = oneLine(task.detail);
    return `${task.name}: ${task.state}${took}${detail === '' ? '' : ` (${detail})`}\n`;
  };
  return {
    show: (job) => {
      const now = io.clock.nowMs();
      job.tasks.forEach((task, at) => {
        const line = changedLine(task, at, now);
        if (line !== null) io.err.write(line);
      });
    },
    note: (text) => void io.err.write(`${text}\n`),
  };
}
