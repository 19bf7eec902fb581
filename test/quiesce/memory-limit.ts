/**
 * A limit of memory around processes of a test: a control group below the one in which the test runs (or, where that may not be, beside it), in either
 * version of control groups. Whoever makes one removes it.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

export class MemoryLimit {
  readonly #folder: string;

  private constructor(folder: string) {
    this.#folder = folder;
  }

  /** Null: this machine doesn't let us. */
  static make(limitBytes: number): MemoryLimit | null {
    for (const [place, file] of places()) {
      const folder = join(place, `afterimage-test-${process.pid}`);
      try {
        mkdirSync(folder);
      } catch {
        continue;
      }
      try {
        writeFileSync(join(folder, file), String(limitBytes));
        // Nothing may be put into swap instead.
        for (const [name, text] of [
          ['memory.memsw.limit_in_bytes', String(limitBytes)],
          ['memory.swap.max', '0'],
        ] as const)
          if (existsSync(join(folder, name))) writeFileSync(join(folder, name), text);
        return new MemoryLimit(folder);
      } catch {
        rmdirSync(folder);
      }
    }
    return null;
  }

  /** What the process starts from now on is under the limit as well. */
  add(pid: number): void {
    writeFileSync(join(this.#folder, 'cgroup.procs'), String(pid));
  }

  /** Processes that the kernel killed for it. */
  get kills(): number {
    const file = ['memory.events', 'memory.oom_control'].map((name) => join(this.#folder, name)).find(existsSync) ?? '';
    return Number(/^oom_kill (\d+)$/m.exec(readFileSync(file, 'utf8'))?.[1]);
  }

  /** A process that has just ended is in it for a moment. */
  remove(): void {
    for (let attempt = 1; ; attempt++) {
      try {
        rmdirSync(this.#folder);
        return;
      } catch (error) {
        if (attempt === 50) throw error;
        execFileSync('sleep', ['0.1']);
      }
    }
  }
}

/** Folders in which a group may be made, with the file that holds its limit. */
function places(): [string, string][] {
  const mounts = readFileSync('/proc/self/mounts', 'utf8').split('\n');
  const mounted = (pattern: RegExp): string | undefined => mounts.find((line) => pattern.test(line))?.split(' ')[1];
  const own = readFileSync('/proc/self/cgroup', 'utf8').split('\n');
  const first = mounted(/ cgroup \S*\bmemory\b/);
  const firstPath = own.find((line) => /^\d+:[^:]*\bmemory\b[^:]*:/.test(line))?.split(':')[2];
  if (first !== undefined && firstPath !== undefined) return [[join(first, firstPath), 'memory.limit_in_bytes']];
  const second = mounted(/ cgroup2 /);
  const secondPath = own.find((line) => line.startsWith('0::'))?.split(':')[2];
  if (second === undefined || secondPath === undefined) return [];
  // With processes in it a group has no limits of its own for those below, so a neighbour is made.
  const folder = join(second, secondPath);
  return [folder, dirname(folder)].filter((place) => place.startsWith(second)).map((place) => [place, 'memory.max']);
}
