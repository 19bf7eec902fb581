/**
 * What a test has armed and made, undone in the right order at its end, whatever failed.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { removePins } from '../../../agent/tracker/ebpf/objects.js';
import { EbpfTracker, type EbpfTrackerOptions } from '../../../agent/tracker/ebpf/tracker.js';
import { LoopDisk } from './loop.js';

let serial = 0;

export class Ground {
  readonly pinDirectory = `/sys/fs/bpf/afterimage-test-${process.pid}-${serial++}`;
  readonly #loops: LoopDisk[] = [];
  readonly #trackers: EbpfTracker[] = [];

  loop(sizeBytes: number): LoopDisk {
    const loop = new LoopDisk(sizeBytes);
    this.#loops.push(loop);
    return loop;
  }

  tracker(options: EbpfTrackerOptions = {}): EbpfTracker {
    const tracker = new EbpfTracker({ pinDirectory: this.pinDirectory, ...options });
    this.#trackers.push(tracker);
    return tracker;
  }

  /** Ends a tracker as the end of its process would. */
  closeTracker(tracker: EbpfTracker): void {
    tracker.close();
    this.#trackers.splice(this.#trackers.indexOf(tracker), 1);
  }

  cleanUp(): void {
    for (const tracker of this.#trackers) tracker.close();
    if (existsSync(this.pinDirectory)) {
      for (const name of readdirSync(`${this.pinDirectory}/disks`)) removePins(`${this.pinDirectory}/disks/${name}`);
      rmSync(`${this.pinDirectory}/control`, { force: true });
      execFileSync('rmdir', [`${this.pinDirectory}/disks`, this.pinDirectory]);
    }
    for (const loop of this.#loops) loop.remove();
  }
}

/** Compiles test/native/<name>.c into a directory that the caller removes. */
export function compileHelper(name: string): { readonly program: string; readonly directory: string } {
  const source = new URL(`../../native/${name}.c`, import.meta.url).pathname;
  const directory = mkdtempSync(join(tmpdir(), 'afterimage-native-'));
  const program = join(directory, name);
  execFileSync('gcc', ['-O2', '-pthread', '-Wall', '-o', program, source]);
  return { program, directory };
}
