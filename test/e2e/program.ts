/**
 * Our programs as processes, as they were built.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

export const ENTRIES = {
  agent: 'agent/main.js',
  receiver: 'receiver/main.js',
  cli: 'receiver/cli/main.js',
} as const;
export type Entry = keyof typeof ENTRIES;
export type Env = Readonly<Record<string, string>>;

/** What the test run has built (test/setup/build.ts); also where this file is part of it. */
export const BUILD = process.env['AFTERIMAGE_BUILD'] ?? join(root(), 'dist');

function root(): string {
  let folder = import.meta.dirname;
  while (!existsSync(join(folder, 'package.json'))) folder = dirname(folder);
  return folder;
}

const pathOf = (entry: Entry): string => join(BUILD, ENTRIES[entry]);

export interface Output {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command of ours to its end. */
export function runToEnd(entry: Entry, args: readonly string[], env: Env = {}): Promise<Output> {
  const child = spawn(process.execPath, [pathOf(entry), ...args], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => resolve({ code, stdout, stderr }));
  });
}

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** A running daemon; all that it prints is appended to its log. */
export class Daemon {
  readonly #child: ChildProcess;
  /** Resolves when it is gone, whatever the way. */
  readonly ended: Promise<Ended>;
  /** Set once it is gone. */
  end: Ended | null = null;

  constructor(
    entry: Entry,
    args: readonly string[],
    readonly logPath: string,
    env: Env,
    command: readonly [string, ...string[]] = [process.execPath, pathOf(entry)],
  ) {
    const log = openSync(logPath, 'a');
    const [file, ...first] = command;
    this.#child = spawn(file, [...first, ...args], {
      env: { ...process.env, ...env },
      stdio: ['ignore', log, log],
    });
    closeSync(log);
    this.ended = new Promise((resolve) => {
      this.#child.once('exit', (code, signal) => {
        this.end = { code, signal };
        resolve(this.end);
      });
    });
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  /** `SIGSTOP` and `SIGCONT` freeze it and let it go on. */
  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Asks it to stop; kills it when it doesn't within the limit. */
  async stop(limitMs = 15_000): Promise<Ended> {
    this.signal('SIGTERM');
    const timer = setTimeout(() => this.signal('SIGKILL'), limitMs);
    const ended = await this.ended;
    clearTimeout(timer);
    return ended;
  }

  async kill(): Promise<Ended> {
    this.signal('SIGKILL');
    return this.ended;
  }
}

const PINO_WARN = 40;

export interface LogLine {
  readonly level: number;
  readonly msg: string;
  readonly text: string;
}

/** Lines of a log at level warn and above, and what isn't a log line at all (a stack on stderr). */
export function loudLines(logPath: string): LogLine[] {
  const loud: LogLine[] = [];
  for (const text of readFileSync(logPath, 'utf8').split('\n')) {
    if (text.trim() === '') continue;
    try {
      const { level, msg } = JSON.parse(text) as { level?: number; msg?: string };
      if ((level ?? Infinity) >= PINO_WARN) loud.push({ level: level ?? Infinity, msg: msg ?? '', text });
    } catch {
      loud.push({ level: Infinity, msg: text, text });
    }
  }
  return loud;
}
