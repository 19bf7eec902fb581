/**
 * A machine that goes down and comes up again, as far as one disk of it knows: the two halves of a reboot run here, between them the kernel forgets the
 * disk. Time and boots are made up.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { BlockSet } from '../../shared/blocks/block-set.js';
import { asDiskId } from '../../shared/units.js';
import { systemClock } from '../../shared/clock.js';
import { silentLogger } from '../../shared/log.js';
import { Sysfs } from '../../agent/disks/sysfs.js';
import { protect } from '../../agent/protect.js';
import { loadProtection } from '../../agent/protection.js';
import { bootId } from '../../agent/open-disk.js';
import { armDisks } from '../../agent/reboot/arm.js';
import { closeDisks } from '../../agent/reboot/close.js';
import type { Note } from '../../agent/reboot/note.js';
import type { DiskOutcome } from '../../agent/reboot/outcome.js';
import { removeAllPins } from '../../agent/tracker/ebpf/objects.js';
import { EbpfTracker } from '../../agent/tracker/ebpf/tracker.js';
import type { ArmResult, TrackableDisk } from '../../agent/tracker/tracker.js';
import { inspectDevice } from '../../agent/disks/inspect.js';
import { FreshLoop } from './fresh-loop.js';

const SECOND_MS = 1_000;
let serial = 0;

export class RebootingMachine {
  readonly folder = mkdtempSync('/dev/shm/afterimage-reboot-');
  readonly stateDir: string;
  readonly runDir: string;
  readonly mountPoint = join(this.folder, 'mnt');
  readonly pinDirectory: string;
  readonly sysfs = new Sysfs();
  readonly loop: FreshLoop;
  /** Wall time; stands still but for reboots. */
  nowMs = Date.UTC(2026, 0, 1);
  boot = 1;

  /** `agent`: where a real one keeps its state and pins. */
  constructor(
    sizeBytes: number,
    agent?: { readonly stateDir: string; readonly pinDirectory: string; readonly runDir: string },
  ) {
    this.runDir = agent?.runDir ?? join(this.folder, 'run');
    this.stateDir = agent?.stateDir ?? join(this.folder, 'state');
    this.pinDirectory = agent?.pinDirectory ?? `/sys/fs/bpf/afterimage-reboot-${process.pid}-${serial++}`;
    mkdirSync(this.mountPoint);
    this.loop = new FreshLoop(join(this.folder, 'disk'), sizeBytes);
  }

  async protect(): Promise<void> {
    await protect(this.stateDir, [this.loop.device], () => '0b0b0b0b-0000-4000-8000-00000000000b');
  }

  run(command: string, ...args: string[]): void {
    execFileSync(command, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  }

  /** Mounts the filesystem, does something in it, unmounts it. */
  inside(work: () => void): void {
    this.run('mount', this.loop.device, this.mountPoint);
    try {
      work();
    } finally {
      this.run('umount', this.mountPoint);
    }
  }

  tracker(): EbpfTracker {
    return new EbpfTracker({ pinDirectory: this.pinDirectory });
  }

  trackable(): TrackableDisk {
    const found = inspectDevice(this.loop.device, {
      sysfs: this.sysfs,
      protectedDisks: [],
      kept: [{ id: DISK, key: `loop:${this.loop.file}+0`, inode: null, sizeBytes: 0 }],
      newUuid: () => DISK,
    });
    if (found.trackable === null) throw new Error('not trackable');
    return found.trackable;
  }

  /** As the agent does at its start and end. */
  whileArmed<T>(work: (armed: ArmResult, tracker: EbpfTracker) => T): T {
    const tracker = this.tracker();
    try {
      return work(tracker.arm(this.trackable()), tracker);
    } finally {
      tracker.close();
    }
  }

  /** A point of all there is: an audit that balances, and nothing marked after it. */
  commitAll(): void {
    this.whileArmed((_armed, tracker) => {
      for (let attempt = 0; attempt < 50; attempt++) {
        const taken = tracker.take().disks.get(DISK);
        if (taken === undefined) throw new Error('not armed');
        if (tracker.audit(DISK).kind === 'balanced' && tracker.markedCount(DISK) === 0) {
          tracker.committed(DISK, new BlockSet());
          return;
        }
        execFileSync('sleep', ['0.1']);
      }
      throw new Error('the disk does not come to rest');
    });
  }

  #deps(tracker: EbpfTracker, boot: string) {
    return {
      stateDir: this.stateDir,
      runDir: this.runDir,
      sysfs: this.sysfs,
      tracker,
      trackerReason: '',
      clock: { ...systemClock, nowMs: () => this.nowMs },
      log: silentLogger(),
      bootId: boot,
    };
  }

  async close(): Promise<Note> {
    const tracker = this.tracker();
    try {
      const [note] = await closeDisks(await loadProtection(this.stateDir), this.#deps(tracker, `boot ${this.boot}`));
      if (note === undefined) throw new Error('no note');
      return note;
    } finally {
      tracker.close();
    }
  }

  /** The kernel goes, with all that it knew. */
  reboot(meanwhile?: () => void, awaySeconds = 60): void {
    removeAllPins(this.pinDirectory);
    this.loop.reboot(meanwhile);
    this.boot++;
    this.nowMs += awaySeconds * SECOND_MS;
  }

  async arm(options: { goesOn?: boolean } = {}): Promise<DiskOutcome> {
    const tracker = this.tracker();
    try {
      const deps = {
        // That of the kernel which runs: an agent asks for it.
        ...this.#deps(tracker, bootId()),
        bootedAtMs: this.nowMs,
        withinMs: 900_000,
        goesOn: options.goesOn ?? true,
      };
      const [outcome] = await armDisks(await loadProtection(this.stateDir), deps);
      if (outcome === undefined) throw new Error('no outcome');
      return outcome;
    } finally {
      tracker.close();
    }
  }

  cleanUp(): void {
    removeAllPins(this.pinDirectory);
    this.loop.remove();
    if (existsSync(this.folder)) rmSync(this.folder, { recursive: true });
  }
}

export const DISK = asDiskId('0b0b0b0b-0000-4000-8000-00000000000b');
