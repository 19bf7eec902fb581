/**
 * The thaw guard: a process of its own that freezes filesystems and surely thaws them again.
 *
 * It inherits the open folders as descriptors 3 and up, so it needs no path, and it is the leader of its own session, so it outlives the
 * agent's process group. It thaws on command, at the deadline, when the agent is gone (end of stdin) and on SIGTERM; its memory is locked
 * while anything is frozen. When it is killed itself, the agent thaws. It writes to no file between freeze and thaw.
 */
import { closeSync, writeSync } from 'node:fs';
import { exerciseThaw, freezeNow, thawNow } from './freeze-ioctl.js';
import { avoidOutOfMemoryKiller, lockForFreeze, unlock } from './guard-memory.js';
import { lineSplitter, type GuardCommand, type GuardReport, type ThawCause } from './guard-protocol.js';

const STDOUT = 1;
const FIRST_FOLDER = 3;
const folders = Array.from({ length: Number(process.argv[2]) }, (_, index) => FIRST_FOLDER + index);

/** Indexes of the folders that we froze, in order. */
const frozen: number[] = [];
let frozeAtMs = 0;
let ended = false;

function report(message: GuardReport): void {
  try {
    writeSync(STDOUT, `${JSON.stringify(message)}\n`);
  } catch {
    // The agent is gone: nobody wants to know.
  }
}

function end(): void {
  ended = true;
  unlock();
  process.exit(0);
}

/** The end of all work: thaws in the reverse order of freezing: the outer filesystem first, as the inner one's writes go through it. */
function thawAll(): { held: boolean; stuck: number[]; frozenMs: number } {
  let held = true;
  const stuck: number[] = [];
  for (const index of frozen.reverse()) {
    const result = thawNow(FIRST_FOLDER + index);
    if (result === 'failed') stuck.push(index);
    held &&= result === 'thawed';
  }
  frozen.length = 0;
  // Before the report: whoever hears of the thaw may want to unmount.
  for (const fd of folders) closeSync(fd);
  return { held, stuck, frozenMs: frozeAtMs === 0 ? 0 : performance.now() - frozeAtMs };
}

function thaw(cause: ThawCause): void {
  if (ended) return;
  report({ is: 'thawed', cause, ...thawAll() });
  end();
}

async function freeze(deadlineMs: number): Promise<void> {
  const memoryLocked = lockForFreeze();
  frozeAtMs = performance.now();
  setTimeout(() => thaw('deadline'), deadlineMs);
  for (const [index, fd] of folders.entries()) {
    const result = freezeNow(fd);
    if (result < 0) {
      const { frozenMs } = thawAll();
      report({ is: 'failed', index, errno: -result, frozenMs });
      end();
      return;
    }
    frozen.push(index);
    // Lets the deadline, a signal or the end of the agent in between two filesystems.
    await new Promise((resolve) => setImmediate(resolve));
    if (ended) return;
  }
  report({ is: 'frozen', tookMs: performance.now() - frozeAtMs, memoryLocked });
}

function obey(line: string): void {
  const command = JSON.parse(line) as GuardCommand;
  if (command.do === 'thaw') thaw('command');
  else void freeze(command.deadlineMs);
}

process.stdin.on('data', lineSplitter(obey));
process.stdin.on('end', () => thaw('agent-gone'));
process.stdin.on('error', () => thaw('agent-gone'));
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, () => thaw('signal'));
process.on('uncaughtException', () => thaw('crash'));

avoidOutOfMemoryKiller();
exerciseThaw(0);
report({ is: 'ready' });
