/**
 * At boot, before filesystems of data disks are mounted: goes on with the series of each disk that was closed at shutdown, if it is proven that
 * nobody has written to it since. The proof: the note is of the boot before, and recent; superblocks and heads of logs are as they were; and with
 * tracking on, the kernel has counted no write in this boot. Else nothing is armed, and the agent compares, for the reason that is left for it.
 *
 * Notes are removed before they are believed. After a crash in here nothing goes on, or a series that is proven.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { geometryOf } from '../../shared/blocks/geometry.js';
import { AfterimageError, messageOf } from '../../shared/errors.js';
import { ARM_DISK_POLL_MS, ARM_DISK_WAIT_MS, UNTOUCHED_LOOK_MS } from '../../shared/limits-service.js';
import { inspectDevice, type InspectedDevice } from '../disks/inspect.js';
import { locateDisk } from '../disks/locate.js';
import type { ProtectionList } from '../protection.js';
import type { EbpfTracker } from '../tracker/ebpf/tracker.js';
import { countsOf, type RebootDeps } from './close.js';
import { RawDevice } from './layout/bytes.js';
import { decodeMarks, type ClosedNote, type Note } from './note.js';
import { takeNotes } from './notes-folder.js';
import { encodeOutcome, outcomePath, type DiskOutcome } from './outcome.js';
import { hashTrace } from './trace-reading.js';
import { whyNotBelieved, whyNotTheSame, type Counts } from './verdicts.js';

export interface ArmDeps extends Omit<RebootDeps, 'tracker'> {
  readonly tracker: EbpfTracker | null;
  readonly bootedAtMs: number;
  readonly withinMs: number;
  /** False: the operator wants a comparison after each reboot. */
  readonly goesOn: boolean;
}

export async function armDisks(list: ProtectionList, deps: ArmDeps): Promise<DiskOutcome[]> {
  const { stateDir, runDir, bootId, clock, log } = deps;
  const notes = await takeNotes(stateDir);
  const deadlineMs = clock.monotonicMs() + ARM_DISK_WAIT_MS;
  const outcomes: DiskOutcome[] = [];
  for (const { id } of list.disks) {
    const reason = await whyNotArmed(
      notes.find((note) => note.disk === id),
      list,
      deadlineMs,
      deps,
    );
    outcomes.push({ disk: id, goesOn: reason === null, reason: reason ?? '' });
    if (reason === null) log.info({ disk: id }, 'closed at shutdown and untouched since: tracking goes on');
    else log.warn({ disk: id, reason }, 'a comparison will follow');
  }
  await mkdir(runDir, { recursive: true, mode: 0o700 });
  await writeFile(outcomePath(runDir), encodeOutcome({ bootId, disks: outcomes }));
  return outcomes;
}

const UNCLEAN = 'the machine was not shut down cleanly, or its agent’s units were not there for it';

async function whyNotArmed(
  note: Note | undefined,
  list: ProtectionList,
  deadlineMs: number,
  deps: ArmDeps,
): Promise<string | null> {
  if (note === undefined) return UNCLEAN;
  if (!deps.goesOn) return 'the configuration wants it so (reboot: { continue: false })';
  if (note.state === 'open') return note.reason;
  const unbelieved = whyNotBelieved(note, deps);
  if (unbelieved !== null) return unbelieved;
  try {
    return await goOn(note, list, deadlineMs, deps);
  } catch (error) {
    return `it could not be looked at: ${messageOf(error)}`;
  }
}

async function goOn(note: ClosedNote, list: ProtectionList, deadlineMs: number, deps: ArmDeps): Promise<string | null> {
  const { sysfs, tracker, trackerReason, clock } = deps;
  if (tracker === null) return trackerReason;
  const found = await waitFor(note, list, deadlineMs, deps);
  if (found === null) return `it was not there within ${ARM_DISK_WAIT_MS / 1000} s`;
  const { source, trackable } = found;
  if (source.kind !== 'block' || trackable === null) return found.untrackedReason ?? 'it is not tracked';
  if (found.geometry.sizeBytes !== note.sizeBytes) return 'its size changed';
  const geometry = geometryOf(note.sizeBytes, note.blockBytes);
  const marks = decodeMarks(note.marks, geometry.blockCount);
  tracker.adopt({ ...trackable, geometry }, note.series, marks);
  try {
    const counts: Counts[] = [countsOf(sysfs, source.name)];
    const raw = new RawDevice(source.path);
    let traceSha256: string;
    try {
      traceSha256 = hashTrace(raw.read, note.trace);
    } finally {
      raw.close();
    }
    await clock.sleep(UNTOUCHED_LOOK_MS);
    counts.push(countsOf(sysfs, source.name));
    const reason = whyNotTheSame(note, { sizeBytes: found.geometry.sizeBytes, traceSha256, counts });
    if (reason !== null) tracker.disarm(note.disk);
    return reason;
  } catch (error) {
    tracker.disarm(note.disk);
    throw error;
  } finally {
    tracker.release(note.disk);
  }
}

/** Drivers find disks while the machine boots; a disk that never comes must not hold the boot up. */
async function waitFor(
  { disk }: ClosedNote,
  { kept }: ProtectionList,
  deadlineMs: number,
  { sysfs, clock }: ArmDeps,
): Promise<InspectedDevice | null> {
  for (;;) {
    const path = locateDisk(sysfs, disk, kept);
    const found = path === null ? null : inspected(path, kept, sysfs);
    if (found?.id === disk) return found;
    if (clock.monotonicMs() >= deadlineMs) return null;
    await clock.sleep(ARM_DISK_POLL_MS);
  }
}

const NO_MATCH = 'unknown';

function inspected(path: string, kept: ProtectionList['kept'], sysfs: ArmDeps['sysfs']): InspectedDevice | null {
  try {
    return inspectDevice(path, { sysfs, protectedDisks: [], kept, newUuid: () => NO_MATCH });
  } catch (error) {
    // Its node may come a moment after its folder in /sys.
    if (error instanceof AfterimageError) return null;
    throw error;
  }
}
