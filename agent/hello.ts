/**
 * What the agent says of itself and its disks at the beginning of a session. Reads states, changes none but each disk's index.
 */
import { ABILITIES, type Hello } from '../shared/wire/messages.js';
import type { ProtectedDisk } from './cycle/protected-disk.js';
import type { OpenedDisk } from './open-disk.js';
import type { MarkTracker } from './tracker/tracker.js';

export type Self = Omit<Hello, 'disks' | 'inDoubtCycle' | 'type'>;

/** Blocks whose content no point holds, as far as is known without reading: those that a running cycle has taken as well. */
export function blocksAtRisk(disk: ProtectedDisk, tracker: MarkTracker | null): number {
  if (disk.cycling === null) return changedBlocks(disk, tracker);
  return changedBlocks(disk, tracker) + disk.cycling.size;
}

/** Blocks that the next point would hold, as far as is known without reading. */
export const changedBlocks = (disk: ProtectedDisk, tracker: MarkTracker | null): number =>
  disk.carry.size + (disk.trackable === null || tracker === null ? 0 : tracker.markedCount(disk.id));

export function helloOf(self: Self, disks: readonly OpenedDisk[], tracker: MarkTracker | null): Hello {
  disks.forEach(({ disk }, index) => (disk.index = index));
  return {
    type: 'hello',
    ...self,
    abilities: [...ABILITIES],
    inDoubtCycle: disks.map(({ disk }) => disk.store.inDoubtCycle).find((c) => c !== null) ?? null,
    disks: disks.map(({ disk }) => ({
      id: disk.id,
      device: disk.device,
      sizeBytes: disk.geometry.sizeBytes,
      blockBytes: disk.geometry.blockBytes,
      series: disk.series,
      tracker: disk.trackable === null ? ('scan' as const) : ('ebpf' as const),
      // 0 while the disk is being restored: whatever comes of that, this agent has no point to go on from.
      committedPoint: disk.store.point,
      committedSeries: disk.store.committedSeries,
      changedBlocks: changedBlocks(disk, tracker),
      hashStore:
        disk.store.unknownSegments === 0 && disk.store.restore === null ? ('valid' as const) : ('none' as const),
      sweep:
        disk.store.sweep === null
          ? null
          : {
              kind: disk.store.sweep.kind,
              nextSegment: disk.store.sweep.nextSegment,
              stagedLayers: disk.store.sweep.stagedLayers,
            },
    })),
  };
}
