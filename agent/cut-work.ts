/**
 * What a final cut does with the disks: commits points, flushes, and finds out whether anything was written since.
 */
import { SeriesEnded } from './cycle/machine-cycle.js';
import type { CycleResult } from './cycle/machine-cycle.js';
import type { AbsentDisk } from './disks/absent.js';
import type { Sysfs } from './disks/sysfs.js';
import type { CutWork } from './final-cut.js';
import { changedBlocks } from './hello.js';
import { syncFilesystems } from './machine-quiesce.js';
import type { OpenedDisk } from './open-disk.js';
import type { MarkTracker } from './tracker/tracker.js';

/** Why a point of now would not hold the whole machine; null: it would. */
export function whyNotProtected(disks: readonly OpenedDisk[], absent: readonly AbsentDisk[]): string | null {
  const away = absent[0];
  if (away !== undefined) return `disk ${away.path} can't be copied: ${away.reason}`;
  const behind = disks.find(({ disk }) => !disk.isReady || !disk.inPoints);
  return behind === undefined ? null : `disk ${behind.disk.device} is not protected yet (${behind.disk.state})`;
}

export function cutWork(
  disks: readonly OpenedDisk[],
  {
    tracker,
    sysfs,
    absent,
  }: { readonly tracker: MarkTracker | null; readonly sysfs: Sysfs; readonly absent: readonly AbsentDisk[] },
  makePoint: () => Promise<CycleResult>,
): CutWork {
  const sources = disks.map((d) => d.inspected.source);
  return {
    whyNot: () => whyNotProtected(disks, absent),
    cycle: async () => (await makePoint()).point,
    flush: () => syncFilesystems(sysfs, sources),
    written: async () => {
      for (const { disk, still } of disks) {
        if (still !== null && !(await still.isUnchanged())) return `${disk.device} was written`;
        if (still !== null || tracker === null) continue;
        const blocks = changedBlocks(disk, tracker);
        if (blocks > 0) return `${blocks} blocks of ${disk.device} were written`;
        const verdict = tracker.audit(disk.id);
        // What went unseen stands in the tracker's maps and comes back with the next comparison.
        if (verdict.kind === 'series-ended') throw new SeriesEnded(disk.id, verdict.reason);
        if (verdict.kind === 'recopy') {
          disk.carry.addAll(verdict.blocks);
          return `writes to ${disk.device} went unseen`;
        }
      }
      return null;
    },
  };
}
