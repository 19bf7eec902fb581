/**
 * The agent's side of the process that quiesces applications: starts it, tells it its steps one by one, hears of its end, and has the rest undone by
 * another one when it dies.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Clock } from '../../../shared/clock.js';
import { AfterimageError } from '../../../shared/errors.js';
import { QUIESCE_GRACE_MS, QUIESCE_START_TIMEOUT_MS } from '../../../shared/limits-quiesce.js';
import { lineSplitter } from '../guard-protocol.js';
import type { HookCall } from '../hooks/run-hook.js';
import type { QuiesceTask, RunnerCommand, RunnerReport } from './protocol.js';

type Report<Is extends RunnerReport['is']> = Extract<RunnerReport, { is: Is }>;
/** `lost`: the process died; what it had begun was undone by another, or not (`undone`). */
export type RunnerEnd = Report<'ended'> | { readonly is: 'lost'; readonly exit: string; readonly undone: boolean };

const NODE_FLAGS = ['--max-old-space-size=128', '--max-semi-space-size=1'];
const STDERR_CHARS_MAX = 2000;
const defaultProgram = (): string => fileURLToPath(new URL('./runner-main.js', import.meta.url));

export interface RunnerOptions {
  readonly clock: Clock;
  readonly program?: string | undefined;
  /** Runs the process as a service of its own, outside the agent's sandbox. Absent: as this machine is. */
  readonly viaSystemd?: boolean;
}

/** Inside a service with few powers (systemd tells it by this variable), hooks could do little: they run as a service of their own then. */
export const isService = (): boolean =>
  process.env['INVOCATION_ID'] !== undefined && existsSync('/run/systemd/system') && existsSync('/usr/bin/systemd-run');

function commandFor(program: string, viaSystemd: boolean): [string, string[]] {
  const node = [process.execPath, ...NODE_FLAGS, program];
  if (!viaSystemd) return [process.execPath, node.slice(1)];
  // What `post` has started may go on; what `pre` left behind the process ends itself.
  const service = ['--quiet', '--pipe', '--wait', '--collect', '--service-type=exec', '--property=KillMode=process'];
  return ['/usr/bin/systemd-run', [...service, '--description=Afterimage quiesces applications', '--', ...node]];
}

export class QuiesceRunner {
  readonly #task: QuiesceTask;
  readonly #options: RunnerOptions;
  readonly #child: ChildProcess;
  readonly calls: HookCall[] = [];
  readonly #begun: string[] = [];
  #stderr = '';
  /** This one is the last resort itself. */
  #isUndoing = false;
  #isGone = false;
  #ended: Report<'ended'> | null = null;
  #waiting: { is: RunnerReport['is']; resolve: (report: RunnerReport) => void } | null = null;
  #resolveEnd: (end: RunnerEnd) => void = () => undefined;
  /** Resolves once, when nothing is left to undo, or can be undone. */
  readonly ended = new Promise<RunnerEnd>((resolve) => (this.#resolveEnd = resolve));

  private constructor(task: QuiesceTask, options: RunnerOptions) {
    this.#task = task;
    this.#options = options;
    const [file, args] = commandFor(options.program ?? defaultProgram(), options.viaSystemd ?? isService());
    // A session of its own: signals to the agent's process group don't reach it.
    this.#child = spawn(file, args, { detached: true, cwd: '/', env: {}, stdio: ['pipe', 'pipe', 'pipe'] });
    this.#child.stdout?.on(
      'data',
      lineSplitter((line) => this.#hear(JSON.parse(line) as RunnerReport)),
    );
    this.#child.stderr?.on('data', (bytes: Buffer) => {
      this.#stderr = (this.#stderr + bytes.toString('utf8')).slice(0, STDERR_CHARS_MAX);
    });
    this.#child.stdin?.on('error', () => undefined);
    this.#child.on('error', (error) => void this.#gone(error.message));
    this.#child.on('close', (code, signal) => void this.#gone(signal ?? `exit code ${code}`));
    // What it left running may keep its output open for ever: then the end of the process has to do. The wait ends with the output, so that an agent
    // that is told to stop just after a point doesn't stay for it.
    const closed = new AbortController();
    this.#child.once('close', () => closed.abort());
    this.#child.once('exit', (code, signal) => {
      void options.clock.sleep(QUIESCE_GRACE_MS, closed.signal).then(() => {
        if (closed.signal.aborted) return;
        this.#child.stdout?.destroy();
        this.#child.stderr?.destroy();
        void this.#gone(signal ?? `exit code ${code}`);
      });
    });
  }

  /** Starts the process; throws when it doesn't get ready: nothing was touched then. */
  static async start(task: QuiesceTask, options: RunnerOptions): Promise<QuiesceRunner> {
    const runner = new QuiesceRunner(task, options);
    const ready = runner.#ask({ do: 'start', task }, 'ready');
    const over = new AbortController();
    const late = options.clock.sleep(QUIESCE_START_TIMEOUT_MS, over.signal).then(() => 'late' as const);
    const first = await Promise.race([ready, late]);
    over.abort();
    if (first !== 'late' && first.is === 'ready') return runner;
    runner.kill();
    throw new AfterimageError(`the process that quiesces applications did not start: ${runner.#stderr.trim()}`, {
      code: 'quiesce-not-started',
      kind: 'io',
      hint: 'Nothing was held back. Check memory and the installation of the agent.',
    });
  }

  /** Has hooks called with `abort` that an earlier process, of this agent or of the one before, has begun. */
  static async undo(task: QuiesceTask, hooks: readonly string[], options: RunnerOptions): Promise<RunnerEnd> {
    const runner = new QuiesceRunner(task, options);
    runner.#begun.push(...hooks);
    runner.#isUndoing = true;
    runner.#tell({ do: 'undo', task, hooks });
    return runner.ended;
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  prepare(): Promise<Report<'prepared'> | RunnerEnd> {
    return this.#ask({ do: 'prepare' }, 'prepared');
  }

  hold(): Promise<Report<'held'> | RunnerEnd> {
    return this.#ask({ do: 'hold' }, 'held');
  }

  release(): Promise<Report<'released'> | RunnerEnd> {
    return this.#ask({ do: 'release' }, 'released');
  }

  /** Undoes everything; resolves when that is done. A process that does not answer within its limits is killed, and its work taken over. */
  async end(as: 'post' | 'abort'): Promise<RunnerEnd> {
    this.#tell({ do: 'end', as });
    const limitMs = this.#task.hooks.reduce((sum, hook) => sum + hook.timeoutMs, 2 * QUIESCE_GRACE_MS);
    const over = new AbortController();
    void this.#options.clock.sleep(limitMs, over.signal).then(() => {
      if (!over.signal.aborted) this.kill();
    });
    const end = await this.ended;
    over.abort();
    return end;
  }

  /** A process that runs as a service of its own isn't our child: the end of its input tells it to undo everything. */
  kill(): void {
    this.#child.stdin?.destroy();
    this.#child.kill('SIGKILL');
  }

  #tell(command: RunnerCommand): void {
    if (this.#child.stdin?.writable === true) this.#child.stdin.write(`${JSON.stringify(command)}\n`);
  }

  async #ask<Is extends 'ready' | 'prepared' | 'held' | 'released'>(
    command: RunnerCommand,
    is: Is,
  ): Promise<Report<Is> | RunnerEnd> {
    const answer = new Promise<RunnerReport>((resolve) => (this.#waiting = { is, resolve }));
    this.#tell(command);
    return Promise.race([answer as Promise<Report<Is>>, this.ended]);
  }

  #hear(report: RunnerReport): void {
    if (report.is === 'begun') this.#begun.push(report.hook);
    else if (report.is === 'call') this.calls.push(report.call);
    else if (report.is === 'ended') {
      this.#ended = report;
      this.#resolveEnd(report);
    } else if (this.#waiting?.is === report.is) this.#waiting.resolve(report);
  }

  /** The process is gone. Before it said that it had ended: what it had begun is undone by another. */
  async #gone(exit: string): Promise<void> {
    if (this.#ended !== null || this.#isGone) return;
    this.#isGone = true;
    const why = this.#stderr === '' ? exit : `${exit}: ${this.#stderr.trim()}`;
    if (this.#begun.length === 0 || this.#isUndoing) {
      this.#resolveEnd({ is: 'lost', exit: why, undone: this.#begun.length === 0 });
      return;
    }
    const end = await QuiesceRunner.undo(this.#task, this.#begun, this.#options);
    this.#resolveEnd({ is: 'lost', exit: why, undone: end.is === 'ended' });
  }
}
