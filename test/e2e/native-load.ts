/**
 * C programs that write to disks, and programs that only burn time. Writers run in a blkio cgroup of their own: a loop device then serves them by
 * another worker than our reads, so that reads overtake writes, which is when a copy can go wrong.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { compileHelper } from '../tracker/support/ground.js';

const CGROUPS = ['/sys/fs/cgroup/blkio', '/sys/fs/cgroup'];

export class NativeWriter {
  readonly #process: ChildProcess;
  readonly #gone: Promise<number | null>;
  readonly #cgroup: string | undefined;
  readonly #directory: string;
  #output = '';

  /** `name`: of test/native/<name>.c. */
  constructor(name: string, args: readonly (string | number)[]) {
    const { program, directory } = compileHelper(name);
    this.#directory = directory;
    this.#process = spawn(program, args.map(String), { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#process.stdout?.setEncoding('utf8').on('data', (text: string) => (this.#output += text));
    this.#gone = new Promise((resolve) => this.#process.once('close', resolve));
    this.#cgroup = this.#enterCgroup();
  }

  /** For writers that work on demand: lets it work for so long; resolves when all its calls have returned. */
  async run(ms: number): Promise<void> {
    const before = this.#output.length;
    this.#process.stdin?.write(`${ms}\n`);
    while (this.#output.indexOf('\n', before) < 0) {
      if (this.#process.exitCode !== null) throw new Error('the writer died');
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }

  /** Ends its stdin, upon which it finishes; resolves to the last line that it printed. */
  async end(): Promise<string> {
    this.#process.stdin?.end();
    const code = await this.#gone;
    rmSync(this.#directory, { recursive: true, force: true });
    if (this.#cgroup !== undefined) rmdirSync(this.#cgroup);
    if (code !== 0) throw new Error(`the writer ended with ${String(code)}`);
    return this.#output.trimEnd().split('\n').at(-1) ?? '';
  }

  #enterCgroup(): string | undefined {
    const root = CGROUPS.find((path) => existsSync(`${path}/cgroup.procs`));
    if (root === undefined) return undefined;
    const path = `${root}/afterimage-test-${this.#process.pid}`;
    mkdirSync(path);
    writeFileSync(`${path}/cgroup.procs`, String(this.#process.pid));
    return path;
  }
}

/** Processes that compete for the CPUs. Returns what ends them. */
export function burnCpu(count: number): () => void {
  const burning = Array.from({ length: count }, () => spawn('sh', ['-c', 'while :; do :; done'], { stdio: 'ignore' }));
  return () => burning.forEach((child) => child.kill('SIGKILL'));
}

/** Seconds that a soak should last; 0 for the short run of every day. */
export const SOAK_SECONDS = Number(process.env['AFTERIMAGE_SOAK'] ?? 0);
