/**
 * Change tracking of a simulated machine, with the semantics of the real one: marks at submission and at completion, one flip of the epoch for all
 * disks, marks and pending marks in the kernel, where they survive the agent's process and nothing else.
 * The kernel may miss marks: of completions (the audit then names what has to be read again) or of submissions (the series ends).
 */
import { BlockSet } from '../../shared/blocks/block-set.js';
import { AfterimageError } from '../../shared/errors.js';
import { asSeriesId, type DiskId, type SeriesId } from '../../shared/units.js';
import type {
  ArmResult,
  AuditVerdict,
  DiskTake,
  MarkTracker,
  Take,
  TrackableDisk,
  TrackerCounters,
} from '../../agent/tracker/tracker.js';
import type { SimDisk } from './disk.js';
import type { SimProcess } from './process.js';
import type { Rng } from './rng.js';
import type { Scheduler } from './scheduler.js';

/** Pending marks are kept at one bit per group. */
const GROUP_BLOCKS = 64;

/** Chances of what a kernel does wrong; 0 for a kernel that works. */
export interface TrackerFaults {
  missedCompletion: number;
  missedSubmission: number;
  /** A filter that says yes too often. */
  falseHit: number;
}

/** An instant at which an image may hold. */
export interface Flip {
  readonly order: number;
  readonly atMs: number;
}

/** The kernel's part for one disk. */
class Tracked {
  live = new BlockSet();
  submitted = new Set<number>();
  pending = new BlockSet();
  /** Taken while not every write of its time is known to have landed and been seen. */
  suspects = new BlockSet();
  missedCompletions = 0;
  missedSubmissions = 0;

  constructor(readonly series: SeriesId) {}
}

export class SimKernel {
  readonly #rng: Rng;
  readonly #scheduler: Scheduler;
  readonly #disks: readonly SimDisk[];
  readonly tracked = new Map<DiskId, Tracked>();
  readonly faults: TrackerFaults = { missedCompletion: 0, missedSubmission: 0, falseHit: 0 };
  /** All flips by their wall time: a point's cut is known again by it. */
  readonly flips = new Map<number, Flip>();
  bootId: string;

  constructor(scheduler: Scheduler, disks: readonly SimDisk[], rng: Rng) {
    this.#scheduler = scheduler;
    this.#disks = disks;
    this.#rng = rng;
    this.bootId = rng.uuid();
    for (const disk of disks) this.#hook(disk);
  }

  /** Everything in the kernel's memory is gone. */
  reboot(): void {
    this.tracked.clear();
    this.bootId = this.#rng.uuid();
  }

  newSeries(id: DiskId): Tracked {
    const tracked = new Tracked(asSeriesId(this.#rng.uuid()));
    this.tracked.set(id, tracked);
    return tracked;
  }

  diskOf(id: DiskId): SimDisk {
    const disk = this.#disks.find((d) => d.id === id);
    if (disk === undefined) throw new Error(`no disk ${id}`);
    return disk;
  }

  /** Remembers a flip under a wall time that no other of the last flips has; returns that time. */
  flip(wallMs: number): number {
    let ms = wallMs;
    while (this.flips.has(ms)) ms++;
    this.flips.set(ms, { order: this.#scheduler.nextOrder(), atMs: this.#scheduler.nowMs });
    return ms;
  }

  filterOf(blocks: ReadonlySet<number>): DiskTake['submitted'] {
    const { falseHit } = this.faults;
    return { mayHold: (block) => blocks.has(block) || (falseHit > 0 && this.#rng.chance(falseHit)) };
  }

  #hook(disk: SimDisk): void {
    disk.hooks = {
      submitted: (block) => {
        const tracked = this.tracked.get(disk.id);
        if (tracked === undefined) return;
        if (this.#rng.chance(this.faults.missedSubmission)) {
          tracked.missedSubmissions++;
          return;
        }
        tracked.live.add(block);
        tracked.submitted.add(block);
      },
      completed: (block) => {
        const tracked = this.tracked.get(disk.id);
        if (tracked === undefined) return;
        if (this.#rng.chance(this.faults.missedCompletion)) {
          tracked.missedCompletions++;
          return;
        }
        tracked.live.add(block);
      },
    };
  }
}

export class SimTracker implements MarkTracker {
  readonly mode = 'btf';
  readonly #kernel: SimKernel;
  readonly #process: SimProcess;
  /** Armed by this process; false: not taken since. */
  readonly #armed = new Map<DiskId, boolean>();
  readonly #onLet: () => void;
  #takes = 0;

  /** `onLet`: called when a disk isn't armed any more. */
  constructor(kernel: SimKernel, process: SimProcess, onLet: () => void = () => undefined) {
    this.#kernel = kernel;
    this.#process = process;
    this.#onLet = onLet;
  }

  arm(disk: TrackableDisk): ArmResult {
    this.#process.mustLive();
    if (this.#armed.has(disk.id)) throw internal(`disk ${disk.id} is armed already`);
    this.#armed.set(disk.id, false);
    const known = this.#kernel.tracked.get(disk.id);
    if (known === undefined) return this.#begun(disk.id, 'tracking begins');
    return { series: known.series, resumed: true, reason: '', uncommitted: this.#groupsOf(disk.id, known.pending) };
  }

  disarm(id: DiskId): void {
    this.#process.mustLive();
    this.#armed.delete(id);
    this.#kernel.tracked.delete(id);
    this.#onLet();
  }

  release(id: DiskId): void {
    this.#process.mustLive();
    this.#armed.delete(id);
    this.#onLet();
  }

  restartSeries(id: DiskId, reason: string): ArmResult {
    this.#tracked(id);
    this.#armed.set(id, false);
    return this.#begun(id, reason);
  }

  take(): Take {
    this.#process.mustLive();
    this.#takes++;
    const disks = new Map<DiskId, DiskTake>();
    const flipWallMs = this.#kernel.flip(this.#process.clock.nowMs());
    for (const [id, wasTaken] of this.#armed) {
      const tracked = this.#tracked(id);
      const marked = tracked.live;
      const submitted = tracked.submitted;
      tracked.live = new BlockSet();
      tracked.submitted = new Set();
      tracked.pending.addAll(marked);
      tracked.suspects.addAll(marked);
      // What was submitted before the first take of a process isn't known.
      disks.set(id, { marked, submitted: wasTaken ? this.#kernel.filterOf(submitted) : { mayHold: () => true } });
      this.#armed.set(id, true);
    }
    return { flipWallMs, flipMonotonicMs: this.#process.clock.monotonicMs(), disks };
  }

  audit(id: DiskId): AuditVerdict {
    const tracked = this.#tracked(id);
    if (tracked.missedSubmissions > 0) {
      return { kind: 'series-ended', reason: `${tracked.missedSubmissions} writes were not seen at submission` };
    }
    const isQuiet = this.#kernel.diskOf(id).inFlight.length === 0;
    if (tracked.missedCompletions > 0) {
      const missedSectors = tracked.missedCompletions * 8;
      tracked.missedCompletions = 0;
      return { kind: 'recopy', missedSectors, blocks: tracked.suspects.clone() };
    }
    if (isQuiet) tracked.suspects = new BlockSet();
    return { kind: 'balanced' };
  }

  committed(id: DiskId, carried: BlockSet): void {
    const tracked = this.#tracked(id);
    tracked.pending = carried.clone();
  }

  markedCount(id: DiskId): number {
    return this.#tracked(id).live.size;
  }

  counters(): TrackerCounters {
    return {
      submittedSectors: 0,
      completedSectors: 0,
      kernelSectors: 0,
      discardedSectors: 0,
      opaqueWrites: 0,
      recursionMisses: 0,
      auditsBalanced: 0,
      auditsRecopied: 0,
      takes: this.#takes,
      stragglerWaitsMs: 0,
    };
  }

  close(): void {
    this.#armed.clear();
  }

  #begun(id: DiskId, reason: string): ArmResult {
    const { series } = this.#kernel.newSeries(id);
    return { series, resumed: false, reason, uncommitted: new BlockSet() };
  }

  #tracked(id: DiskId): Tracked {
    this.#process.mustLive();
    const tracked = this.#kernel.tracked.get(id);
    if (tracked === undefined || !this.#armed.has(id)) throw internal(`disk ${id} is not armed`);
    return tracked;
  }

  #groupsOf(id: DiskId, blocks: BlockSet): BlockSet {
    const { blockCount } = this.#kernel.diskOf(id).geometry;
    const groups = new BlockSet();
    for (const block of blocks.blocks()) {
      const first = block - (block % GROUP_BLOCKS);
      groups.addRange(first, Math.min(GROUP_BLOCKS, blockCount - first));
    }
    return groups;
  }
}

const internal = (what: string): AfterimageError => new AfterimageError(what, { code: 'sim', kind: 'internal' });
