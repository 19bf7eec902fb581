/**
 * Makes everything of a volume local, segment by segment, in the background: after that the recovery point is no longer needed. Gives way to clients,
 * keeps to a rate, and is resumed by calling it again (the maps know what is there). What can't be fetched is tried again later, and shown.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { segmentBlocks, type Geometry } from '../../../shared/blocks/geometry.js';
import type { Clock } from '../../../shared/clock.js';
import { messageOf } from '../../../shared/errors.js';
import {
  HYDRATE_FLUSH_BYTES,
  HYDRATE_PIECE_BYTES,
  HYDRATE_PIECES_IN_FLIGHT,
  HYDRATE_RETRY_MAX_MS,
  HYDRATE_RETRY_MIN_MS,
  HYDRATE_YIELD_MS,
  PROGRESS_INTERVAL_MS,
} from '../../../shared/limits.js';
import type { BlockBits } from './bits.js';
import type { Run } from './maps.js';
import { inParallel } from './parallel.js';

export interface HydrationProgress {
  readonly localBytes: number;
  readonly totalBytes: number;
  /** Of late, by hydration alone; 0 until known. */
  readonly bytesPerSecond: number;
  /** Infinity until known. */
  readonly timeLeftMs: number;
  /** Why something could not be fetched in this pass or the one before; null: all is well. */
  readonly problem: string | null;
}

export interface HydrateOptions {
  /** Null: as fast as it goes. */
  readonly bytesPerSecond: number | null;
  /** Aborted: pauses, with what is there kept. */
  readonly signal: AbortSignal;
  readonly onProgress?: (progress: HydrationProgress) => void;
}

export interface HydrationHost {
  readonly geometry: Geometry;
  readonly local: BlockBits;
  readonly clock: Clock;
  /** Client requests under way. */
  readonly clients: () => number;
  makeLocal(first: number, count: number): Promise<void>;
  /** Makes local what the point knows to be zero, without reading anything; the rest stays as it is. */
  keepZeroes(first: number, count: number): Promise<void>;
  flush(): Promise<void>;
}

const YIELD_STEP_MS = 5;

export async function hydrateAll(host: HydrationHost, options: HydrateOptions): Promise<'complete' | 'stopped'> {
  const run = new Hydration(host, options);
  for (let retryMs = HYDRATE_RETRY_MIN_MS; ; retryMs = Math.min(2 * retryMs, HYDRATE_RETRY_MAX_MS)) {
    const before = host.local.count;
    await run.pass();
    if (options.signal.aborted) return 'stopped';
    const isFull = (): boolean => host.local.count === host.geometry.blockCount;
    if (isFull()) await host.flush();
    run.report();
    // A write may have needed the room of a cached block meanwhile.
    if (isFull()) return 'complete';
    if (host.local.count > before) retryMs = HYDRATE_RETRY_MIN_MS;
    await host.clock.sleep(retryMs, options.signal);
  }
}

class Hydration {
  readonly #host: HydrationHost;
  readonly #options: HydrateOptions;
  readonly #startedAtMs: number;
  #doneBlocks = 0;
  #flushedAtBlocks = 0;
  /** When the rate lets the next piece begin. */
  #nextAtMs: number;
  #reportedAtMs: number;
  #problem: string | null = null;

  constructor(host: HydrationHost, options: HydrateOptions) {
    this.#host = host;
    this.#options = options;
    this.#startedAtMs = this.#nextAtMs = this.#reportedAtMs = host.clock.monotonicMs();
  }

  /** Once over everything that isn't local. */
  async pass(): Promise<void> {
    const { geometry, local } = this.#host;
    let problem: string | null = null;
    for (let segment = 0; segment < geometry.segmentCount; segment++) {
      const { first, count } = segmentBlocks(geometry, segment);
      if (local.hasAll(first, count)) continue;
      // Most of a large disk may be empty, and costs what its segments cost, not its bytes. Clients have their turn in between.
      await this.#host.keepZeroes(first, count).catch((error: unknown) => (problem = messageOf(error)));
      await nextTurn();
      if (this.#options.signal.aborted) return;
      if (local.hasAll(first, count)) continue;
      await inParallel(this.#pieces(first, count), HYDRATE_PIECES_IN_FLIGHT, async (piece) => {
        try {
          await this.#hydrate(piece);
        } catch (error) {
          problem = messageOf(error);
          this.#problem = problem;
        }
        this.#reportNowAndThen();
      });
      if (this.#options.signal.aborted) return;
      if ((this.#doneBlocks - this.#flushedAtBlocks) * geometry.blockBytes >= HYDRATE_FLUSH_BYTES) {
        this.#flushedAtBlocks = this.#doneBlocks;
        await this.#host.flush();
      }
    }
    this.#problem = problem;
  }

  report(): void {
    const { geometry, local, clock } = this.#host;
    this.#reportedAtMs = clock.monotonicMs();
    const seconds = Math.max(this.#reportedAtMs - this.#startedAtMs, 1) / 1000;
    const bytesPerSecond = (this.#doneBlocks * geometry.blockBytes) / seconds;
    const localBytes = Math.min(local.count * geometry.blockBytes, geometry.sizeBytes);
    const leftBytes = geometry.sizeBytes - localBytes;
    this.#options.onProgress?.({
      localBytes,
      totalBytes: geometry.sizeBytes,
      bytesPerSecond,
      timeLeftMs: leftBytes === 0 ? 0 : (leftBytes / bytesPerSecond) * 1000,
      problem: this.#problem,
    });
  }

  #pieces(first: number, count: number): Run[] {
    const pieceBlocks = HYDRATE_PIECE_BYTES / this.#host.geometry.blockBytes;
    const pieces: Run[] = [];
    for (let at = first; at < first + count; at += pieceBlocks) {
      pieces.push({ first: at, count: Math.min(pieceBlocks, first + count - at) });
    }
    return pieces;
  }

  async #hydrate({ first, count }: Run): Promise<void> {
    const { local, clock, geometry } = this.#host;
    const { signal, bytesPerSecond } = this.#options;
    if (signal.aborted || local.hasAll(first, count)) return;
    for (let waitedMs = 0; this.#host.clients() > 0 && waitedMs < HYDRATE_YIELD_MS; waitedMs += YIELD_STEP_MS) {
      await clock.sleep(YIELD_STEP_MS, signal);
    }
    let missing = 0;
    for (const run of local.runs(first, count)) if (!run.set) missing += run.count;
    if (bytesPerSecond !== null) {
      const nowMs = clock.monotonicMs();
      const startMs = Math.max(nowMs, this.#nextAtMs);
      this.#nextAtMs = startMs + (missing * geometry.blockBytes * 1000) / bytesPerSecond;
      if (startMs > nowMs) await clock.sleep(startMs - nowMs, signal);
    }
    if (signal.aborted) return;
    await this.#host.makeLocal(first, count);
    this.#doneBlocks += missing;
  }

  #reportNowAndThen(): void {
    if (this.#host.clock.monotonicMs() - this.#reportedAtMs >= PROGRESS_INTERVAL_MS) this.report();
  }
}
