/**
 * At shutdown, when filesystems are unmounted: notes of each disk that it is closed, or why not. A disk counts as closed when nobody uses it, its
 * tracking is unbroken and its marks complete, its cache is flushed, and the kernel counted no write from before the marks were taken until the note
 * was durable. What may still come is seen by the last step of shutdown (systemd/afterimage-agent.shutdown), which compares the kernel's counts once
 * more and removes the note of a disk that was written.
 *
 * Tracking goes on, for that step; it ends with the kernel. After a crash in here: notes that were written are true, others are missing.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import type { BlockSet } from '../../shared/blocks/block-set.js';
import { geometryOf } from '../../shared/blocks/geometry.js';
import type { Clock } from '../../shared/clock.js';
import { messageOf } from '../../shared/errors.js';
import { CLOSE_AUDITS_MAX, UNTOUCHED_LOOK_MS } from '../../shared/limits-service.js';
import { inspectDevice, type InspectedDevice } from '../disks/inspect.js';
import { locateDisk } from '../disks/locate.js';
import type { Sysfs } from '../disks/sysfs.js';
import type { ProtectedEntry, ProtectionList } from '../protection.js';
import type { MarkTracker, TrackableDisk } from '../tracker/tracker.js';
import { RawDevice } from './layout/bytes.js';
import { encodeMarks, type ClosedNote, type Note } from './note.js';
import { notePath, takeNotes, writeNote } from './notes-folder.js';
import { findTrace, hashTrace } from './trace-reading.js';
import { diskUser } from './users.js';
import { whyNotClosed, type Counts } from './verdicts.js';

export interface RebootDeps {
  readonly stateDir: string;
  /** What the two halves tell the shutdown step, and the agent. In memory. */
  readonly runDir: string;
  readonly sysfs: Sysfs;
  readonly tracker: MarkTracker | null;
  readonly trackerReason: string;
  readonly clock: Clock;
  readonly log: Logger;
  readonly bootId: string;
}

/** For the last step of shutdown: a line for each closed disk, `DEVICE WRITTEN DISCARDED NOTE`. */
export const closedListPath = (runDir: string): string => join(runDir, 'closed');

export async function closeDisks(list: ProtectionList, deps: RebootDeps): Promise<Note[]> {
  const { stateDir, runDir, log } = deps;
  await takeNotes(stateDir);
  const notes: Note[] = [];
  for (const entry of list.disks) {
    const note = await noteOf(entry, list, deps);
    notes.push(note);
    if (note.state === 'closed') log.info({ disk: note.disk, series: note.series }, 'disk closed');
    else log.warn({ disk: note.disk, reason: note.reason }, 'disk not closed: it will be compared');
  }
  const lines = notes.flatMap((note) =>
    note.state === 'closed'
      ? [`${note.device} ${note.writeSectors} ${note.discardSectors} ${notePath(stateDir, note.disk)}\n`]
      : [],
  );
  await mkdir(runDir, { recursive: true, mode: 0o700 });
  await writeFile(closedListPath(runDir), lines.join(''));
  return notes;
}

/** The note is durable, and the disk as it says, when this returns. */
async function noteOf(entry: ProtectedEntry, list: ProtectionList, deps: RebootDeps): Promise<Note> {
  const note = await closeDisk(entry, list, deps);
  await writeNote(deps.stateDir, note);
  if (note.state === 'open' || isUntouched(note, deps.sysfs)) return note;
  const instead = openNote(entry, 'at shutdown it was written while its closing was noted', deps);
  await writeNote(deps.stateDir, instead);
  return instead;
}

const openNote = ({ id }: ProtectedEntry, reason: string, { bootId, clock }: RebootDeps): Note => ({
  state: 'open',
  disk: id,
  bootId,
  atMs: clock.nowMs(),
  reason,
});

function isUntouched({ device, writeSectors, discardSectors }: ClosedNote, sysfs: Sysfs): boolean {
  const now = sysfs.counters(device);
  return now?.writeSectors === writeSectors && now.discardSectors === discardSectors;
}

async function closeDisk(entry: ProtectedEntry, list: ProtectionList, deps: RebootDeps): Promise<Note> {
  const { sysfs, tracker, trackerReason } = deps;
  try {
    const path = locateDisk(sysfs, entry.id, list.kept) ?? entry.path;
    const found = inspectDevice(path, { sysfs, protectedDisks: [], kept: list.kept, newUuid: () => entry.id });
    const { source, trackable } = found;
    if (found.id !== entry.id || source.kind !== 'block')
      return openNote(entry, 'at shutdown it was not connected', deps);
    if (tracker === null || trackable === null) {
      return openNote(entry, `it is not tracked: ${found.untrackedReason ?? trackerReason}`, deps);
    }
    const geometry = geometryOf(found.geometry.sizeBytes, entry.blockBytes);
    return await closeTracked(entry, found, { ...trackable, geometry }, source, tracker, deps);
  } catch (error) {
    return openNote(entry, `at shutdown it could not be closed: ${messageOf(error)}`, deps);
  }
}

async function closeTracked(
  entry: ProtectedEntry,
  { state }: InspectedDevice,
  disk: TrackableDisk,
  source: InspectedDevice['source'] & { kind: 'block' },
  tracker: MarkTracker,
  deps: RebootDeps,
): Promise<Note> {
  const { sysfs, clock, bootId } = deps;
  const user = diskUser(sysfs, source);
  if (user !== null) return openNote(entry, `at shutdown it was ${user}`, deps);
  const raw = new RawDevice(source.path);
  try {
    raw.flush();
    const armed = tracker.arm(disk);
    try {
      const before = countsOf(sysfs, source.name);
      const marks = await takeAll(disk, armed.uncommitted, tracker, clock);
      const trace = findTrace(sysfs, source.name, raw.read);
      const traceSha256 = 'doubt' in trace ? '' : hashTrace(raw.read, trace.ranges);
      await clock.sleep(UNTOUCHED_LOOK_MS);
      const after = countsOf(sysfs, source.name);
      const reason = whyNotClosed({
        user: diskUser(sysfs, source),
        broken: armed.resumed ? null : armed.reason,
        unbalanced: marks.unbalanced,
        untraceable: 'doubt' in trace ? trace.doubt : null,
        before,
        after,
      });
      if (reason !== null || 'doubt' in trace) return openNote(entry, reason ?? 'it is not known', deps);
      return {
        state: 'closed',
        disk: entry.id,
        bootId,
        atMs: clock.nowMs(),
        series: armed.series,
        sizeBytes: state.sizeBytes,
        blockBytes: entry.blockBytes,
        device: source.name,
        writeSectors: after.writeSectors,
        discardSectors: after.discardSectors,
        trace: [...trace.ranges],
        traceSha256,
        marks: encodeMarks(marks.blocks, disk.geometry.blockCount),
      };
    } finally {
      tracker.release(disk.id);
    }
  } finally {
    raw.close();
  }
}

/** A disk that has vanished is one that was written. */
export function countsOf(sysfs: Sysfs, name: string): Counts {
  return sysfs.counters(name) ?? { writeSectors: Infinity, discardSectors: Infinity, writesInFlight: Infinity };
}

/** All marks, with what completions that went unseen may concern; an audit that balances says that they are complete. */
async function takeAll(
  disk: TrackableDisk,
  uncommitted: BlockSet,
  tracker: MarkTracker,
  clock: Clock,
): Promise<{ readonly blocks: BlockSet; readonly unbalanced: string | null }> {
  const blocks = uncommitted;
  for (let attempt = 0; attempt < CLOSE_AUDITS_MAX; attempt++) {
    const take = tracker.take().disks.get(disk.id);
    if (take !== undefined) blocks.addAll(take.marked);
    const verdict = tracker.audit(disk.id);
    if (verdict.kind === 'series-ended') return { blocks, unbalanced: verdict.reason };
    if (verdict.kind === 'balanced' && tracker.markedCount(disk.id) === 0) return { blocks, unbalanced: null };
    if (verdict.kind === 'recopy') blocks.addAll(verdict.blocks);
    await clock.sleep(UNTOUCHED_LOOK_MS);
  }
  return { blocks, unbalanced: 'writes went on landing' };
}
