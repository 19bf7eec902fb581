/**
 * One cycle of a machine: cut, send, commit, on all disks that take part.
 *
 * Promises: what a failed cycle has taken is handed back; a commit whose answer was lost stays in doubt in the hash stores until the next
 * welcome resolves it. The tracker forgets only after the hash stores hold the commit.
 */
import type { Clock } from '../../shared/clock.js';
import { digestToText } from '../../shared/blocks/hash.js';
import { failpoint } from '../../shared/failpoints.js';
import { CLEAN_SAMPLE_MARK_MS } from '../../shared/limits.js';
import type { BlockNumber, DiskId } from '../../shared/units.js';
import type { Pace } from '../load/pace.js';
import type { ReceiverSession } from '../session/session.js';
import type { MarkTracker } from '../tracker/tracker.js';
import { carrying, type CycleTracker } from './carrying.js';
import type { MessagePool } from './chunk-sender.js';
import { findMismatch, takeSample, type CleanSample } from './clean-sample.js';
import type { GroupRecord } from '../../shared/wire/group-record.js';
import type { QuiesceRecord } from '../../shared/wire/quiesce-record.js';
import {
  CutNotReached,
  reachCut,
  SeriesEnded,
  type AskedLevel,
  type CutContext,
  type CutGate,
  type CutResult,
} from './cut.js';
import { DiskCycle } from './disk-cycle.js';
import type { ProtectedDisk } from './protected-disk.js';
import { sweep } from './sweep.js';
import type { StillDisk } from './still-disk.js';
import type { WindowArena } from './window-arena.js';

/** A longer reason would not be taken by the receiver. */
const REASON_CHARS_MAX = 500;

export interface CycleContext {
  readonly session: ReceiverSession;
  /** Null when no disk of the machine has a mark tracker. */
  readonly tracker: MarkTracker | null;
  /** Disks that the tracker follows and that take no part. Absent: none. */
  readonly bystanders?: readonly ProtectedDisk[];
  /** Protected disks that can't be part of the point: away, or unreadable. Absent: none. */
  readonly without?: readonly DiskId[];
  readonly pool: MessagePool;
  readonly arena: WindowArena;
  readonly clock: Clock;
  readonly random: () => number;
  readonly randomId: () => string;
  readonly cutDeadlineMs: number;
  readonly quiesce: CutContext['quiesce'];
  /** What is asked of this point beyond a crash-consistent cut. */
  readonly asked?: AskedPoint;
  /** How fast disks may be read before the cut is tried; absent: as fast as they can be. */
  readonly pace?: Pace;
  readonly testOnlyNaive: boolean;
}

export interface AskedPoint {
  readonly label: string | null;
  /** Strongest first; empty: crash-consistent will do. */
  readonly levels: readonly AskedLevel[];
  /** What the point tells about how it was quiesced, once all applications run again; null: nothing was asked. */
  readonly record: (weaker: string) => Promise<QuiesceRecord | null>;
  /** Of a point that is cut together with those of other machines. */
  readonly group?: GroupPart;
}

export interface GroupPart {
  readonly gate: CutGate & {
    /** What makes the point one of the group; null: it is this machine's alone. */
    readonly record: GroupRecord | null;
    /** Why it came to nothing, from then on. */
    readonly whyOver: string | null;
  };
}

export interface CycleResult {
  readonly point: number;
  readonly cut: CutResult;
  readonly quiesce: QuiesceRecord | null;
  /** Set: it is part of a group's point. */
  readonly group: GroupRecord | null;
  readonly changedBytes: number;
  readonly sentBytes: number;
  readonly storedBytes: number;
  readonly durationMs: number;
}

export async function runCycle(
  tracked: readonly ProtectedDisk[],
  still: readonly StillDisk[],
  reason: string | null,
  context: CycleContext,
): Promise<CycleResult> {
  const startMs = context.clock.monotonicMs();
  // What earlier cycles have read beyond the limits is paid for first.
  await context.pace?.settled();
  const startWallMs = context.clock.nowMs();
  const tracker = context.tracker === null ? null : carrying(context.tracker, context.bystanders ?? []);
  const all = [...tracked, ...still.map((s) => s.disk)];
  const before = { changed: sum(all, (d) => d.counters.changedBytes), sent: sum(all, (d) => d.counters.sentBytes) };
  const cycle = context.randomId();
  await context.session.beginCycle(cycle);
  context.arena.clear();
  for (const s of still) await s.sweepIfChanged({ ...context, shouldPause: () => false });
  const runs = tracked.map((disk) => new DiskCycle(disk, context.session, context.pool, context.arena, context.pace));
  let committing = false;
  try {
    const cut = await cutOf(runs, context, tracker, startWallMs);
    failpoint('agent.cycle.cut');
    // The scanned disks must have stood still from before they were read until after the cut of the others.
    for (const s of still) await s.assertStill();
    for (const run of runs) {
      await run.sendHeld();
      await run.flush();
    }
    const digests = new Map<DiskId, bigint>();
    for (const run of runs) digests.set(run.disk.id, await prepare(run.disk, cycle, run));
    for (const s of still) digests.set(s.disk.id, await prepare(s.disk, cycle, null));
    failpoint('agent.cycle.journaled');
    const quiesce = (await context.asked?.record(cut.weaker)) ?? null;
    const part = context.asked?.group;
    const group = cut.weaker === '' ? (part?.gate.record ?? null) : null;
    // The label of a group's point is not that of what one machine made alone.
    const label = part === undefined || group !== null ? (context.asked?.label ?? null) : null;
    const changedBytes = sum(all, (d) => d.counters.changedBytes) - before.changed;
    committing = true;
    const committed = await context.session.commit(
      {
        cycle,
        cutAtMs: cut.cutAtMs,
        consistency: cut.consistency,
        reason: (reason === null ? cut.reason : `${reason}; ${cut.reason}`).slice(0, REASON_CHARS_MAX),
        ...(label === null ? {} : { label }),
        ...(quiesce === null ? {} : { quiesce }),
        ...(group === null ? {} : { group }),
        ...(context.without === undefined || context.without.length === 0 ? {} : { without: [...context.without] }),
        disks: all.map((d) => ({ disk: d.id, series: d.series, digest: digestToText(digests.get(d.id) ?? 0n) })),
        stats: { passes: cut.passes, cutMs: cut.cutMs, freezeMs: cut.freezeMs, changedBytes },
      },
      () => {
        failpoint('agent.cycle.commit-sent');
      },
    );
    failpoint('agent.cycle.committed');
    for (const disk of all) {
      await disk.store.commit(cycle, committed.point, disk.series);
      disk.lastPoint = committed.point;
    }
    for (const run of runs) {
      tracker?.committed(run.disk.id, run.disk.carry);
      run.committed();
    }
    failpoint('agent.cycle.applied');
    for (const s of still) s.committed();
    return {
      point: committed.point,
      cut,
      quiesce,
      group,
      changedBytes,
      sentBytes: sum(all, (d) => d.counters.sentBytes) - before.sent,
      storedBytes: committed.storedBytes,
      durationMs: context.clock.monotonicMs() - startMs,
    };
  } catch (error) {
    for (const run of runs) run.handBack();
    // A commit that was sent may have succeeded: the next welcome tells. One that wasn't has not.
    if (!committing) for (const disk of all) if (disk.store.inDoubtCycle === cycle) await disk.store.drop(cycle);
    throw error;
  }
}

const sum = (disks: readonly ProtectedDisk[], of: (disk: ProtectedDisk) => number): number =>
  disks.reduce((total, disk) => total + of(disk), 0);

async function prepare(disk: ProtectedDisk, cycle: string, run: DiskCycle | null): Promise<bigint> {
  const entries =
    run === null ? { blocks: new Uint32Array(0), hashes: new BigUint64Array(0), length: 0 } : run.sent.entries();
  const { digest } = await disk.store.prepare(cycle, entries);
  return digest;
}

/** The cut on the tracked disks, with the tracker checked against samples; for scanned disks alone, the moment before they were read. */
async function cutOf(
  runs: readonly DiskCycle[],
  context: CycleContext,
  tracker: CycleTracker | null,
  startWallMs: number,
): Promise<CutResult> {
  if (runs.length === 0 || tracker === null) {
    const asked = context.asked?.levels[0];
    const weaker = asked === undefined ? '' : `not ${asked.level}-consistent: no disk has change tracking`;
    const still = 'source stood still while it was read';
    return {
      cutAtMs: startWallMs,
      consistency: 'crash',
      reason: weaker === '' ? still : `${weaker}; ${still}`,
      weaker,
      passes: 1,
      cutMs: 0,
      freezeMs: 0,
      recopiedBlocks: 0,
    };
  }
  failpoint('agent.cycle.taken');
  const samples = new Map<DiskCycle, CleanSample>();
  for (const run of runs) samples.set(run, await takeSample(run, context.random, context.pace));
  const cut = await reachCut({
    tracker,
    disks: runs,
    arena: context.arena,
    clock: context.clock,
    deadlineMs: context.cutDeadlineMs,
    quiesce: context.quiesce,
    ...(context.asked === undefined ? {} : { asked: context.asked.levels }),
    ...(context.asked?.group === undefined ? {} : { gate: context.asked.group.gate }),
    bulk: (run) => bulk(run, context),
    testOnlyNaive: context.testOnlyNaive,
  });
  failpoint('agent.cycle.streamed');
  for (const [run, sample] of samples) {
    const mismatch = await findMismatch(run, sample, context.session, (block) =>
      isMarkedSoon(run, block, runs, tracker, context.clock),
    );
    if (mismatch !== null) {
      throw new SeriesEnded(run.disk.id, `block ${mismatch} changed although no write to it was seen (clean sample)`);
    }
  }
  return cut;
}

/**
 * A write in flight at the cut may have landed, so that the sample saw it, and complete only after the cut: its mark of completion is still to come.
 * What is marked while we wait for it belongs to the next cycle.
 */
async function isMarkedSoon(
  run: DiskCycle,
  block: BlockNumber,
  runs: readonly DiskCycle[],
  tracker: CycleTracker,
  clock: Clock,
): Promise<boolean> {
  const endMs = clock.monotonicMs() + CLEAN_SAMPLE_MARK_MS;
  for (;;) {
    const { disks } = tracker.take();
    for (const { disk } of runs) {
      const marked = disks.get(disk.id)?.marked;
      if (marked !== undefined) disk.carry.addAll(marked);
    }
    if (run.disk.carry.has(block)) return true;
    if (clock.monotonicMs() > endMs) return false;
    await clock.sleep(1);
  }
}

/** A very large change goes segment by segment and is staged, so that memory stays bounded and a crash repeats little. */
async function bulk(run: DiskCycle, context: CycleContext): Promise<void> {
  const only = run.window;
  run.beginBulk();
  await run.disk.store.beginSweep('bulk', run.disk.series);
  await sweep(run.disk, { kind: 'bulk', only, firstSegment: 0 }, { ...context, shouldPause: () => false });
}

export { CutNotReached, SeriesEnded };
