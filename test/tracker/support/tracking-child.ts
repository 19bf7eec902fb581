/**
 * A process that arms a disk, takes what was written when told to by its argument, says so, and waits to be killed.
 */
import { execFileSync } from 'node:child_process';
import { EbpfTracker } from '../../../agent/tracker/ebpf/tracker.js';
import type { TrackableDisk } from '../../../agent/tracker/tracker.js';

export interface ChildTask {
  readonly pinDirectory: string;
  readonly mode: 'btf' | 'tracepoint';
  readonly disk: TrackableDisk;
  /** Writes this block of 4 KiB and takes it, so that it is pending. */
  readonly takenBlock: number;
  readonly device: string;
}

const task = JSON.parse(process.argv[2] ?? '') as ChildTask;
const tracker = new EbpfTracker({ pinDirectory: task.pinDirectory, mode: task.mode });
const { series } = tracker.arm(task.disk);
tracker.take();
const dd = ['if=/dev/zero', `of=${task.device}`, 'bs=4096', 'count=1', 'oflag=direct', 'status=none'];
execFileSync('dd', [...dd, `seek=${task.takenBlock}`]);
tracker.take();
process.stdout.write(`${series}\n`);
setInterval(() => undefined, 1000);
