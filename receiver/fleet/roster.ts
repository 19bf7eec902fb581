/**
 * Who else serves this store, as seen from here: what each receiver last said, and whether it still shows life. Pure; time is passed in.
 *
 * Life is a number that moves, measured by our own monotonic clock; no two clocks are compared. Silence counts only at looks: a process that was
 * suspended has not looked, so it takes nobody for gone before it has listened again. All of this is a hint (see README.md).
 */
import { HANDOVER_PAUSE_MS, RECEIVER_MISSES_MAX } from '../../shared/limits-fleet.js';
import type { ReceiverRecord } from './record.js';

/** `unknown`: there, but not seen to move yet. */
export type Liveness = 'live' | 'unknown' | 'gone';

/** A receiver that was known came back: as another process, or heard again after it was gone. */
export interface Return {
  /** Of our clock. */
  readonly atMs: number;
  /** Returns within HANDOVER_PAUSE_MS up to then, itself included. */
  readonly recent: number;
}

export interface RosterEntry {
  readonly record: ReceiverRecord;
  readonly liveness: Liveness;
  /** Of our clock: since when it is silent, or when it was last seen to move. */
  readonly seenAtMs: number;
  /** The last that was seen from here. */
  readonly back: Return | undefined;
}

interface Seen {
  record: ReceiverRecord;
  seenAtMs: number;
  hasMoved: boolean;
  misses: number;
  /** Times of returns, none much older than the last. */
  returns: readonly number[];
}

export class Roster {
  readonly #seen = new Map<string, Seen>();
  #looks = 0;

  /** Whether it was looked at often enough to know of everybody, whether they live. */
  get isSettled(): boolean {
    return this.#looks > RECEIVER_MISSES_MAX;
  }

  numberOf(id: string): number {
    return this.#seen.get(id)?.record.number ?? 0;
  }

  /** Takes in one look: the newest record of each receiver that has one. */
  look(records: readonly ReceiverRecord[], nowMs: number): void {
    this.#looks++;
    for (const id of this.#seen.keys()) if (!records.some((record) => record.id === id)) this.#seen.delete(id);
    for (const record of records) {
      const before = this.#seen.get(record.id);
      if (before === undefined)
        this.#seen.set(record.id, { record, seenAtMs: nowMs, hasMoved: false, misses: 0, returns: [] });
      else if (record.number > before.record.number) {
        const isBack = record.instance !== before.record.instance || livenessOf(before, nowMs) === 'gone';
        const returns = isBack
          ? [...before.returns.filter((atMs) => nowMs - atMs < HANDOVER_PAUSE_MS), nowMs]
          : before.returns;
        Object.assign(before, { record, seenAtMs: nowMs, hasMoved: true, misses: 0, returns });
      } else before.misses++;
    }
  }

  entries(nowMs: number): RosterEntry[] {
    return [...this.#seen.values()]
      .map((seen) => ({
        record: seen.record,
        liveness: livenessOf(seen, nowMs),
        seenAtMs: seen.seenAtMs,
        back: returnOf(seen),
      }))
      .sort((a, b) => (a.record.id < b.record.id ? -1 : 1));
  }
}

function returnOf({ returns }: Seen): Return | undefined {
  const atMs = returns.at(-1);
  return atMs === undefined ? undefined : { atMs, recent: returns.length };
}

function livenessOf({ record, seenAtMs, hasMoved, misses }: Seen, nowMs: number): Liveness {
  if (record.state === 'leaving') return 'gone';
  const isSilent = misses >= RECEIVER_MISSES_MAX && nowMs - seenAtMs >= RECEIVER_MISSES_MAX * record.heartbeatMs;
  if (isSilent) return 'gone';
  return hasMoved ? 'live' : 'unknown';
}
