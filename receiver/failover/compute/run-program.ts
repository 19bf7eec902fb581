/**
 * Runs a program of the operator: with a time limit, its output line by line and bounded, in a process group of its own that is ended as a whole.
 * A program that leaves something running behind it (a guest, a tunnel) may do so; it is the program's own exit that counts.
 * On a crash of the receiver it runs on and nobody waits for it: programs must bear being run again.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { StringDecoder } from 'node:string_decoder';
import type { Clock } from '../../../shared/clock.js';
import { messageOf } from '../../../shared/errors.js';
import {
  COMMAND_ANSWER_BYTES_MAX,
  COMMAND_GRACE_MS,
  COMMAND_LINE_CHARS_MAX,
  COMMAND_OUTPUT_LINES_MAX,
} from '../../../shared/limits.js';

export interface ProgramRun {
  readonly command: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly input?: string;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  /** Lines of stderr, and of stdout unless that is the answer. */
  readonly say: (line: string) => void;
  /** Keep stdout as the answer instead of saying it. */
  readonly answer?: boolean;
}

export interface ProgramEnd {
  /** Null when it was ended by a signal or could not be started. */
  readonly exitCode: number | null;
  /** Null when it ended with 0; else for people: `exit code 3`, `no end within 60 s`. */
  readonly problem: string | null;
  readonly answer: string;
}

/** Secrets in the receiver's own environment are not the program's. */
const INHERITED = ['PATH', 'HOME', 'LANG', 'LC_ALL', 'TZ', 'USER', 'LOGNAME', 'TMPDIR'];
const DRAIN_MS = 200;

/** Cuts text into lines of bounded length and number; what is beyond is counted. */
export class LineLimiter {
  readonly #say: (line: string) => void;
  #said = 0;
  #dropped = 0;

  constructor(say: (line: string) => void) {
    this.#say = say;
  }

  /** A stream of its own; call the result with null at its end. */
  stream(): (bytes: Buffer | null) => void {
    const decoder = new StringDecoder('utf8');
    let open = '';
    return (bytes) => {
      const lines = (open + (bytes === null ? decoder.end() : decoder.write(bytes))).split('\n');
      // The rest of a line that is too long already isn't kept.
      open = (lines.pop() ?? '').slice(0, COMMAND_LINE_CHARS_MAX);
      for (const line of lines) this.#line(line);
      if (bytes === null && open !== '') this.#line(open);
    };
  }

  finish(): void {
    if (this.#dropped > 0) this.#say(`(${this.#dropped} more lines)`);
  }

  #line(line: string): void {
    // One line is kept back for the count.
    if (this.#said >= COMMAND_OUTPUT_LINES_MAX - 1) this.#dropped++;
    else {
      this.#said++;
      this.#say(line.trimEnd().slice(0, COMMAND_LINE_CHARS_MAX));
    }
  }
}

export async function runProgram(clock: Clock, run: ProgramRun): Promise<ProgramEnd> {
  const [program = '', ...args] = run.command;
  const inherited = INHERITED.flatMap((name): [string, string][] => {
    const value = process.env[name];
    return value === undefined ? [] : [[name, value]];
  });
  const child = spawn(program, args, {
    cwd: '/',
    env: { ...Object.fromEntries(inherited), ...run.env },
    detached: true,
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  const output = new LineLimiter(run.say);
  const [out, err] = [output.stream(), output.stream()];
  const answer: Buffer[] = [];
  let answerBytes = 0;
  child.stdout.on('data', (bytes: Buffer) => {
    if (run.answer !== true) out(bytes);
    else if ((answerBytes += bytes.length) <= COMMAND_ANSWER_BYTES_MAX) answer.push(bytes);
  });
  child.stderr.on('data', (bytes: Buffer) => err(bytes));
  // A program that doesn't read its input is fine.
  child.stdin.on('error', () => undefined);
  child.stdin.end(run.input ?? '');
  const ended = new Promise<{ code: number | null; signal: string | null; error: string | null }>((resolve) => {
    child.once('error', (error) => resolve({ code: null, signal: null, error: messageOf(error) }));
    child.once('exit', (code, signal) => resolve({ code, signal, error: null }));
  });
  const stop = new AbortController();
  const limit = AbortSignal.any([run.signal, stop.signal]);
  const late = clock.sleep(run.timeoutMs, limit).then(() => 'late' as const);
  const first = await Promise.race([ended, late]);
  if (first === 'late') {
    endGroup(child.pid, 'SIGTERM');
    if ((await Promise.race([ended, clock.sleep(COMMAND_GRACE_MS)])) === undefined) endGroup(child.pid, 'SIGKILL');
    // Also what ignored the first signal, or was left behind.
    endGroup(child.pid, 'SIGKILL');
  }
  const end = await ended;
  stop.abort();
  // The last output; a process that was left running may hold the pipes open for ever.
  await Promise.race([Promise.all([drained(child.stdout), drained(child.stderr)]), clock.sleep(DRAIN_MS)]);
  child.stdout.destroy();
  child.stderr.destroy();
  if (run.answer !== true) out(null);
  err(null);
  output.finish();
  const tooLong = answerBytes > COMMAND_ANSWER_BYTES_MAX;
  return {
    exitCode: end.code,
    problem: tooLong
      ? `its answer is longer than ${COMMAND_ANSWER_BYTES_MAX} bytes`
      : first === 'late'
        ? run.signal.aborted
          ? 'cancelled'
          : `no end within ${run.timeoutMs / 1000} s`
        : problemOf(end),
    answer: Buffer.concat(answer).toString('utf8'),
  };
}

function problemOf({
  code,
  signal,
  error,
}: {
  code: number | null;
  signal: string | null;
  error: string | null;
}): string | null {
  if (error !== null) return error;
  if (signal !== null) return `ended by ${signal}`;
  return code === 0 ? null : `exit code ${code}`;
}

const drained = async (stream: NodeJS.ReadableStream & { readableEnded: boolean }): Promise<void> => {
  if (!stream.readableEnded) await once(stream, 'end');
};

function endGroup(pid: number | undefined, signal: NodeJS.Signals): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, signal);
  } catch {
    // The whole group is gone already.
  }
}
