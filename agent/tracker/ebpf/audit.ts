/**
 * The audit: are the marks complete? It compares what the programs counted with what the kernel counted by itself. Pure:
 * fed with readings, it returns a verdict; its numbers (`state`) are persisted by its owner.
 *
 * Two numbers per disk, for writes and for discards apart:
 *   gap = kernel − completed seen. Constant while every completion is seen; more means that completions went unseen.
 *   outstanding = submitted seen − kernel (− bios that ended before they became requests): what is in flight, plus a constant
 *     (`baseline`). Less than the baseline means that submissions went unseen.
 * Both are read while the disk works, so they are blurred by what happens between the steps of one completion:
 *   - devices with requests: our program runs first, the kernel counts right after it. A gap can look too small, never too
 *     large: too large is proof of a miss. To believe a gap that fits, several readings are compared, and the largest counts.
 *   - devices without: the kernel counts first. A gap can look too large; one that fits proves that nothing was missed.
 * At a quiet instant (nothing in flight, everything submitted has been counted) both are exact.
 *
 * Right after the programs were attached, writes may be in flight that were submitted unseen. Until these have landed
 * (quiet once, or LANDED_AFTER_MS) and an audit balanced, the ledger isn't `settled`: a missed completion then may belong
 * to a block that was never marked at all, so it ends the series.
 */
import type { Pair, ProgramCounts } from './maps/counters.js';
import type { DeviceKind } from './statistics.js';
import { LANDED_AFTER_MS } from './suspects.js';

/** One look: the kernel's numbers between two readings of ours. */
export interface Reading {
  readonly atMs: number;
  readonly before: ProgramCounts;
  readonly kernel: Pair;
  readonly after: ProgramCounts;
  readonly inFlight: number;
}

/** What was seen of the objects themselves, before the readings. */
export interface Faults {
  /** An object or the device is not what it was: the reason. */
  readonly lost: string | undefined;
  readonly opaqueWrites: number;
  readonly tooBig: number;
  /** Events that the kernel skipped a program for, since the last audit. */
  readonly submissionMisses: number;
  readonly completionMisses: number;
}

/** NaN where not known yet. */
export interface AuditState {
  readonly offset: Pair;
  readonly baseline: Pair;
  readonly settled: boolean;
}

export const UNKNOWN_STATE: AuditState = {
  offset: { writes: NaN, discards: NaN },
  baseline: { writes: NaN, discards: NaN },
  settled: false,
};

/** `quiet`: the disk was quiet at the audit, so all that was in flight before it has landed. */
export type AuditOutcome =
  | { readonly kind: 'balanced'; readonly quiet: boolean }
  | { readonly kind: 'recopy'; readonly quiet: boolean; readonly missedSectors: number }
  | { readonly kind: 'series-ended'; readonly reason: string };

export const CHANNELS = ['writes', 'discards'] as const;
type Channel = (typeof CHANNELS)[number];

/** Readings of one audit: at most; and how many good ones are enough on a disk that is never quiet. */
export const READINGS_MAX = 200;
export const READINGS_ENOUGH = 16;
/**
 * A disk whose numbers stand still for this long with nothing in flight is idle, and what is outstanding then is the
 * baseline. Much longer than a plug or a completion waits for its CPU: too high a baseline would end a series for nothing.
 */
const IDLE_SPAN_MS = 20;

const ended = (reason: string): AuditOutcome => ({ kind: 'series-ended', reason });

interface Evidence {
  /** Gaps of readings during which nothing completed. */
  readonly gaps: Record<Channel, number[]>;
  /** The last reading was quiet: its gap is exact. */
  exact: boolean;
}

type ChannelVerdict = { readonly missed: number; readonly certain: boolean };

export class AuditLedger {
  readonly #kind: DeviceKind;
  readonly #armedAtMs: number;
  #offset: Record<Channel, number>;
  #baseline: Record<Channel, number>;
  #settled: boolean;
  #armedWritesLanded = false;
  /** The first of readings that were idle and equal, while the baseline isn't known. */
  #idleSince: Reading | undefined;
  #excess: { readonly value: Pair; readonly sinceMs: number } | undefined;

  constructor(kind: DeviceKind, state: AuditState, nowMs: number) {
    this.#kind = kind;
    this.#armedAtMs = nowMs;
    this.#offset = { ...state.offset };
    this.#baseline = { ...state.baseline };
    this.#settled = state.settled;
  }

  get state(): AuditState {
    return { offset: { ...this.#offset }, baseline: { ...this.#baseline }, settled: this.#settled };
  }

  /** Takes a reading in; true when the disk was quiet at it. */
  observe(reading: Reading): boolean {
    this.#fixBaseline(reading);
    const quiet = this.#isQuiet(reading);
    if (quiet) this.#armedWritesLanded = true;
    return quiet;
  }

  /** Whether looks at an idle disk would tell anything new. */
  get awaitsIdle(): boolean {
    return CHANNELS.some((channel) => Number.isNaN(this.#baseline[channel]));
  }

  /** Fixes offset and baseline right after the programs were attached, as far as the disk is still enough to tell. */
  start(read: () => Reading, readings: number): void {
    const evidence = this.#collect(read, readings, Infinity);
    if (typeof evidence !== 'string') for (const channel of CHANNELS) this.#judge(channel, evidence);
  }

  audit(read: () => Reading, faults: Faults, nowMs: number): AuditOutcome {
    const fault = faultOutcome(faults);
    if (fault !== undefined) return fault;
    const evidence = this.#collect(read, READINGS_MAX, READINGS_ENOUGH);
    if (typeof evidence === 'string') return ended(evidence);
    this.#foldExcess(read, nowMs);
    const quiet = evidence.exact;
    const verdicts = CHANNELS.map((channel) => this.#judge(channel, evidence));
    const missed = verdicts.reduce((sum, verdict) => sum + Math.max(0, verdict.missed), 0);
    if (verdicts.some((verdict) => verdict.missed !== 0 || !verdict.certain)) {
      const proven = verdicts.some((verdict) => verdict.missed > 0 && verdict.certain);
      if (proven && !this.#settled) return ended(UNSETTLED_REASON);
      return { kind: 'recopy', quiet, missedSectors: missed };
    }
    if (faults.completionMisses > 0) return { kind: 'recopy', quiet, missedSectors: 0 };
    if (this.#armedWritesLanded || nowMs - this.#armedAtMs >= LANDED_AFTER_MS) this.#settled = true;
    return { kind: 'balanced', quiet };
  }

  /** Readings until one is exact, or enough are good. A string is the reason to end the series. */
  #collect(read: () => Reading, max: number, enough: number): Evidence | string {
    const evidence: Evidence = { gaps: { writes: [], discards: [] }, exact: false };
    for (let i = 0; i < max; i++) {
      const reading = read();
      const missed = this.#missedSubmissions(reading);
      if (missed > 0) return `${missed} written sectors were not seen at submission`;
      for (const channel of CHANNELS) {
        const completed = this.#completed(reading.before)[channel];
        if (completed !== this.#completed(reading.after)[channel]) continue;
        evidence.gaps[channel].push(reading.kernel[channel] - completed);
      }
      evidence.exact = this.observe(reading);
      if (evidence.exact || CHANNELS.every((channel) => evidence.gaps[channel].length >= enough)) break;
    }
    return evidence;
  }

  #judge(channel: Channel, evidence: Evidence): ChannelVerdict {
    const gaps = evidence.gaps[channel];
    if (gaps.length === 0) return { missed: 0, certain: false };
    const trusted = evidence.exact || this.#kind === 'request';
    const gap = evidence.exact
      ? (gaps.at(-1) ?? NaN)
      : this.#kind === 'request'
        ? Math.max(...gaps)
        : Math.min(...gaps);
    const missed = gap - this.#offset[channel];
    if (missed === 0) return { missed: 0, certain: true };
    // A gap that may be too large must not become the offset: it would hide as much later. One too small only shows as a
    // miss that wasn't one.
    if (trusted || missed < 0) this.#offset[channel] = gap;
    return Number.isNaN(missed) ? { missed: 0, certain: false } : { missed, certain: trusted };
  }

  #completed(counts: ProgramCounts): Pair {
    return this.#kind === 'request' ? counts.requests : counts.bios;
  }

  /**
   * Submitted (read late) less what has been counted since (read early). On devices with requests, a bio may end before it
   * becomes part of one (EAGAIN for a write that must not wait): the kernel never counts that.
   */
  #outstanding(reading: Reading, channel: Channel): number {
    const endedEarly = this.#kind === 'request' ? reading.before.bios[channel] : 0;
    return reading.after.submitted[channel] - endedEarly - reading.kernel[channel];
  }

  #missedSubmissions(reading: Reading): number {
    let missed = 0;
    for (const channel of CHANNELS) {
      const short = this.#baseline[channel] - this.#outstanding(reading, channel);
      if (short > 0) missed += short;
    }
    return missed;
  }

  /**
   * The kernel's number was read before ours: when they agree, everything submitted had been counted at that instant, which
   * `inFlight` alone doesn't say (it leaves out plugged requests and those whose completion is being worked on).
   */
  #isQuiet(reading: Reading): boolean {
    return (
      reading.inFlight === 0 &&
      unchanged(reading) &&
      CHANNELS.every((channel) => this.#outstanding(reading, channel) === this.#baseline[channel])
    );
  }

  #fixBaseline(reading: Reading): void {
    if (!this.awaitsIdle) return;
    if (reading.inFlight !== 0 || !unchanged(reading)) {
      this.#idleSince = undefined;
      return;
    }
    if (this.#idleSince === undefined || !sameNumbers(this.#idleSince, reading)) this.#idleSince = reading;
    if (reading.atMs - this.#idleSince.atMs < IDLE_SPAN_MS) return;
    for (const channel of CHANNELS) this.#baseline[channel] = this.#outstanding(reading, channel);
  }

  /**
   * An idle disk on which something stays outstanding for as long as writes may take: the kernel will never count it. It
   * becomes part of the baseline, or as many missed submissions could hide behind it.
   */
  #foldExcess(read: () => Reading, nowMs: number): void {
    const reading = read();
    const value = {
      writes: this.#outstanding(reading, 'writes') - this.#baseline.writes,
      discards: this.#outstanding(reading, 'discards') - this.#baseline.discards,
    };
    const idle = reading.inFlight === 0 && unchanged(reading) && (value.writes > 0 || value.discards > 0);
    if (!idle) {
      this.#excess = undefined;
      return;
    }
    const same = this.#excess?.value.writes === value.writes && this.#excess.value.discards === value.discards;
    if (this.#excess === undefined || !same) {
      this.#excess = { value, sinceMs: nowMs };
      return;
    }
    if (nowMs - this.#excess.sinceMs < LANDED_AFTER_MS) return;
    for (const channel of CHANNELS) this.#baseline[channel] += value[channel];
    this.#excess = undefined;
  }
}

const UNSETTLED_REASON = 'completions went unseen while writes from before the start of tracking were in flight';

function faultOutcome(faults: Faults): AuditOutcome | undefined {
  if (faults.lost !== undefined) return ended(faults.lost);
  if (faults.opaqueWrites > 0) {
    return ended(`${faults.opaqueWrites} passthrough commands may have written anywhere on the disk`);
  }
  if (faults.tooBig > 0) return ended(`${faults.tooBig} writes were larger than what can be marked`);
  if (faults.submissionMisses > 0) {
    return ended(`the kernel skipped the program for ${faults.submissionMisses} submitted writes`);
  }
  return undefined;
}

const samePair = (a: Pair, b: Pair): boolean => a.writes === b.writes && a.discards === b.discards;

const unchanged = ({ before, after }: Reading): boolean =>
  samePair(before.submitted, after.submitted) &&
  samePair(before.requests, after.requests) &&
  samePair(before.bios, after.bios);

const sameNumbers = (a: Reading, b: Reading): boolean =>
  samePair(a.kernel, b.kernel) &&
  samePair(a.after.submitted, b.after.submitted) &&
  samePair(a.after.requests, b.after.requests) &&
  samePair(a.after.bios, b.after.bios);
