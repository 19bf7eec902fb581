/**
 * What clients noted while a machine was protected, against what a restored database holds: whether one instant explains both. Pure.
 */
export const ACCOUNTS = 1000;

export interface Transaction {
  readonly connection: number;
  /** Each connection's own numbers, from 1. */
  readonly id: number;
  readonly begunMs: number;
  /** Null: never. */
  acknowledgedMs: number | null;
}

/** By kind of server. */
export type Notes = Record<string, Transaction[]>;

/** Of one connection, in a restored database. */
export interface Entries {
  readonly connection: number;
  readonly count: number;
  readonly lastId: number;
}

export interface Restored {
  readonly entries: readonly Entries[];
  /** What is moved is neither made nor lost: 0. */
  readonly sum: number;
}

/** When the cut can have been: after the begin of all that is held, before the acknowledgement of all that isn't. */
export interface Instant {
  readonly afterMs: number;
  readonly beforeMs: number;
}

/**
 * The instant at which the restored databases together hold what was acknowledged before it and nothing that was begun after it; or in words what is
 * wrong with them. A text in place of what a database holds tells why it holds nothing.
 */
export function instantOf(notes: Notes, restored: Readonly<Record<string, Restored | string>>): Instant | string {
  let instant: Instant = { afterMs: -Infinity, beforeMs: Infinity };
  for (const [kind, held] of Object.entries(restored)) {
    if (typeof held === 'string') return `${kind}: ${held}`;
    const { entries, sum } = held;
    if (sum !== 0) return `${kind}: amounts were moved by halves, ${sum} is too much`;
    for (const { connection, count, lastId } of entries)
      if (count !== lastId) return `${kind}: ${count} entries up to number ${lastId} of connection ${connection}`;
    for (const { connection, id, begunMs, acknowledgedMs } of notes[kind] ?? []) {
      const isHeld = id <= (entries.find((of) => of.connection === connection)?.lastId ?? 0);
      if (isHeld) instant = { ...instant, afterMs: Math.max(instant.afterMs, begunMs) };
      else if (acknowledgedMs !== null) instant = { ...instant, beforeMs: Math.min(instant.beforeMs, acknowledgedMs) };
    }
  }
  const { afterMs, beforeMs } = instant;
  if (afterMs <= beforeMs) return instant;
  return `a transaction that was acknowledged ${(afterMs - beforeMs).toFixed(1)} ms before another began is lost, the other is held`;
}

/** Of the transactions under way between two times, the one that took longest: what its client saw of a point (ms). */
export const longestStallMs = (transactions: readonly Transaction[], fromMs: number, toMs: number): number =>
  transactions.reduce((longest, { begunMs, acknowledgedMs }) => {
    if (acknowledgedMs === null || acknowledgedMs < fromMs || begunMs > toMs) return longest;
    return Math.max(longest, acknowledgedMs - begunMs);
  }, 0);
