/**
 * The agent's side of the thaw guard: starts the process, asks it to freeze and to thaw, and thaws itself when the guard dies.
 *
 * Both hold the same open folders, so either can thaw without the other. A guard that doesn't answer is killed first: only when it is
 * certainly gone does the agent thaw, so that no freeze can begin after the thaw.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { AfterimageError } from '../../shared/errors.js';
import { GUARD_GRACE_MS, GUARD_START_TIMEOUT_MS } from '../../shared/limits.js';
import { thawNow } from './freeze-ioctl.js';
import { lineSplitter, type GuardCommand, type GuardReport } from './guard-protocol.js';

/** How a freeze ended. In each case nothing of ours is frozen any more, but for what is `stuck`. */
export type GuardEnd =
  | Extract<GuardReport, { is: 'thawed' | 'failed' }>
  /** The guard died; the agent thawed. */
  | { readonly is: 'lost'; readonly exit: string; readonly stuck: readonly number[] };

export type Frozen = Extract<GuardReport, { is: 'frozen' }>;

/** Few threads and no work in the background: what doesn't run needs no memory that would have to be locked. */
const NODE_FLAGS = [
  '--expose-gc',
  '--no-memory-reducer',
  '--single-threaded',
  '--v8-pool-size=0',
  '--max-old-space-size=64',
];
const STDERR_CHARS_MAX = 2000;

const defaultProgram = (): string => fileURLToPath(new URL('./guard-main.js', import.meta.url));

export class FreezeGuard {
  readonly #child: ChildProcess;
  readonly #folders: readonly number[];
  #stderr = '';
  #freezeAsked = false;
  #resolveReady: () => void = () => undefined;
  #resolveFrozen: (frozen: Frozen) => void = () => undefined;
  #resolveEnd: (end: GuardEnd) => void = () => undefined;
  readonly #ready = new Promise<void>((resolve) => (this.#resolveReady = resolve));
  readonly #frozen = new Promise<Frozen>((resolve) => (this.#resolveFrozen = resolve));
  /** Resolves once, when the guard has thawed, failed to freeze, or died and the agent has thawed. */
  readonly ended = new Promise<GuardEnd>((resolve) => (this.#resolveEnd = resolve));

  private constructor(child: ChildProcess, folders: readonly number[]) {
    this.#child = child;
    this.#folders = folders;
    child.stdout?.on(
      'data',
      lineSplitter((line) => this.#hear(JSON.parse(line) as GuardReport)),
    );
    child.stderr?.on('data', (bytes: Buffer) => {
      this.#stderr = (this.#stderr + bytes.toString('utf8')).slice(0, STDERR_CHARS_MAX);
    });
    // A dead guard shows by `close`, which comes after its last words were read; a failed write tells nothing more.
    child.stdin?.on('error', () => undefined);
    child.on('error', (error) => this.#lost(error.message));
    child.on('close', (code, signal) => this.#lost(signal ?? `exit code ${code}`));
  }

  /** Starts the process; resolves when it is ready to freeze. `folders`: open directories, in the order of freezing. */
  static async start(folders: readonly number[], program = defaultProgram()): Promise<FreezeGuard> {
    const child = spawn(process.execPath, [...NODE_FLAGS, program, String(folders.length)], {
      // A session of its own: signals to the agent's process group don't reach it. Its folder is none that could be unmounted.
      detached: true,
      cwd: '/',
      env: { UV_THREADPOOL_SIZE: '1' },
      stdio: ['pipe', 'pipe', 'pipe', ...folders],
    });
    const guard = new FreezeGuard(child, folders);
    const timer = setTimeout(() => guard.kill(), GUARD_START_TIMEOUT_MS);
    const first = await Promise.race([guard.#ready, guard.ended]);
    clearTimeout(timer);
    if (first !== undefined) {
      throw new AfterimageError(`the thaw guard did not start (${guard.#describeEnd(first)})`, {
        code: 'guard-not-started',
        kind: 'io',
        hint: 'Nothing was frozen. Check memory and the installation of the agent.',
      });
    }
    return guard;
  }

  /** Id of the guard's process. */
  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Freezes all folders. Resolves to `frozen`, or to how it ended when it failed. */
  freeze(deadlineMs: number): Promise<Frozen | GuardEnd> {
    this.#freezeAsked = true;
    this.#tell({ do: 'freeze', deadlineMs });
    return Promise.race([this.#frozen, this.ended]);
  }

  /** Thaws all folders; resolves when that is done, by the guard or by the agent. */
  async thaw(): Promise<GuardEnd> {
    this.#tell({ do: 'thaw' });
    const timer = setTimeout(() => this.kill(), GUARD_GRACE_MS);
    const end = await this.ended;
    clearTimeout(timer);
    return end;
  }

  /** Ends the process; what it had frozen is thawed by the agent as soon as the process is gone. */
  kill(): void {
    this.#child.kill('SIGKILL');
  }

  #describeEnd(end: GuardEnd): string {
    const how = end.is === 'lost' ? end.exit : end.is;
    return this.#stderr === '' ? how : `${how}: ${this.#stderr.trim()}`;
  }

  #tell(command: GuardCommand): void {
    if (this.#child.stdin?.writable === true) this.#child.stdin.write(`${JSON.stringify(command)}\n`);
  }

  #hear(report: GuardReport): void {
    if (report.is === 'ready') this.#resolveReady();
    else if (report.is === 'frozen') this.#resolveFrozen(report);
    else this.#resolveEnd(report);
    if (report.is !== 'thawed' && report.is !== 'failed') return;
    this.#freezeAsked = false;
    // It ends by itself. One that doesn't, as it was stopped just then, would stay for good.
    const timer = setTimeout(() => this.kill(), GUARD_GRACE_MS);
    this.#child.once('close', () => clearTimeout(timer));
  }

  #lost(exit: string): void {
    const stuck: number[] = [];
    if (this.#freezeAsked) {
      this.#freezeAsked = false;
      for (const [index, fd] of [...this.#folders.entries()].reverse()) if (thawNow(fd) === 'failed') stuck.push(index);
    }
    this.#resolveEnd({ is: 'lost', exit, stuck });
  }
}
