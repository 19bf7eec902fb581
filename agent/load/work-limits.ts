/**
 * The limits of one agent: bandwidth, processor, bytes and number of reads. Gives a pace to each piece of work and tells what holds it up.
 *
 * Sweeps (first copy, comparison) have buckets of their own, which cycles are counted in as well: what cycles take, sweeps wait for, never
 * the other way round. A cycle waits for its own debts alone, and for `LIMIT_DEBT_MAX_MS` of them at most.
 *
 * The processor is measured, not divided: work waits before its next read while the whole process has used more than its share. A quota of the
 * kernel (CPUQuota= of the unit) would stop all of the process, the thaw of a frozen filesystem included.
 */
import type { Clock } from '../../shared/clock.js';
import { LIMIT_DEBT_MAX_MS } from '../../shared/limits-load.js';
import type { AgentConfig } from '../config.js';
import type { IoPriority } from './io-priority.js';
import { lateness } from './lateness.js';
import { UNLIMITED, type Pace } from './pace.js';
import { Throttle, type Taking } from './throttle.js';
import type { TimedLimit } from './timed-limit.js';

export type LimitName = 'bandwidth' | 'cpu' | 'io-rate' | 'io-requests';

export interface LimitStatus {
  readonly name: LimitName;
  /** In force now, per second: bytes, share of a processor, bytes, reads. Null: none. */
  readonly limit: number | null;
  readonly isHolding: boolean;
  /** For how long work has waited for it since the agent started. */
  readonly heldSeconds: number;
  /** Debts of cycles that were forgiven, so that points go on: the limit was exceeded by what this time would have allowed. */
  readonly exceededSeconds: number;
}

export interface LoadStatus {
  readonly limits: readonly LimitStatus[];
  /** At which the agent reads now, or why it can't be set. */
  readonly ioPriority: string;
  /** Why the last point took longer than the distance of points, where limits had a part in it. */
  readonly late: string | null;
}

/** What the kernel tells, and takes. Absent in a world that has no kernel. */
export interface LoadParts {
  /** Processor time of this process, all threads (ms). */
  readonly cpuUsedMs: () => number;
  readonly ioPriority: IoPriority;
}

interface Buckets {
  readonly cpu: Throttle;
  readonly rate: Throttle;
  readonly requests: Throttle;
}

export interface Work {
  readonly kind: 'sweep' | 'cycle';
  /** Ends all its waits, which reject with the signal's reason. */
  readonly end: AbortSignal;
  /** True: it must not wait any longer. */
  readonly isUrgent: () => boolean;
}

const scaled = ({ limit, schedule }: TimedLimit, factor: number): TimedLimit => ({
  ...(limit === undefined ? {} : { limit: limit * factor }),
  schedule: schedule.map((rule) => ({ ...rule, limit: rule.limit === null ? null : rule.limit * factor })),
});

const isNone = ({ limit, schedule }: TimedLimit): boolean => limit === undefined && schedule.length === 0;

export class WorkLimits {
  readonly bandwidth: Throttle;
  readonly #parts: LoadParts | null;
  readonly #sweep: Buckets;
  readonly #cycle: Buckets;
  readonly #isUnlimited: boolean;
  #cpuSeenMs: number;
  #late: string | null = null;

  constructor(config: Pick<AgentConfig, 'bandwidth' | 'cpu' | 'io'>, clock: Clock, parts: LoadParts | null) {
    const { bandwidth, cpu, io } = config;
    this.#parts = parts;
    this.bandwidth = new Throttle(bandwidth, clock);
    const buckets = (): Buckets => ({
      cpu: new Throttle(scaled(cpu, 1000), clock),
      rate: new Throttle(io.rate, clock),
      requests: new Throttle(io.requests, clock),
    });
    this.#sweep = buckets();
    this.#cycle = buckets();
    this.#isUnlimited = [cpu, io.rate, io.requests].every(isNone);
    this.#cpuSeenMs = parts?.cpuUsedMs() ?? 0;
  }

  /** One for each sweep or cycle, when it begins. */
  pace({ kind, end, isUrgent }: Work): Pace {
    if (this.#isUnlimited) return UNLIMITED;
    const own = kind === 'cycle' ? this.#cycle : this.#sweep;
    if (kind === 'cycle') {
      // What the sweep before has used is not the cycle's.
      this.#measure('sweep');
      for (const bucket of Object.values(own) as Throttle[]) bucket.forgive(LIMIT_DEBT_MAX_MS);
    }
    const take = async (bytes: number, reads: number, signal?: AbortSignal): Promise<void> => {
      const taking: Taking = { signal, isUrgent: () => end.aborted || isUrgent() };
      this.#measure(kind);
      await own.cpu.take(0, taking);
      await own.requests.take(reads, taking);
      await own.rate.take(bytes, taking);
      end.throwIfAborted();
      if (kind === 'cycle') this.#countForSweeps(bytes, reads);
    };
    return {
      settled: () => take(0, 0),
      read: (bytes, signal) => take(bytes, 1, signal),
      count: (bytes) => {
        this.#measure(kind);
        own.requests.count(1);
        own.rate.count(bytes);
        if (kind === 'cycle') this.#countForSweeps(bytes, 1);
      },
    };
  }

  #countForSweeps(bytes: number, reads: number): void {
    this.#sweep.requests.count(reads);
    this.#sweep.rate.count(bytes);
  }

  /** Counts what the process has used of the processor since it was asked last. */
  #measure(kind: Work['kind']): void {
    const usedMs = this.#parts?.cpuUsedMs() ?? 0;
    const newMs = usedMs - this.#cpuSeenMs;
    this.#cpuSeenMs = usedMs;
    this.#sweep.cpu.count(newMs);
    if (kind === 'cycle') this.#cycle.cpu.count(newMs);
  }

  /** A sweep reads at idle priority until the returned function is called. */
  beginIdle(): () => void {
    this.#parts?.ioPriority.idle();
    return () => this.#parts?.ioPriority.normal();
  }

  /** For how long each limit has held work up so far (ms). */
  held(): ReadonlyMap<LimitName, number> {
    return new Map(this.#all().map(({ name, buckets }) => [name, sum(buckets, (b) => b.heldMs)]));
  }

  /** `before`: what `held` told when the cycle began. Returns why it was late by limits, if it was. */
  cycleEnded(before: ReadonlyMap<LimitName, number>, durationMs: number, intervalMs: number): string | null {
    this.#late = lateness(before, this.held(), durationMs, intervalMs);
    return this.#late;
  }

  status(): LoadStatus {
    return {
      limits: this.#all().map(({ name, buckets, per }) => {
        const limit = buckets[0]?.limit ?? null;
        return {
          name,
          limit: limit === null ? null : limit / per,
          isHolding: buckets.some((b) => b.isHolding),
          heldSeconds: sum(buckets, (b) => b.heldMs) / 1000,
          exceededSeconds: sum(buckets, (b) => b.forgivenMs) / 1000,
        };
      }),
      ioPriority: this.#parts?.ioPriority.status ?? 'normal',
      late: this.#late,
    };
  }

  #all(): readonly { readonly name: LimitName; readonly buckets: readonly Throttle[]; readonly per: number }[] {
    return [
      { name: 'bandwidth', buckets: [this.bandwidth], per: 1 },
      { name: 'cpu', buckets: [this.#sweep.cpu, this.#cycle.cpu], per: 1000 },
      { name: 'io-rate', buckets: [this.#sweep.rate, this.#cycle.rate], per: 1 },
      { name: 'io-requests', buckets: [this.#sweep.requests, this.#cycle.requests], per: 1 },
    ];
  }
}

const sum = (buckets: readonly Throttle[], of: (bucket: Throttle) => number): number =>
  buckets.reduce((total, bucket) => total + of(bucket), 0);
