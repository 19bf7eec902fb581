/**
 * A client of the machine, wherever it runs: appends numbered lines over HTTP, one after the other, and remembers which were acknowledged. A line whose
 * answer never came may be in the log or not; it isn't asked for again, so the log of a machine that lost nothing has each number at most once.
 */
import { guestHttp } from '../guest/guest.js';

const PAUSE_MS = 20;
const ANSWER_LIMIT_MS = 3_000;

export class AppendClient {
  /** Where the machine answers now; null: nowhere, so it isn't asked. */
  port: number | null = null;
  readonly acknowledged: number[] = [];
  /** Wall times of the acknowledgements. */
  readonly timesMs: number[] = [];
  #next = 1;
  #stopped = false;
  #loop: Promise<void> | null = null;

  start(): void {
    this.#loop = this.#run();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#loop;
  }

  /** Resolves when so many more lines are acknowledged. */
  async more(lines: number, limitMs = 30_000): Promise<void> {
    const goal = this.acknowledged.length + lines;
    const end = performance.now() + limitMs;
    while (this.acknowledged.length < goal) {
      if (performance.now() > end) throw new Error(`no answer from port ${this.port ?? 'none'} within ${limitMs} ms`);
      await pause();
    }
  }

  /** The last line that was acknowledged before a moment of wall time; 0 for none. */
  lastBefore(atMs: number): number {
    const after = this.timesMs.findIndex((t) => t >= atMs);
    return this.acknowledged[(after === -1 ? this.acknowledged.length : after) - 1] ?? 0;
  }

  /** A line that is known to be lost: not asked for any more. */
  forget(line: number): void {
    const at = this.acknowledged.indexOf(line);
    if (at === -1) return;
    this.acknowledged.splice(at, 1);
    this.timesMs.splice(at, 1);
  }

  /** Throws unless `log` (the text of /data.log) holds every acknowledged line up to `upTo`, in order, none twice. */
  check(log: string, upTo = Infinity): { readonly lines: number; readonly missing: readonly number[] } {
    const numbers = log
      .split('\n')
      .filter((line) => line !== '')
      .map(Number);
    for (const [i, n] of numbers.entries()) {
      const before = numbers[i - 1] ?? 0;
      if (!Number.isInteger(n) || n <= before)
        throw new Error(`data.log: line ${String(numbers[i])} follows ${before}`);
    }
    const there = new Set(numbers);
    const missing = this.acknowledged.filter((n) => n <= upTo && !there.has(n));
    return { lines: numbers.length, missing };
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      const port = this.port;
      if (port !== null) {
        const n = this.#next++;
        try {
          const answer = await guestHttp(port, `/cgi-bin/append?${n}`, ANSWER_LIMIT_MS);
          if (answer.trim() === `OK ${n}`) {
            this.acknowledged.push(n);
            this.timesMs.push(Date.now());
          }
        } catch {
          // Not acknowledged: that is what this client is here to find out.
        }
      }
      await pause();
    }
  }
}

const pause = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
