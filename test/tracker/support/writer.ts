/**
 * The stress writer as a process, in a blkio cgroup of its own: a loop device then serves it by another worker than our
 * reads, so that reads overtake writes, which is when a tracker can lose something.
 */
import { spawn, type ChildProcessByStdio } from 'node:child_process';
import { existsSync, mkdirSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { createInterface, type Interface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { compileHelper } from './ground.js';

export interface Load {
  readonly device: string;
  readonly threads: number;
  readonly thinkUs: number;
  readonly maxBlocks: number;
  readonly seed: number;
}

const CGROUPS = ['/sys/fs/cgroup/blkio', '/sys/fs/cgroup'];

export class StressWriter {
  readonly #process: ChildProcessByStdio<Writable, Readable, null>;
  readonly #lines: Interface;
  readonly #cgroup: string | undefined;
  writes = 0;

  constructor(load: Load) {
    const { device, threads, thinkUs, maxBlocks, seed } = load;
    const args = [device, threads, thinkUs, maxBlocks, seed].map(String);
    const { program, directory } = compileHelper('stress-writer');
    this.#process = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    // It runs by now, so its file may go.
    rmSync(directory, { recursive: true });
    this.#lines = createInterface({ input: this.#process.stdout });
    this.#cgroup = this.#enterCgroup(CGROUPS.find((path) => existsSync(`${path}/cgroup.procs`)));
  }

  /** Writes for so long; resolves when every write has returned. */
  async run(ms: number): Promise<void> {
    const done = new Promise<string>((resolve, reject) => {
      const died = (): void => reject(new Error('the writer died'));
      this.#lines.once('close', died);
      this.#lines.once('line', (line) => {
        this.#lines.off('close', died);
        resolve(line);
      });
    });
    this.#process.stdin.write(`${ms}\n`);
    this.writes = Number((await done).split(' ')[1]);
  }

  async end(): Promise<void> {
    const gone = new Promise((resolve) => this.#process.once('exit', resolve));
    this.#process.stdin.end();
    await gone;
    if (this.#cgroup !== undefined) rmdirSync(this.#cgroup);
  }

  #enterCgroup(root: string | undefined): string | undefined {
    if (root === undefined) return undefined;
    const path = `${root}/afterimage-test-${this.#process.pid}`;
    mkdirSync(path);
    writeFileSync(`${path}/cgroup.procs`, String(this.#process.pid));
    return path;
  }
}
