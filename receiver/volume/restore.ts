/**
 * Restores one disk at one point to a target: checks first, then writes units in parallel, proves the whole by its digest.
 * A restore that is cancelled, fails or is killed leaves a journal beside its target and continues there when it is asked for again.
 */
import { totalmem } from 'node:os';
import { bytesOfBlocks } from '../../shared/blocks/geometry.js';
import { digestFromText, digestToText } from '../../shared/blocks/hash.js';
import { systemClock, type Clock } from '../../shared/clock.js';
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { failpoint } from '../../shared/failpoints.js';
import { COMPOSED_INDEX_BYTES_MAX, COMPOSED_REGIONS_AT_ONCE, RESTORE_WORKERS } from '../../shared/limits.js';
import type { PointDisk } from '../catalog/reader.js';
import { composedLimits, composedRegions, type ComposedLimits, type Region } from './composed-regions.js';
import { indexBytes } from './index-cache.js';
import { InTurn } from '../../shared/in-turn.js';
import type { LayerReader } from './layer-reader.js';
import { loadIndexes } from './load-indexes.js';
import { cancelled, planFingerprint } from './plan-point.js';
import { Progress, type OnProgress } from './progress.js';
import { readBackDigest } from './read-back.js';
import type { PlanUnit, ReadPlan } from './read-plan.js';
import {
  findJournal,
  removeJournal,
  RestoreJournal,
  type FoundJournal,
  type RestoreSubject,
} from './restore-journal.js';
import { RestoreRecorder } from './restore-recorder.js';
import { restoreRegion } from './restore-region.js';
import { restoreUnit, type UnitContext } from './restore-unit.js';
import { sharedRoom, type SharedRoom } from './threads/shared-room.js';
import { refused, type RestoreTarget } from './target.js';
import { runsOf } from './unit-work.js';

export interface RestoreJob {
  readonly reader: LayerReader;
  readonly plan: ReadPlan;
  readonly point: number;
  readonly disk: PointDisk;
  readonly target: RestoreTarget;
  readonly journalPath: string;
  /** Write over what the target holds. */
  readonly force: boolean;
  readonly readBack?: boolean;
  readonly signal?: AbortSignal;
  readonly onProgress?: OnProgress;
  readonly clock?: Clock;
  /** When a disk is composed region by region; by the host's memory unless told otherwise. */
  readonly composed?: ComposedLimits;
  /** Bytes between two syncs of the target; RESTORE_SYNC_BYTES unless told otherwise. */
  readonly syncBytes?: number;
}

export interface RestoreResult {
  readonly sizeBytes: number;
  /** What an earlier run had done already. */
  readonly keptBytes: number;
  readonly digest: string;
  readonly readBack: boolean;
  readonly durationMs: number;
}

/** A job whose target was found fit. Nothing has been changed yet. */
export interface CheckedRestore {
  readonly job: RestoreJob;
  readonly subject: RestoreSubject;
  /** Journal to continue; undefined to begin anew. */
  readonly found: FoundJournal | undefined;
  /** Null: unit by unit. */
  readonly regions: readonly Region[] | null;
}

const subjectOf = (
  { reader, plan, point, disk, target }: RestoreJob,
  regions: readonly Region[] | null,
): RestoreSubject => ({
  version: 1,
  machine: reader.owner.machine,
  disk: reader.owner.disk,
  point,
  digest: disk.digest,
  target: target.identity,
  // What the numbers of a journal stand for.
  plan: `${planFingerprint(reader, plan)}${regions === null ? '' : ` by ${regions[0]?.count ?? 0} blocks`}`,
});

/** Checks that the target may be written, changing nothing. Throws kind `refused` when not. */
export async function checkRestore(job: RestoreJob): Promise<CheckedRestore> {
  const regions = await regionsOf(job);
  const subject = subjectOf(job, regions);
  const found = await findJournal(job.journalPath);
  // The layers may have been merged since: the same point, but other units. Then it begins anew, and what is on the target is ours.
  const samePoint = found !== undefined && sameSubject({ ...found.subject, plan: '' }, { ...subject, plan: '' });
  if (samePoint) return { job, subject, found: found.subject.plan === subject.plan ? found : undefined, regions };
  if (job.force) return { job, subject, found: undefined, regions };
  if (found !== undefined && found.subject.target === subject.target) {
    throw refused(
      'restore-other',
      `target ${job.target.path} holds an unfinished restore of point ${found.subject.point} of disk ${found.subject.disk} (machine ${found.subject.machine})`,
      'Finish that one, or run again with --force to write over it.',
    );
  }
  await job.target.checkEmpty();
  return { job, subject, found: undefined, regions };
}

/** Composed are disks whose layers are files here, and whose indexes fit into memory all at once: each region needs most of them. */
async function regionsOf({
  reader,
  plan,
  composed = composedLimits(totalmem()),
}: RestoreJob): Promise<readonly Region[] | null> {
  if (!reader.takesThreads) return null;
  const regions = composedRegions(plan, composed);
  if (regions === null) return null;
  const layers = plan.units.flatMap((unit) => (unit.kind === 'delta' ? [unit.layer] : []));
  let bytes = 0;
  for await (const [, index] of loadIndexes(reader, layers)) {
    bytes += indexBytes(index);
    if (bytes > COMPOSED_INDEX_BYTES_MAX) return null;
  }
  return regions;
}

const sameSubject = (a: RestoreSubject, b: RestoreSubject): boolean =>
  Object.entries(a).every(([key, value]) => Object.entries(b).some(([k, v]) => k === key && v === value));

/** Runs a restore that was checked. */
export async function runRestore(checked: CheckedRestore): Promise<RestoreResult> {
  const { job } = checked;
  const clock = job.clock ?? systemClock;
  const startedAtMs = clock.monotonicMs();
  await layOut(job, clock);
  const journal = await openJournal(checked);
  const parts = partsOf(checked);
  let total: { digest: bigint; keptBytes: number };
  try {
    total = await writeParts(job, parts, checked.found?.done ?? new Map(), journal, clock);
  } finally {
    parts.close();
    await journal.close();
  }
  await proveDigest(job, total.digest, 'digest-mismatch', 'The layers do not add up to the point');
  if (job.readBack === true) await readBack(job, clock);
  await job.target.finish();
  failpoint('restore.finished');
  await removeJournal(job.journalPath);
  const durationMs = clock.monotonicMs() - startedAtMs;
  const { sizeBytes, digest } = job.disk;
  return { sizeBytes, keptBytes: total.keptBytes, digest, readBack: job.readBack === true, durationMs };
}

async function layOut(job: RestoreJob, clock: Clock): Promise<void> {
  const { reader, plan, target } = job;
  const progress = new Progress('plan', plan.geometry.sizeBytes, 0, clock, job.onProgress);
  await target.layOut({ reader, plan, progress, signal: job.signal ?? new AbortController().signal });
}

async function openJournal({ job, subject, found }: CheckedRestore): Promise<RestoreJournal> {
  if (found !== undefined) return RestoreJournal.continue(job.journalPath, found);
  // In this order: an old journal must be gone before the target changes, and a new one must not exist before it is ready.
  await removeJournal(job.journalPath);
  await job.target.prepare();
  return RestoreJournal.begin(job.journalPath, { ...subject, target: job.target.identity });
}

/** What a restore consists of: units of the plan, or regions of the disk. A journal has their numbers. */
interface Parts {
  readonly count: number;
  readonly atOnce: number;
  readonly bytesOf: (part: number) => number;
  /** The XOR of its block hashes. `worker`: below `atOnce`, one part at a time. */
  readonly restore: (part: number, context: UnitContext, worker: number) => Promise<bigint>;
  /** Gives its memory back; nothing is being restored any more. */
  readonly close: () => void;
}

function partsOf({ job: { plan, reader }, regions }: CheckedRestore): Parts {
  if (regions === null) {
    const unitOf = (part: number): PlanUnit => plan.units[part] as PlanUnit;
    return {
      count: plan.units.length,
      atOnce: RESTORE_WORKERS,
      bytesOf: (part) => unitBytes(plan, unitOf(part)),
      restore: (part, context) => restoreUnit(context, unitOf(part)),
      close: () => undefined,
    };
  }
  const regionOf = (part: number): Region => regions[part] as Region;
  const roomBytes = (regions[0]?.count ?? 0) * plan.geometry.blockBytes;
  const composing = new InTurn();
  const rooms = Array.from({ length: COMPOSED_REGIONS_AT_ONCE }, () => sharedRoom(roomBytes));
  return {
    count: regions.length,
    atOnce: COMPOSED_REGIONS_AT_ONCE,
    bytesOf: (part) => bytesOfBlocks(plan.geometry, regionOf(part).first, regionOf(part).count),
    restore: (part, context, worker) => restoreRegion(context, regionOf(part), rooms[worker] as SharedRoom, composing),
    close: () => rooms.forEach((room) => reader.leaveRoom(room)),
  };
}

async function writeParts(
  job: RestoreJob,
  parts: Parts,
  done: ReadonlyMap<number, bigint>,
  journal: RestoreJournal,
  clock: Clock,
): Promise<{ digest: bigint; keptBytes: number }> {
  const { reader, plan, target } = job;
  let digest = 0n;
  let keptBytes = 0;
  const todo: number[] = [];
  for (let i = 0; i < parts.count; i++) {
    const known = done.get(i);
    if (known === undefined) todo.push(i);
    else {
      digest ^= known;
      keptBytes += parts.bytesOf(i);
    }
  }
  const progress = new Progress('restore', plan.geometry.sizeBytes, keptBytes, clock, job.onProgress);
  const recorder = new RestoreRecorder(target, journal, clock, job.syncBytes);
  // The first failure stops the other workers; so does a cancel from outside.
  const stop = new AbortController();
  const signal = job.signal === undefined ? stop.signal : AbortSignal.any([stop.signal, job.signal]);
  const queue = todo.values();
  const worker = async (number: number): Promise<void> => {
    for (const i of queue) {
      if (signal.aborted) throw cancelled('restore');
      const partDigest = await parts.restore(i, { reader, plan, target, progress, signal }, number);
      digest ^= partDigest;
      await recorder.add(i, partDigest, parts.bytesOf(i));
    }
  };
  let failure: Error | undefined;
  const run = (_: unknown, number: number): Promise<void> =>
    worker(number).catch((error: unknown) => {
      failure ??= error instanceof Error ? error : new Error(messageOf(error));
      stop.abort();
    });
  await Promise.all(Array.from({ length: parts.atOnce }, run));
  if (failure === undefined) {
    await recorder.flush();
    progress.finish();
    return { digest, keptBytes };
  }
  // What is finished is kept; if even that fails, it is done again.
  await recorder.flush().catch(() => undefined);
  if (job.signal?.aborted) throw cancelled('restore', 'Run the same command again to continue where it stopped.');
  throw failure;
}

const unitBytes = (plan: ReadPlan, unit: PlanUnit): number => {
  let bytes = 0;
  for (const [first, count] of runsOf(plan, unit)) bytes += bytesOfBlocks(plan.geometry, first, count);
  return bytes;
};

async function readBack(job: RestoreJob, clock: Clock): Promise<void> {
  const { geometry } = job.plan;
  const progress = new Progress('read back', geometry.sizeBytes, 0, clock, job.onProgress);
  const signal = job.signal ?? new AbortController().signal;
  const hash = await job.reader.keys.hasherFor(job.disk);
  const digest = await readBackDigest(job.target, geometry, hash, progress, signal);
  progress.finish();
  await proveDigest(job, digest, 'read-back-mismatch', 'The target does not hold what was written to it');
}

/** A target that isn't proven must not be continued later: its journal goes. */
async function proveDigest(job: RestoreJob, digest: bigint, code: string, what: string): Promise<void> {
  if (digest === digestFromText(job.disk.digest)) return;
  await removeJournal(job.journalPath);
  throw new AfterimageError(
    `${what}: disk ${job.disk.disk} at point ${job.point} has digest ${job.disk.digest}, found ${digestToText(digest)}`,
    { code, kind: 'corrupt', hint: 'Do not use the target. Try another point, and see `afterimage verify`.' },
  );
}
