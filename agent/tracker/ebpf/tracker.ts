/**
 * Change tracking by BPF programs at the block layer's tracepoints, without a compiler, a kernel module or a reboot.
 * Marks live in kernel maps that are pinned below `pinDirectory`: the agent may die at any instruction and come back.
 * One process at a time may use a pin directory (the agent holds its own lock).
 */
import { mkdirSync, readdirSync } from 'node:fs';
import type { BlockSet } from '../../../shared/blocks/block-set.js';
import { systemClock, type Clock } from '../../../shared/clock.js';
import { AfterimageError } from '../../../shared/errors.js';
import type { DiskId, SeriesId } from '../../../shared/units.js';
import type {
  ArmResult,
  AuditVerdict,
  DiskTake,
  MarkTracker,
  Take,
  TrackableDisk,
  TrackerCounters,
} from '../tracker.js';
import { adoptSeries, armDisk, describe, startSeries, type ArmContext, type Armed } from './arm.js';
import type { ArmedDisk } from './armed-disk.js';
import { Control, waitForStragglers, type EpochIndex } from './control.js';
import { readKernelTypes, type KernelTypes } from './kernel-types.js';
import { BPFFS_PATH, ensurePinDirectory } from './mounts.js';
import { removePins } from './objects.js';
import { bestMode } from './probe.js';
import type { TestOnlyDisable } from './programs.js';
import { possibleCpus } from './statistics.js';

export interface EbpfTrackerOptions {
  /** A directory on a bpffs, made when absent. */
  readonly pinDirectory?: string;
  /** Forces a way to attach. By default `btf` where the kernel describes its types, else classic tracepoints. */
  readonly mode?: 'btf' | 'tracepoint';
  readonly clock?: Clock;
  /** Breaks a promise, so that a test can prove that it would notice. */
  readonly testOnlyDisable?: TestOnlyDisable;
}

export const DEFAULT_PIN_DIRECTORY = `${BPFFS_PATH}/afterimage`;

interface Entry {
  readonly armed: ArmedDisk;
  /** What was submitted before the first take isn't known: programs may have been attached amid an epoch. */
  taken: boolean;
}

export class EbpfTracker implements MarkTracker {
  readonly mode: 'btf' | 'tracepoint';
  readonly #pinDirectory: string;
  readonly #clock: Clock;
  readonly #disable: TestOnlyDisable | undefined;
  readonly #control: Control;
  readonly #cpus: number;
  readonly #disks = new Map<DiskId, Entry>();
  #types: KernelTypes | undefined;
  /** A take gave up waiting: programs may still work under the epoch before the current one. */
  #strayed = false;
  #stragglerWaitsMs = 0;

  constructor(options: EbpfTrackerOptions = {}) {
    this.mode = options.mode ?? bestMode();
    this.#pinDirectory = options.pinDirectory ?? DEFAULT_PIN_DIRECTORY;
    this.#clock = options.clock ?? systemClock;
    this.#disable = options.testOnlyDisable;
    this.#cpus = possibleCpus();
    ensurePinDirectory(this.#pinDirectory);
    mkdirSync(this.#disksDirectory, { recursive: true });
    this.#control = new Control(`${this.#pinDirectory}/control`);
    if (this.#control.created) this.#removeOrphans();
  }

  arm(disk: TrackableDisk): ArmResult {
    if (this.#disks.has(disk.id)) {
      throw new AfterimageError(`disk ${disk.id} is armed already`, { code: 'disk-armed', kind: 'internal' });
    }
    return this.#add(armDisk(disk, this.#context(disk.id)));
  }

  /** Goes on with a series of an earlier boot (arm.ts). */
  adopt(disk: TrackableDisk, series: SeriesId, uncommitted: BlockSet): ArmResult {
    return this.#add(adoptSeries(disk, this.#context(disk.id), { series, uncommitted }));
  }

  disarm(id: DiskId): void {
    const entry = this.#disks.get(id);
    this.#disks.delete(id);
    entry?.armed.close();
    removePins(this.#directoryOf(id));
  }

  release(id: DiskId): void {
    this.#disks.get(id)?.armed.close();
    this.#disks.delete(id);
  }

  restartSeries(id: DiskId, reason: string): ArmResult {
    const { disk } = this.#entry(id).armed;
    const context = this.#context(id);
    // Before anything is given up: it throws when the disk can't be tracked.
    const identity = describe(disk, context);
    this.disarm(id);
    return this.#add(startSeries(disk, context, identity, reason));
  }

  take(): Take {
    const entries = [...this.#disks.entries()];
    const wasStrayed = this.#strayed;
    if (wasStrayed) this.#wait();
    const ended: EpochIndex = this.#control.epoch;
    const next: EpochIndex = ended === 0 ? 1 : 0;
    for (const [, { armed }] of entries) {
      armed.maps.expireFilter();
      armed.maps.clearFilter(next);
    }
    this.#strayed = true;
    this.#control.epoch = next;
    const [flipWallMs, flipMonotonicMs] = [this.#clock.nowMs(), this.#clock.monotonicMs()];
    this.#wait();
    this.#strayed = false;
    const disks = new Map<DiskId, DiskTake>();
    for (const [id, entry] of entries) {
      const known = entry.taken && !wasStrayed;
      const { maps } = entry.armed;
      entry.taken = true;
      disks.set(id, entry.armed.collect(known ? maps.submittedFilter(ended) : maps.unknownFilter(), flipMonotonicMs));
    }
    return { flipWallMs, flipMonotonicMs, disks };
  }

  audit(id: DiskId): AuditVerdict {
    return this.#entry(id).armed.audit(this.#clock.monotonicMs());
  }

  committed(id: DiskId, carried: BlockSet): void {
    this.#entry(id).armed.committed(carried);
  }

  markedCount(id: DiskId): number {
    return this.#entry(id).armed.maps.markedCount();
  }

  counters(id: DiskId): TrackerCounters {
    return this.#entry(id).armed.counters(this.#stragglerWaitsMs);
  }

  close(): void {
    for (const { armed } of this.#disks.values()) armed.close();
    this.#disks.clear();
    this.#control.close();
  }

  get #disksDirectory(): string {
    return `${this.#pinDirectory}/disks`;
  }

  /** A bpffs allows no dots in names; ids allow no plus. */
  #directoryOf(id: DiskId): string {
    return `${this.#disksDirectory}/${id.replaceAll('.', '+')}`;
  }

  #add({ armed, result }: Armed): ArmResult {
    this.#disks.set(armed.disk.id, { armed, taken: false });
    // Programs of an earlier process may have been caught amid a flip.
    if (result.resumed) this.#strayed = true;
    return result;
  }

  #entry(id: DiskId): Entry {
    const entry = this.#disks.get(id);
    if (entry === undefined) {
      throw new AfterimageError(`disk ${id} is not armed`, { code: 'disk-not-armed', kind: 'internal' });
    }
    return entry;
  }

  #wait(): void {
    const counters = [...this.#disks.values()].map(({ armed }) => armed.maps.counters);
    const monotonicMs = (): number => this.#clock.monotonicMs();
    this.#stragglerWaitsMs += waitForStragglers(counters, this.#cpus, monotonicMs);
  }

  #context(id: DiskId): ArmContext {
    return {
      directory: this.#directoryOf(id),
      mode: this.mode,
      kernelTypes: () => (this.#types ??= readKernelTypes(this.mode)),
      controlFd: this.#control.fd,
      disable: this.#disable,
      monotonicMs: () => this.#clock.monotonicMs(),
    };
  }

  /** Without the control map that they were attached with, programs of an earlier process would never see a flip. */
  #removeOrphans(): void {
    for (const name of readdirSync(this.#disksDirectory)) removePins(`${this.#disksDirectory}/${name}`);
  }
}
