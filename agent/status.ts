/**
 * What an operator sees of the agent: one snapshot for `/status`, the command line and the metrics. Collects, decides nothing.
 */
import type { Clock } from '../shared/clock.js';
import { lz4 } from '../shared/layer/codec.js';
import { CLOSE } from '../shared/wire/close-codes.js';
import type { Welcome } from '../shared/wire/messages.js';
import type { CycleResult } from './cycle/machine-cycle.js';
import type { ProtectedDisk, SweepNeed } from './cycle/protected-disk.js';
import type { AbsentDisk } from './disks/absent.js';
import { blocksAtRisk } from './hello.js';
import type { LoadStatus } from './load/work-limits.js';
import type { OpenedDisk } from './open-disk.js';
import type { ApplicationPointsStatus } from './quiesce/points/application-points.js';
import type { MarkTracker, TrackerCounters } from './tracker/tracker.js';

export interface DiskSnapshot {
  readonly id: string;
  readonly device: string;
  readonly sizeBytes: number;
  readonly state: string;
  readonly reason: string;
  readonly tracker: 'ebpf' | 'scan';
  readonly trackerReason: string;
  /** Devices that multipath joins to it; none for a disk with one path. */
  readonly paths: readonly string[];
  readonly series: string | null;
  readonly lastPoint: number;
  readonly progress: {
    readonly percent: number;
    readonly processedBytes: number;
    readonly totalBytes: number;
    readonly bytesPerSecond: number;
    readonly secondsLeft: number | null;
    /** By this first copy or comparison so far. */
    readonly readBytes: number;
    readonly sentBytes: number;
  } | null;
  /** The last that came to its end since the agent started. */
  readonly lastSweep: {
    readonly kind: SweepNeed['kind'];
    readonly reason: string;
    readonly endedAt: string;
    readonly readBytes: number;
    readonly sentBytes: number;
  } | null;
  /**
   * What would be lost if the source died now. Seconds: age of the last cut if anything changed since; null before the first point.
   * Bytes: null for the scan tracker, which can't know without reading.
   */
  readonly dataAtRisk: { readonly seconds: number | null; readonly bytes: number | null };
  readonly counters: ProtectedDisk['counters'];
  readonly tracking: TrackerCounters | null;
}

export interface AgentSnapshot {
  readonly program: string;
  readonly machine: { readonly id: string; readonly name: string; readonly generation: number };
  readonly receiver: {
    readonly address: string;
    readonly connected: boolean;
    readonly epoch: number | null;
    /** Why not, when it isn't. */
    readonly reason: string;
    readonly retryInSeconds: number | null;
    /** What this machine may do by the session that stands. */
    readonly mode: 'replicate' | 'restore' | null;
    /** The refusal that was heard last; null once a session was granted. */
    readonly refused: { readonly name: string; readonly reason: string; readonly hint: string } | null;
  };
  readonly restore: { readonly point: number; readonly step: string; readonly percent: number | null } | null;
  /** A planned failover has shut the workload down, and nothing has let it run again. */
  readonly finalCut: string | null;
  readonly state: string;
  readonly lastPoint: {
    readonly number: number;
    readonly cutAt: string;
    readonly ageSeconds: number;
    readonly consistency: string;
    readonly reason: string;
    readonly passes: number;
    readonly cutMs: number;
    readonly freezeMs: number;
    /** For how long applications held commits back. */
    readonly heldMs: number;
    readonly durationMs: number;
    readonly changedBytes: number;
    readonly sentBytes: number;
    readonly storedBytes: number;
  } | null;
  readonly lastFallback: { readonly reason: string; readonly at: string } | null;
  readonly applicationPoints: ApplicationPointsStatus;
  readonly pointsCommitted: number;
  readonly pointsSkipped: number;
  readonly freezes: number;
  /** Limits of load that are in force, and what they hold up. */
  readonly load: LoadStatus;
  readonly memory: { readonly residentBytes: number };
  readonly compression: string;
  readonly disks: readonly DiskSnapshot[];
}

/** What a restore is at, for people. */
export type RestoreStatus = NonNullable<AgentSnapshot['restore']>;

export interface StatusIdentity {
  readonly program: string;
  readonly machine: AgentSnapshot['machine'];
  readonly address: string;
}

export class AgentStatus {
  readonly #clock: Clock;
  readonly #identity: StatusIdentity;
  #address: string;
  readonly #disks: () => readonly OpenedDisk[];
  readonly #absent: () => readonly AbsentDisk[];
  readonly #tracker: () => MarkTracker | null;
  readonly #applicationPoints: () => ApplicationPointsStatus;
  readonly #load: () => LoadStatus;
  #epoch: number | null = null;
  #mode: Welcome['mode'] | null = null;
  #refused: AgentSnapshot['receiver']['refused'] = null;
  #restore: RestoreStatus | null = null;
  #finalCut: string | null = null;
  #generation: number;
  #connected = false;
  #reason = 'not connected yet';
  #retryAtMs: number | null = null;
  #last: { result: CycleResult; atMs: number; cutMonotonicMs: number } | null = null;
  #fallback: { reason: string; atMs: number } | null = null;
  readonly #sweeps = new Map<string, NonNullable<DiskSnapshot['lastSweep']>>();
  #points = 0;
  #skipped = 0;
  #freezes = 0;

  constructor(
    clock: Clock,
    identity: StatusIdentity,
    disks: () => readonly OpenedDisk[],
    absent: () => readonly AbsentDisk[],
    tracker: () => MarkTracker | null,
    applicationPoints: () => ApplicationPointsStatus,
    load: () => LoadStatus,
  ) {
    this.#clock = clock;
    this.#identity = identity;
    this.#address = identity.address;
    this.#generation = identity.machine.generation;
    this.#disks = disks;
    this.#absent = absent;
    this.#tracker = tracker;
    this.#applicationPoints = applicationPoints;
    this.#load = load;
  }

  connected(welcome: Welcome): void {
    this.#connected = true;
    this.#mode = welcome.mode;
    this.#refused = null;
    this.#epoch = welcome.epoch;
    this.#reason = '';
    this.#retryAtMs = null;
  }

  refused(name: string, reason: string, hint: string): void {
    this.#refused = { name, reason, hint };
  }

  restoring(restore: RestoreStatus | null): void {
    this.#restore = restore;
  }

  finalCut(text: string | null): void {
    this.#finalCut = text;
  }

  generation(generation: number): void {
    this.#generation = generation;
  }

  /** The receiver that is being asked, or that answered. */
  dialling(address: string): void {
    this.#address = address;
  }

  /** `retryInMs`: null when nothing will be tried by itself. */
  disconnected(reason: string, retryInMs: number | null): void {
    this.#connected = false;
    this.#mode = null;
    this.#reason = reason;
    this.#retryAtMs = retryInMs === null ? null : this.#clock.monotonicMs() + retryInMs;
  }

  committed(result: CycleResult, disks: readonly ProtectedDisk[]): void {
    const nowMs = this.#clock.monotonicMs();
    // The cut lies before the commit by as much wall time as passed; a clock that jumped in between shows here only.
    const sinceCutMs = Math.max(0, Math.min(this.#clock.nowMs() - result.cut.cutAtMs, result.durationMs));
    this.#last = { result, atMs: this.#clock.nowMs(), cutMonotonicMs: nowMs - sinceCutMs };
    this.#points++;
    if (result.cut.freezeMs > 0) {
      this.#freezes++;
      this.#fallback = { reason: result.cut.reason, atMs: this.#clock.nowMs() };
    }
    for (const disk of disks) disk.counters.storedBytes += Math.round(result.storedBytes / disks.length);
  }

  swept(disk: ProtectedDisk, need: SweepNeed, bytes: { readonly readBytes: number; readonly sentBytes: number }): void {
    this.#sweeps.set(disk.id, { ...need, endedAt: new Date(this.#clock.nowMs()).toISOString(), ...bytes });
    if (need.kind === 'comparison')
      this.#fallback = { reason: `comparison: ${need.reason}`, atMs: this.#clock.nowMs() };
  }

  fellBack(reason: string): void {
    this.#skipped++;
    this.#fallback = { reason, atMs: this.#clock.nowMs() };
  }

  snapshot(): AgentSnapshot {
    const nowMs = this.#clock.monotonicMs();
    const disks = [...this.#disks().map((d) => this.#disk(d, nowMs)), ...this.#absent().map(absentDisk)];
    const last = this.#last;
    return {
      program: this.#identity.program,
      machine: { ...this.#identity.machine, generation: this.#generation },
      receiver: {
        address: this.#address,
        connected: this.#connected,
        epoch: this.#epoch,
        reason: this.#reason,
        retryInSeconds: this.#retryAtMs === null ? null : Math.max(0, Math.round((this.#retryAtMs - nowMs) / 1000)),
        mode: this.#mode,
        refused: this.#refused,
      },
      restore: this.#restore,
      finalCut: this.#finalCut,
      state: this.#refused?.name === CLOSE.failedOver.name ? FAILED_OVER : machineState(disks),
      lastPoint:
        last === null
          ? null
          : {
              number: last.result.point,
              cutAt: new Date(last.result.cut.cutAtMs).toISOString(),
              ageSeconds: (nowMs - last.cutMonotonicMs) / 1000,
              consistency: last.result.cut.consistency,
              reason: last.result.cut.reason,
              passes: last.result.cut.passes,
              cutMs: last.result.cut.cutMs,
              freezeMs: last.result.cut.freezeMs,
              heldMs: last.result.quiesce?.heldMs ?? 0,
              durationMs: last.result.durationMs,
              changedBytes: last.result.changedBytes,
              sentBytes: last.result.sentBytes,
              storedBytes: last.result.storedBytes,
            },
      lastFallback:
        this.#fallback === null
          ? null
          : { reason: this.#fallback.reason, at: new Date(this.#fallback.atMs).toISOString() },
      applicationPoints: this.#applicationPoints(),
      pointsCommitted: this.#points,
      pointsSkipped: this.#skipped,
      freezes: this.#freezes,
      load: this.#load(),
      memory: { residentBytes: process.memoryUsage.rss() },
      compression: lz4.implementation,
      disks,
    };
  }

  #disk({ disk }: OpenedDisk, nowMs: number): DiskSnapshot {
    const tracker = this.#tracker();
    const isTracked = disk.trackable !== null && tracker !== null;
    const { blockBytes } = disk.geometry;
    const hasPoint = disk.lastPoint > 0 && disk.need === null;
    const changed = isTracked ? blocksAtRisk(disk, tracker) * blockBytes : null;
    const bytes = hasPoint ? changed : disk.geometry.sizeBytes;
    const sinceCut = this.#last === null ? null : (nowMs - this.#last.cutMonotonicMs) / 1000;
    return {
      id: disk.id,
      device: disk.device,
      sizeBytes: disk.geometry.sizeBytes,
      state: disk.state,
      reason: disk.stateReason,
      tracker: isTracked ? 'ebpf' : 'scan',
      trackerReason: disk.scanReason,
      paths: disk.paths,
      series: disk.series,
      lastPoint: disk.lastPoint,
      progress: disk.progress === null ? null : progressOf(disk, disk.progress, nowMs),
      lastSweep: this.#sweeps.get(disk.id) ?? null,
      dataAtRisk: { seconds: isTracked && bytes === 0 ? 0 : sinceCut, bytes },
      counters: { ...disk.counters },
      tracking: isTracked ? tracker.counters(disk.id) : null,
    };
  }
}

/** The machine runs elsewhere, and this agent was told so. */
export const FAILED_OVER = 'FailedOver';

/** Nothing is known of it but why. */
const absentDisk = ({ id, path, reason }: AbsentDisk): DiskSnapshot => ({
  id,
  device: path,
  sizeBytes: 0,
  state: 'Failed',
  reason,
  tracker: 'scan',
  trackerReason: 'it is not open',
  paths: [],
  series: null,
  lastPoint: 0,
  progress: null,
  lastSweep: null,
  dataAtRisk: { seconds: null, bytes: null },
  counters: { readBytes: 0, sentBytes: 0, changedBytes: 0, storedBytes: 0, cleanSamples: 0, cleanMismatches: 0 },
  tracking: null,
});

function progressOf(
  { counters }: ProtectedDisk,
  progress: NonNullable<ProtectedDisk['progress']>,
  nowMs: number,
): NonNullable<DiskSnapshot['progress']> {
  const seconds = (nowMs - progress.startedAtMs) / 1000;
  const bytesPerSecond = seconds > 0 ? progress.processedBytes / seconds : 0;
  return {
    percent: progress.totalBytes === 0 ? 100 : (progress.processedBytes / progress.totalBytes) * 100,
    processedBytes: progress.processedBytes,
    totalBytes: progress.totalBytes,
    bytesPerSecond,
    secondsLeft: bytesPerSecond > 0 ? (progress.totalBytes - progress.processedBytes) / bytesPerSecond : null,
    readBytes: counters.readBytes - progress.readBytesBefore,
    sentBytes: counters.sentBytes - progress.sentBytesBefore,
  };
}

/** The machine is as well as its worst disk. */
function machineState(disks: readonly DiskSnapshot[]): string {
  const order = [
    'Failed',
    'RestoreInProgress',
    'ResynchronizationRequired',
    'ResynchronizationInProgress',
    'InitialReplicationInProgress',
    'EnablingProtection',
    'Protected',
  ];
  return order.find((state) => disks.some((d) => d.state === state)) ?? 'EnablingProtection';
}
