/**
 * The cut: an instant at which what was read is exactly what the disks held, on all of them at once, without a pause of the workload.
 *
 * Disks are read like data under a sequence lock (design, section 3): W is what a take() returned; large W is streamed, small W is read into
 * memory; then take() again. If no block of W was submitted in the epoch between the two flips, memory and what was streamed before are
 * the image at the first flip. Else W becomes what the second take returned, and so on. Why this is right, in short: had the image a write Y whose
 * predecessor X is missing, then Y was submitted before the flip (else it would be in S'), so X had completed before, was marked, and was read after it
 * landed. Limits of load slow the first pass down and no other: each pass has to be shorter than the last. When tries run out, the filesystems are frozen for the same steps, if that is possible; else no point is made, with the reason.
 */
import type { Clock } from '../../shared/clock.js';
import { AfterimageError } from '../../shared/errors.js';
import { failpoint } from '../../shared/failpoints.js';
import {
  BULK_BLOCKS_MIN,
  CATCH_UP_PASSES_MAX,
  CUT_WINDOW_BYTES_MAX,
  FROZEN_TRIES_MS,
  STREAM_BLOCKS_MAX,
  STREAM_PASSES_MAX,
} from '../../shared/limits.js';
import type { DiskId } from '../../shared/units.js';
import type { MarkTracker, Take } from '../tracker/tracker.js';
import type { DiskCycle } from './disk-cycle.js';
import type { WindowArena } from './window-arena.js';

export interface CutResult {
  /** Wall time of the flip at which the image holds. */
  readonly cutAtMs: number;
  readonly consistency: 'crash' | 'filesystem' | 'application';
  readonly reason: string;
  /** Why it is weaker than asked for; '' when it isn't. */
  readonly weaker: string;
  readonly passes: number;
  /** From the first read of a window to the flip that proved it. */
  readonly cutMs: number;
  /** For how long filesystems were frozen for this point, in vain as well. */
  readonly freezeMs: number;
  /** Blocks read again because completions of writes went unseen (tracker's audit). */
  readonly recopiedBlocks: number;
}

export interface QuiesceOutcome {
  readonly freezeMs: number;
  /** The freeze held until the end of the work. */
  readonly held: boolean;
  /** Why not, or why the level is not what was meant; '' when all went well. */
  readonly reason: string;
  /** What a cut within it is. */
  readonly level: 'filesystem' | 'application';
  /** Not held: whether a freeze without more is worth a try, since it wasn't the freeze that failed. */
  readonly mayFreeze: boolean;
}

/** Runs `work` while every filesystem on the disks is frozen. */
export interface Quiesce {
  /** Flushes dirty pages, so that the freeze itself is short. */
  presync(): Promise<void>;
  /** `beforeFreeze` runs when all stands ready; if it throws, nothing is frozen. The work has to end soon after its signal is aborted: the freeze is over. */
  withFrozen(
    beforeFreeze: () => Promise<void>,
    work: (deadline: AbortSignal) => Promise<void>,
  ): Promise<QuiesceOutcome>;
}

/** Where a cut waits for those of other machines, step by step. Each resolves to null when it may go on, else to why not; after that there is no going on. */
export interface CutGate {
  /** All was sent but what changes meanwhile; applications are not touched yet. */
  mayPrepare(): Promise<string | null>;
  /** Applications are prepared, nothing is frozen yet. */
  mayFreeze(): Promise<string | null>;
  mayCut(deadline: AbortSignal): Promise<string | null>;
  mayThaw(deadline: AbortSignal): Promise<string | null>;
  /** This machine has no part in it any more. */
  failed(reason: string): void;
}

/** A consistency that was asked for: how it is reached, or why it can't be. */
export type AskedLevel = { readonly level: 'filesystem' | 'application' } & (
  { readonly use: Quiesce } | { readonly unavailable: string }
);

export interface CutContext {
  readonly tracker: Pick<MarkTracker, 'take' | 'audit' | 'markedCount'>;
  readonly disks: readonly DiskCycle[];
  readonly arena: WindowArena;
  readonly clock: Clock;
  readonly deadlineMs: number;
  /** The fallback of a crash-consistent cut. */
  readonly quiesce: { readonly use: Quiesce } | { readonly unavailable: string };
  /** Stronger than crash-consistent, strongest first: the first that can be had. Absent: none is asked for. */
  readonly asked?: readonly AskedLevel[];
  /** Of an asked level that is to be reached together with other machines. A weaker cut is this machine's alone. */
  readonly gate?: CutGate;
  /** Sends very large W segment by segment; called instead of stream(). */
  readonly bulk: (disk: DiskCycle) => Promise<void>;
  /** Test hook: naive reading accepts the first image without looking at S'. Must fail the order test. */
  readonly testOnlyNaive?: boolean;
}

export class CutNotReached extends AfterimageError {
  constructor(readonly why: string) {
    super(`no point: cut-not-reached: ${why}`, {
      code: 'cut-not-reached',
      kind: 'io',
      hint: 'Changes stay tracked; the next point is tried at the next interval.',
    });
  }
}

export class SeriesEnded extends AfterimageError {
  readonly disk: DiskId;
  readonly why: string;
  constructor(disk: DiskId, why: string) {
    super(`tracking of disk ${disk} is in doubt: ${why}`, {
      code: 'series-ended',
      kind: 'io',
      hint: 'A comparison follows by itself.',
    });
    this.disk = disk;
    this.why = why;
  }
}

/** Reaches a cut. Afterwards each disk's image waits to be sent (`sendHeld`), and its `carry` holds what the next cycle begins with. */
export async function reachCut(context: CutContext): Promise<CutResult> {
  const progress: Progress = { passes: 0, recopiedBlocks: 0, freezeMs: 0, writtenWhileFrozen: null };
  let first = takeMore(context);
  const asked = await askedCut(context, progress);
  const { weaker } = asked;
  // Now: others may be frozen, and wait for us.
  if (weaker !== '') context.gate?.failed(weaker);
  if (asked.cut !== null) return asked.cut;
  // What was tried before is part of the window still; what changed meanwhile is added to it.
  if (weaker !== '') first = takeMore(context);
  const crash = await tryCut(context, first, progress, { deadlineMs: context.deadlineMs, mayStream: true });
  if (crash !== null) {
    const { recopiedBlocks, freezeMs } = progress;
    const pause = freezeMs === 0 ? '' : `, after filesystems were frozen for ${freezeMs.toFixed(0)} ms in vain`;
    const reason = joined(weaker, `cut without a pause${pause}`);
    return { ...crash, consistency: 'crash', reason, weaker, freezeMs, recopiedBlocks };
  }
  if ('unavailable' in context.quiesce) {
    throw new CutNotReached(
      `blocks are rewritten faster than they can be read (${progress.passes} tries); ${context.quiesce.unavailable}`,
    );
  }
  const { reached, outcome } = await frozenTry(context, context.quiesce.use, progress);
  if (reached === null) throw new CutNotReached(`with the filesystems frozen, too: ${outcome.reason}`);
  return quiescedResult(
    reached,
    outcome,
    progress,
    weaker,
    `cut not reached without a pause in ${context.deadlineMs} ms: filesystems frozen for ${outcome.freezeMs.toFixed(0)} ms`,
  );
}

const joined = (...texts: readonly string[]): string => texts.filter((text) => text !== '').join('; ');

/** The strongest of the asked levels that can be had; null when none can, with the reasons. */
async function askedCut(
  context: CutContext,
  progress: Progress,
): Promise<{ readonly cut: CutResult | null; readonly weaker: string }> {
  let weaker = '';
  for (const asked of context.asked ?? []) {
    if ('unavailable' in asked) {
      weaker = joined(weaker, `not ${asked.level}-consistent: ${asked.unavailable}`);
      continue;
    }
    const { reached, outcome } = await frozenTry(context, asked.use, progress, context.gate);
    if (outcome.reason !== '') {
      const level = reached === null || outcome.level !== asked.level ? `not ${asked.level}-consistent: ` : '';
      weaker = joined(weaker, `${level}${outcome.reason}`);
    }
    if (reached !== null) {
      const paused = `filesystems frozen for ${outcome.freezeMs.toFixed(0)} ms`;
      return { cut: quiescedResult(reached, outcome, progress, weaker, paused), weaker };
    }
    if (!outcome.mayFreeze) break;
  }
  return { cut: null, weaker };
}

function quiescedResult(
  reached: Reached,
  outcome: QuiesceOutcome,
  { recopiedBlocks, freezeMs }: Progress,
  weaker: string,
  reason: string,
): CutResult {
  const { level: consistency } = outcome;
  return { ...reached, consistency, reason: joined(weaker, reason), weaker, freezeMs, recopiedBlocks };
}

/** A take() whose marks are added to what has to be read. */
function takeMore(context: CutContext): Take {
  const take = context.tracker.take();
  for (const d of context.disks) d.addTake(takeOf(take, d));
  return take;
}

/** Nothing is logged while filesystems may be frozen: what is worth telling is counted here. */
interface Progress {
  passes: number;
  recopiedBlocks: number;
  /** Of all freezes, those in vain included: the workload was paused for that long. */
  freezeMs: number;
  /** A disk that was written after all was frozen; null: none was, so the image is what they held all the time. */
  writtenWhileFrozen: DiskCycle | null;
}

interface Reached {
  readonly cutAtMs: number;
  readonly passes: number;
  readonly cutMs: number;
}

interface TryBounds {
  readonly deadlineMs: number;
  /** False while filesystems are frozen: only memory is filled then, nothing waits for the network. */
  readonly mayStream: boolean;
}

/** Tries until the deadline; null when it has passed. */
async function tryCut(
  context: CutContext,
  first: Take,
  progress: Progress,
  bounds: TryBounds,
): Promise<Reached | null> {
  const { clock, disks, arena } = context;
  let take = first;
  let windowSinceMs: number | null = null;
  let streamed = 0;
  let lastWindowBytes = Infinity;
  for (;;) {
    progress.passes++;
    const windowBytes = disks.reduce((sum, d) => sum + d.windowBytes, 0);
    // While frozen nothing is streamed: what fits into memory has to do.
    if (windowBytes > CUT_WINDOW_BYTES_MAX && bounds.mayStream) {
      if (++streamed > STREAM_PASSES_MAX || (streamed > 4 && windowBytes > lastWindowBytes * 0.9)) return null;
      lastWindowBytes = windowBytes;
      for (const d of disks) await streamOrBulk(context, d, progress.passes === 1);
      take = nextWindow(context);
      continue;
    }
    if (!arena.fits(windowBytes)) {
      if (!bounds.mayStream) return null;
      for (const d of disks) await d.sendHeld();
      arena.clear();
    }
    const startMs = clock.monotonicMs();
    windowSinceMs ??= startMs;
    await Promise.all(disks.map((d) => d.readWindow()));
    const next = context.tracker.take();
    if (!bounds.mayStream) progress.writtenWhileFrozen ??= writtenIn(context, next);
    const again = verdictOf(context, next, progress);
    if (again === 'cut') {
      for (const d of disks) d.cutAt(takeOf(next, d));
      return {
        cutAtMs: Math.round(take.flipWallMs),
        passes: progress.passes,
        cutMs: clock.monotonicMs() - windowSinceMs,
      };
    }
    if (clock.monotonicMs() - windowSinceMs > bounds.deadlineMs) return null;
    take = next;
  }
}

/**
 * A very large W is staged segment by segment, but only as the first thing that a cycle sends of a disk: a staged layer is older than the
 * cycle's own, whatever the order in which their chunks are sent.
 */
async function streamOrBulk(context: CutContext, d: DiskCycle, paced: boolean): Promise<void> {
  if (d.window.size <= BULK_BLOCKS_MIN) return d.stream(paced);
  // Mostly blocks that are read again because completions went unseen: few of them differ, so little of this is kept or sent.
  if (d.sent.size > 0 && d.window.size <= STREAM_BLOCKS_MAX) return d.stream(paced);
  if (d.sent.size > 0)
    throw new CutNotReached(
      `${d.window.size} blocks of disk ${d.disk.id} changed while the ones before were being sent`,
    );
  return context.bulk(d);
}

/** Whether the image in memory holds. If not, each disk's window is set to what has to be read next. */
function verdictOf(context: CutContext, next: Take, progress: Progress): 'cut' | 'again' {
  const { disks, tracker } = context;
  const conflict = context.testOnlyNaive !== true && disks.some((d) => d.conflictsWith(takeOf(next, d)));
  if (conflict) {
    for (const d of disks) d.setWindow(takeOf(next, d));
    return 'again';
  }
  let recopy = false;
  for (const d of disks) {
    const verdict = tracker.audit(d.disk.id);
    if (verdict.kind === 'series-ended') {
      for (const other of disks) other.addTake(takeOf(next, other));
      throw new SeriesEnded(d.disk.id, verdict.reason);
    }
    if (verdict.kind === 'recopy') {
      if (!recopy) for (const other of disks) other.setWindow(takeOf(next, other));
      recopy = true;
      d.addTake({ marked: verdict.blocks, submitted: { mayHold: () => false } });
      progress.recopiedBlocks += verdict.blocks.size;
    }
  }
  return recopy ? 'again' : 'cut';
}

function nextWindow(context: CutContext): Take {
  const take = context.tracker.take();
  for (const d of context.disks) d.setWindow(takeOf(take, d));
  return take;
}

/** The steps of a cut within a freeze. Not reached: `outcome` says why. */
async function frozenTry(
  context: CutContext,
  quiesce: Quiesce,
  progress: Progress,
  gate?: CutGate,
): Promise<{ readonly reached: Reached | null; readonly outcome: QuiesceOutcome }> {
  const { disks, arena } = context;
  for (let i = 0; i < 2; i++) {
    await quiesce.presync();
    for (const d of disks) await d.stream(i === 0 && progress.passes === 0);
    nextWindow(context);
  }
  for (const d of disks) await d.stream(false);
  for (const d of disks) await d.sendHeld();
  arena.clear();
  let reached: Reached | null = null;
  let alone: string | null = null;
  try {
    mustGoOn(await gate?.mayPrepare());
    const outcome = await quiesce.withFrozen(
      async () => {
        await catchUp(context);
        if (gate === undefined) return;
        mustGoOn(await gate.mayFreeze());
        // From here on others may be frozen. The freeze would flush as much; what fits into memory is read there, and sent when all are thawed.
        await quiesce.presync();
        if (markedBytes(context) > CUT_WINDOW_BYTES_MAX) await catchUp(context);
      },
      async (deadline) => {
        failpoint('agent.cycle.frozen');
        const take = nextWindow(context);
        alone = (await gate?.mayCut(deadline)) ?? null;
        if (alone !== null) return;
        reached = await tryCut(context, take, progress, { deadlineMs: FROZEN_TRIES_MS, mayStream: false });
        if (reached === null || gate === undefined) return;
        // What it held when all were frozen it holds until all have cut: proven at both ends.
        const cut = lookAgain(context);
        const written = progress.writtenWhileFrozen ?? cut.written;
        alone = written === null ? await gate.mayThaw(deadline) : writtenWhileFrozen(written);
        const later = alone === null ? lookAgain(context).written : null;
        if (later !== null) alone = writtenWhileFrozen(later);
        reached = { ...reached, cutAtMs: cut.atMs };
      },
    );
    progress.freezeMs += outcome.freezeMs;
    if (alone === null && outcome.held && reached !== null) return { reached, outcome };
    // What was written after a cut that doesn't count is part of what has to be read for the next.
    if (reached !== null) for (const d of disks) d.uncut();
    if (!outcome.held) return { reached: null, outcome };
    if (alone !== null) return { reached: null, outcome: { ...outcome, reason: alone, mayFreeze: false } };
    return {
      reached: null,
      outcome: { ...outcome, reason: 'blocks are still being written while frozen', mayFreeze: false },
    };
  } catch (error) {
    // Nothing was frozen.
    if (!(error instanceof NotNow)) throw error;
    const outcome = { freezeMs: 0, held: false, reason: error.message, level: 'filesystem', mayFreeze: false } as const;
    return { reached: null, outcome };
  }
}

/** Why nothing is to be frozen: blocks change too fast, or another machine is not ready. */
class NotNow extends Error {}

function mustGoOn(whyNot: string | null | undefined): void {
  if (typeof whyNot === 'string') throw new NotNow(whyNot);
}

/** Sends what changed while the freeze was prepared, so that the rest fits into memory. Where that can't be expected, nothing is paused in vain. */
async function catchUp(context: CutContext): Promise<void> {
  for (let pass = 0; pass < CATCH_UP_PASSES_MAX; pass++) {
    nextWindow(context);
    const windowBytes = context.disks.reduce((sum, d) => sum + d.windowBytes, 0);
    for (const d of context.disks) await d.stream(false);
    if (windowBytes <= CUT_WINDOW_BYTES_MAX) return;
  }
  throw new NotNow('blocks change faster than they can be sent; nothing was frozen');
}

/** A disk of which something was submitted in the epoch that this take ended; a write from before that completed in it is none. */
const writtenIn = ({ disks }: CutContext, take: Take): DiskCycle | null =>
  disks.find((d) => {
    const { marked, submitted } = takeOf(take, d);
    for (const block of marked.blocks()) if (submitted.mayHold(block)) return true;
    return false;
  }) ?? null;

/** One more take after a cut: what was written meanwhile belongs to the next cycle. */
function lookAgain(context: CutContext): { readonly atMs: number; readonly written: DiskCycle | null } {
  const take = context.tracker.take();
  for (const d of context.disks) d.disk.carry.addAll(takeOf(take, d).marked);
  return { atMs: Math.round(take.flipWallMs), written: writtenIn(context, take) };
}

const writtenWhileFrozen = ({ disk }: DiskCycle): string =>
  `${disk.device} was written while its filesystems were frozen: something writes past them`;

const markedBytes = ({ tracker, disks }: CutContext): number =>
  disks.reduce((sum, { disk }) => sum + tracker.markedCount(disk.id) * disk.geometry.blockBytes, 0);

function takeOf(take: Take, d: DiskCycle): ReturnType<Take['disks']['get']> & object {
  const found = take.disks.get(d.disk.id);
  if (found === undefined)
    throw new AfterimageError(`disk ${d.disk.id} is not tracked`, { code: 'not-tracked', kind: 'internal' });
  return found;
}
