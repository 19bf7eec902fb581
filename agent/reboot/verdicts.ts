/**
 * Whether a disk counts as closed, and whether what was noted of it is believed at the next boot: pure functions of what was seen, tested as tables.
 * Every doubt ends in a comparison, with its reason.
 */
import { formatDuration } from '../../shared/units.js';
import type { ClosedNote } from './note.js';

export interface Counts {
  readonly writeSectors: number;
  readonly discardSectors: number;
  readonly writesInFlight: number;
}

const isSame = (a: Counts, b: Counts): boolean =>
  a.writeSectors === b.writeSectors && a.discardSectors === b.discardSectors;

export interface CloseFacts {
  /** Who uses the disk: mounts, swap, what is stacked on it; null for nobody. */
  readonly user: string | null;
  /** Why no unbroken tracking reaches up to here; null when it does. */
  readonly broken: string | null;
  /** Why the marks are not known to be complete; null when they are. */
  readonly unbalanced: string | null;
  /** Why use of the disk would leave no trace that is known; null when it would. */
  readonly untraceable: string | null;
  /** Before the marks were taken, and at the end. */
  readonly before: Counts;
  readonly after: Counts;
}

/** Why the disk is not closed; null when it is. */
export function whyNotClosed(facts: CloseFacts): string | null {
  if (facts.user !== null) return `at shutdown it was ${facts.user}`;
  if (facts.broken !== null) return `at shutdown it was not tracked: ${facts.broken}`;
  if (facts.unbalanced !== null) return `at shutdown its marks were not known to be complete: ${facts.unbalanced}`;
  if (facts.untraceable !== null) return `it holds ${facts.untraceable}`;
  if (!isSame(facts.before, facts.after)) return 'at shutdown it was written while it was being closed';
  if (facts.before.writesInFlight > 0 || facts.after.writesInFlight > 0) return 'at shutdown writes were under way';
  return null;
}

export interface ArmFacts {
  readonly bootId: string;
  /** Wall time at which this kernel began. */
  readonly bootedAtMs: number;
  readonly withinMs: number;
}

/** Why the note says nothing of now, before the disk is looked at; null when it may. */
export function whyNotBelieved(note: ClosedNote, { bootId, bootedAtMs, withinMs }: ArmFacts): string | null {
  if (note.bootId === bootId) return 'the machine was not restarted since';
  const awayMs = bootedAtMs - note.atMs;
  if (awayMs < -CLOCK_STEP_MS) return `the clock says that it was closed ${formatDuration(-awayMs)} after this boot`;
  if (awayMs > withinMs) {
    return `the machine was away for ${formatDuration(awayMs)}, more than ${formatDuration(withinMs)}: another system may have used the disk`;
  }
  return null;
}

/** The time of the boot is known to a second, and clocks are set in steps of one. */
const CLOCK_STEP_MS = 2_000;

export interface DiskNow {
  readonly sizeBytes: number;
  readonly traceSha256: string;
  /** Of this boot, at the end: tracking was on by then, and nothing had been written before. */
  readonly counts: readonly Counts[];
}

/** Why the disk is not known to be as it was closed; null when it is. */
export function whyNotTheSame(note: ClosedNote, now: DiskNow): string | null {
  if (now.sizeBytes !== note.sizeBytes) return `its size changed from ${note.sizeBytes} to ${now.sizeBytes} bytes`;
  if (now.counts.some((c) => c.writeSectors + c.discardSectors + c.writesInFlight > 0)) {
    return 'it was written in this boot before tracking began';
  }
  if (now.traceSha256 !== note.traceSha256) return 'it was used by another system since it was closed';
  return null;
}
