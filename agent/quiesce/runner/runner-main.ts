/**
 * The process that quiesces applications for one point: calls hooks and holds the sessions of databases. It outlives the agent: when the agent dies or is
 * stopped, it undoes everything at the end of its input, or at the deadline. When it dies itself, its sessions end and the agent undoes the rest.
 */
import { writeSync } from 'node:fs';
import { systemClock } from '../../../shared/clock.js';
import { messageOf } from '../../../shared/errors.js';
import { becomeSubreaper } from './subreaper.js';
import { lineSplitter } from '../guard-protocol.js';
import { applicationsOf } from '../applications/applications.js';
import { removeNote, writeNote } from './note.js';
import { QuiesceWork } from './work.js';
import type { QuiesceTask, RunnerCommand, RunnerReport } from './protocol.js';

const STDOUT = 1;
let work: QuiesceWork | null = null;

function report(message: RunnerReport): void {
  try {
    writeSync(STDOUT, `${JSON.stringify(message)}\n`);
  } catch {
    // The agent is gone: nobody wants to know.
  }
}

function begin(task: QuiesceTask): QuiesceWork {
  work = new QuiesceWork(task, {
    applications: applicationsOf(task.applications),
    clock: systemClock,
    report,
    forget: () => removeNote(task.notePath),
    leave,
  });
  return work;
}

async function obey(command: RunnerCommand): Promise<void> {
  switch (command.do) {
    case 'start':
      // Before anything is touched: should we and the agent both be gone, its next process finds out what has to be undone.
      if (command.task.hooks.length > 0) writeNote(command.task.notePath, command.task.id, command.task.hooks);
      begin(command.task);
      report({ is: 'ready' });
      return;
    case 'undo':
      return begin({ ...command.task, applications: { postgresql: [], mysql: [], redis: [] } }).undo(command.hooks);
    case 'prepare':
      return work?.prepare();
    case 'hold':
      return work?.hold();
    case 'release':
      return work?.release();
    case 'end':
      await work?.end(command.as, 'command');
  }
}

/** Undoes what there is to undo, then ends. */
async function giveUp(cause: 'agent-gone' | 'signal' | 'failed', reason: string): Promise<void> {
  if (work === null) leave();
  await work?.end('abort', cause, reason);
}

function leave(): void {
  process.exit(0);
}

process.stdin.on(
  'data',
  lineSplitter((line) => void obey(JSON.parse(line) as RunnerCommand)),
);
process.stdin.on('end', () => void giveUp('agent-gone', 'the agent is gone'));
process.stdin.on('error', () => void giveUp('agent-gone', 'the agent is gone'));
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const)
  process.on(signal, () => void giveUp('signal', `it got ${signal}`));
process.on('uncaughtException', (error) => void giveUp('failed', messageOf(error)));

becomeSubreaper();
