/**
 * Workloads without a guest: one that writes to a source disk, and one that writes to a copy over NBD, waiting for a server that is away as a guest
 * does (qemu-io, a client that is not ours). Both write lines, one after the other, and know which have landed.
 */
import { spawn, type ChildProcessByStdio } from 'node:child_process';
import { closeSync, constants, openSync, writeFileSync, writeSync } from 'node:fs';
import type { Readable, Writable } from 'node:stream';
import { alignedBuffer } from '../../shared/native/libc.js';
import { sleep } from '../e2e/lab.js';
import { History, LINE_BYTES, offsetOf } from './lines.js';

const PAUSE_MS = 4;
const RECONNECT_SECONDS = 120;

abstract class LineWriter {
  history = new History();
  #loop: Promise<void> | null = null;
  #isWanted = false;
  abstract write(offset: number, content: Buffer): Promise<boolean>;

  constructor(readonly name: string) {}

  start(): void {
    if (this.#loop !== null) return;
    this.#isWanted = true;
    this.#loop = this.#run();
  }

  /** Resolved: nothing is under way any more. */
  async pause(): Promise<void> {
    this.#isWanted = false;
    await this.#loop;
    this.#loop = null;
  }

  /** Resolves when so many more lines have landed. */
  async more(lines: number, limitMs = 30_000): Promise<void> {
    const goal = this.history.acknowledged + lines;
    const end = performance.now() + limitMs;
    while (this.history.acknowledged < goal) {
      if (performance.now() > end) throw new Error(`${this.name}: stuck at line ${this.history.acknowledged}`);
      await sleep(10);
    }
  }

  async #run(): Promise<void> {
    while (this.#isWanted) {
      const { line, content } = this.history.next(this.name);
      if (!(await this.write(offsetOf(line), content))) return;
      this.history.acknowledged = line;
      await sleep(PAUSE_MS);
    }
  }
}

/** Writes to a device past the page cache. */
export class HomeWriter extends LineWriter {
  readonly #device: string;
  readonly #transfer = alignedBuffer(LINE_BYTES);

  constructor(name: string, device: string) {
    super(name);
    this.#device = device;
  }

  write(offset: number, content: Buffer): Promise<boolean> {
    const fd = openSync(this.#device, constants.O_WRONLY | constants.O_DIRECT);
    content.copy(this.#transfer);
    writeSync(fd, this.#transfer, 0, LINE_BYTES, offset);
    closeSync(fd);
    return Promise.resolve(true);
  }
}

export class CopyWriter extends LineWriter {
  readonly #child: ChildProcessByStdio<Writable, Readable, Readable>;
  readonly #file: string;
  readonly #ended: Promise<void>;
  #said = '';
  #wake = (): void => undefined;
  /** Answers that were no success, with their times. */
  readonly errors: string[] = [];
  isEnded = false;

  /** `file`: where it keeps what it is about to write. */
  constructor(name: string, uri: string, file: string) {
    super(name);
    this.#file = file;
    const url = new URL(uri);
    const at = [
      'driver=nbd,server.type=unix',
      `server.path=${url.searchParams.get('socket') ?? ''}`,
      `export=${url.pathname.slice(1)}`,
      `reconnect-delay=${RECONNECT_SECONDS}`,
    ].join(',');
    this.#child = spawn('qemu-io', ['--image-opts', at], { stdio: ['pipe', 'pipe', 'pipe'] });
    const hear = (text: string): void => {
      this.#said += text;
      this.#wake();
    };
    this.#child.stdout.setEncoding('utf8').on('data', hear);
    this.#child.stderr.setEncoding('utf8').on('data', hear);
    // It is killed while it is written to.
    this.#child.stdin.on('error', () => undefined);
    this.#ended = new Promise((resolve) =>
      this.#child.once('close', () => {
        this.isEnded = true;
        this.#wake();
        resolve();
      }),
    );
  }

  async write(offset: number, content: Buffer): Promise<boolean> {
    writeFileSync(this.#file, content);
    for (;;) {
      this.#said = '';
      this.#child.stdin.write(`write -s ${this.#file} ${offset} ${content.length}\n`);
      while (!/wrote \d+\/\d+ bytes|failed|rror/.test(this.#said) && !this.isEnded)
        await new Promise<void>((resolve) => (this.#wake = resolve));
      if (/wrote 4096\/4096 bytes/.test(this.#said)) return true;
      if (this.isEnded) return false;
      // As a guest that is stopped at an error and told to go on: the same write again.
      this.errors.push(this.#said.trim());
      await sleep(200);
    }
  }

  /** At once, whatever is under way. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#ended;
    await this.pause();
  }
}
