/**
 * Batches finished units: once enough was written or enough time has passed, the target is made durable and only then are they recorded.
 * One flush runs at a time; units that end meanwhile go with the next one.
 */
import type { Clock } from '../../shared/clock.js';
import { failpoint } from '../../shared/failpoints.js';
import { RESTORE_SYNC_BYTES, RESTORE_SYNC_INTERVAL_MS } from '../../shared/limits.js';
import type { RestoreJournal } from './restore-journal.js';
import type { RestoreTarget } from './target.js';

export class RestoreRecorder {
  readonly #target: RestoreTarget;
  readonly #journal: RestoreJournal;
  readonly #clock: Clock;
  readonly #syncBytes: number;
  #pending: [number, bigint][] = [];
  #pendingBytes = 0;
  #flushedAtMs: number;
  #running: Promise<void> = Promise.resolve();

  constructor(target: RestoreTarget, journal: RestoreJournal, clock: Clock, syncBytes = RESTORE_SYNC_BYTES) {
    this.#target = target;
    this.#journal = journal;
    this.#clock = clock;
    this.#syncBytes = syncBytes;
    this.#flushedAtMs = clock.monotonicMs();
  }

  /** Takes a unit that is written. Resolves at once, or after the flush that it set off. */
  async add(unit: number, digest: bigint, bytes: number): Promise<void> {
    failpoint('restore.unit-written');
    this.#pending.push([unit, digest]);
    this.#pendingBytes += bytes;
    const due = this.#clock.monotonicMs() - this.#flushedAtMs >= RESTORE_SYNC_INTERVAL_MS;
    if (due || this.#pendingBytes >= this.#syncBytes) await this.flush();
  }

  /** Makes everything taken so far durable and records it. */
  flush(): Promise<void> {
    const next = this.#running.then(() => this.#flush());
    // A failure is seen by whoever asked for this flush; a later one tries again.
    this.#running = next.catch(() => undefined);
    return next;
  }

  async #flush(): Promise<void> {
    const units = this.#pending;
    this.#pending = [];
    this.#pendingBytes = 0;
    this.#flushedAtMs = this.#clock.monotonicMs();
    if (units.length === 0) return;
    await this.#target.sync();
    await this.#journal.record(units);
    failpoint('restore.unit-recorded');
  }
}
