/**
 * The cut: an instant at which what was read is exactly what the disks held, on all of them at once, without a pause of the workload.
 *
 * Disks are read like data under a sequence lock (design, section 3): W is what a take() returned; large W is streamed, small W is read into
 * memory; then take() again. If no block of W was submitted in the epoch between the two flips, memory and what was streamed before are
 * the image at the first flip. Else W becomes what the second take returned, and so on. Why this is right, in short: had the image a write Y whose
 * predecessor X is missing, then Y was submitted before the flip (else it would be in S'), so X had completed before, was marked, and was read after it
 * landed. When tries run out, the filesystems are frozen for the same steps, if that is possible; else no point is made, with the reason.
 */
import type { Clock } from '../../shared/clock.js';
import { AfterimageError } from '../../shared/errors.js';
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
  readonly consistency: 'crash' | 'filesystem';
  readonly reason: string;
  readonly passes: number;
  /** From the first read of a window to the flip that proved it. */
  readonly cutMs: number;
  readonly freezeMs: number;
  /** Blocks read again because completions of writes went unseen (tracker's audit). */
  readonly recopiedBlocks: number;
}

/** The fallback: runs `work` while every filesystem on the disks is frozen. Null when there is nothing to freeze, with the reason. */
export interface Quiesce {
  /** Flushes dirty pages, so that the freeze itself is short. */
  presync(): Promise<void>;
  /** `beforeFreeze` runs when all stands ready; if it throws, nothing is frozen. Resolves to how long it was frozen and whether the freeze held until the end of the work. */
  withFrozen(
    beforeFreeze: () => Promise<void>,
    work: () => Promise<void>,
  ): Promise<{ readonly freezeMs: number; readonly held: boolean; readonly reason: string }>;
}

export interface CutContext {
  readonly tracker: MarkTracker;
  readonly disks: readonly DiskCycle[];
  readonly arena: WindowArena;
  readonly clock: Clock;
  readonly deadlineMs: number;
  readonly quiesce: { readonly use: Quiesce } | { readonly unavailable: string };
  /** Sends very large W segment by segment; called instead of stream(). */
  readonly bulk: (disk: DiskCycle) => Promise<void>;
  /** Test hook: naive reading accepts the first image without looking at S'. Must fail the order test. */
  readonly testOnlyNaive?: boolean;
}

export class CutNotReached extends AfterimageError {
  constructor(why: string) {
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
  const progress: Progress = { passes: 0, recopiedBlocks: 0 };
  const first = context.tracker.take();
  for (const d of context.disks) d.addTake(takeOf(first, d));
  const crash = await tryCut(context, first, progress, { deadlineMs: context.deadlineMs, mayStream: true });
  if (crash !== null) {
    const { recopiedBlocks } = progress;
    return { ...crash, consistency: 'crash', reason: 'cut without a pause', freezeMs: 0, recopiedBlocks };
  }
  if ('unavailable' in context.quiesce) {
    throw new CutNotReached(
      `blocks are rewritten faster than they can be read (${progress.passes} tries); ${context.quiesce.unavailable}`,
    );
  }
  return frozenCut(context, context.quiesce.use, progress);
}

/** Nothing is logged while filesystems may be frozen: what is worth telling is counted here. */
interface Progress {
  passes: number;
  recopiedBlocks: number;
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
      for (const d of disks) await streamOrBulk(context, d);
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
    const again = verdictOf(context, next, progress);
    if (again === 'cut') {
      for (const d of disks) d.disk.carry = takeOf(next, d).marked;
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
async function streamOrBulk(context: CutContext, d: DiskCycle): Promise<void> {
  if (d.window.size <= BULK_BLOCKS_MIN) return d.stream();
  // Mostly blocks that are read again because completions went unseen: few of them differ, so little of this is kept or sent.
  if (d.sent.size > 0 && d.window.size <= STREAM_BLOCKS_MAX) return d.stream();
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

async function frozenCut(context: CutContext, quiesce: Quiesce, progress: Progress): Promise<CutResult> {
  const { disks, arena } = context;
  for (let i = 0; i < 2; i++) {
    await quiesce.presync();
    for (const d of disks) await d.stream();
    nextWindow(context);
  }
  for (const d of disks) await d.stream();
  for (const d of disks) await d.sendHeld();
  arena.clear();
  let reached: Reached | null = null;
  const frozen = await quiesce.withFrozen(
    () => catchUp(context),
    async () => {
      const take = nextWindow(context);
      reached = await tryCut(context, take, progress, { deadlineMs: FROZEN_TRIES_MS, mayStream: false });
    },
  );
  if (reached === null || !frozen.held) {
    throw new CutNotReached(
      `with the filesystems frozen, too: ${frozen.held ? 'blocks are still being written' : frozen.reason}`,
    );
  }
  const { cutAtMs, passes, cutMs }: Reached = reached;
  return {
    cutAtMs,
    passes,
    cutMs,
    consistency: 'filesystem',
    reason: `cut not reached without a pause in ${context.deadlineMs} ms: filesystems frozen for ${frozen.freezeMs.toFixed(0)} ms`,
    freezeMs: frozen.freezeMs,
    recopiedBlocks: progress.recopiedBlocks,
  };
}

/** Sends what changed while the freeze was prepared, so that the rest fits into memory. Where that can't be expected, nothing is paused in vain. */
async function catchUp(context: CutContext): Promise<void> {
  for (let pass = 0; pass < CATCH_UP_PASSES_MAX; pass++) {
    nextWindow(context);
    const windowBytes = context.disks.reduce((sum, d) => sum + d.windowBytes, 0);
    for (const d of context.disks) await d.stream();
    if (windowBytes <= CUT_WINDOW_BYTES_MAX) return;
  }
  throw new CutNotReached('blocks change faster than they can be sent; nothing was frozen');
}

function takeOf(take: Take, d: DiskCycle): ReturnType<Take['disks']['get']> & object {
  const found = take.disks.get(d.disk.id);
  if (found === undefined)
    throw new AfterimageError(`disk ${d.disk.id} is not tracked`, { code: 'not-tracked', kind: 'internal' });
  return found;
}
