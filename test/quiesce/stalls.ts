/**
 * What a process beside the agent sees of freezes: it writes to a file of the filesystem all the time.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { until } from './loop-disks.js';

const REPO = join(import.meta.dirname, '../..');
const LIMIT_MS = 30_000;

export class StallWriter {
  readonly #child: ChildProcess;
  #said = '';

  private constructor(child: ChildProcess) {
    this.#child = child;
    child.stdout?.on('data', (bytes: Buffer) => (this.#said += bytes.toString()));
  }

  /** Resolves when it writes. */
  static async start(folder: string): Promise<StallWriter> {
    const program = join(REPO, 'test/quiesce/stall-writer.ts');
    const args = ['--import', join(REPO, 'test/helpers/ts-loader.mjs'), program, join(folder, 'stalls')];
    const writer = new StallWriter(spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'inherit'] }));
    await until('the writer writes', () => writer.#said.includes('writes'), LIMIT_MS);
    return writer;
  }

  /** Resolves when it has written once more: it isn't held back any more. The longest time so far in which it couldn't write (ms). */
  async longestMs(limitMs = LIMIT_MS): Promise<number> {
    const before = this.#said.length;
    this.#child.stdin?.write('?\n');
    await until('the writer writes again', () => this.#said.slice(before).includes('written'), limitMs);
    return Number(
      this.#said
        .match(/stall [\d.]+/g)
        ?.at(-1)
        ?.slice('stall '.length) ?? 0,
    );
  }

  async stop(): Promise<void> {
    this.#child.kill('SIGKILL');
    await until('the writer ends', () => this.#child.signalCode !== null || this.#child.exitCode !== null, LIMIT_MS);
  }
}
