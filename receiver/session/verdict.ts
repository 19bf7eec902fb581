/**
 * What has to be sent for a disk: a pure function of what the agent says and what the store holds. Tested as a table.
 */
import type { HelloDisk, Verdict } from '../../shared/wire/messages.js';
import type { DiskEntry } from '../catalog/manifest.js';

export interface DiskVerdict {
  readonly verdict: Verdict;
  readonly reason: string;
}

export interface DiskRefusal {
  readonly refused: 'unrelated';
  readonly reason: string;
}

export interface VerdictInput {
  readonly disk: HelloDisk;
  /** What the manifest knows of the disk; null when it is new. */
  readonly entry: DiskEntry | null;
  /** Staged layers that the store holds and that the agent knows of; null when the agent knows of more than there are. */
  readonly stagedLayers: number | null;
  /** Check value of the key of the agent's hashes; absent: they are plain. */
  readonly hashCheck?: string;
  /** The agent's commit in doubt is the last that succeeded here. */
  readonly inDoubtCommitted: boolean;
}

export function diskVerdict(input: VerdictInput): DiskVerdict | DiskRefusal {
  const { disk, entry } = input;
  const stagedLost = input.stagedLayers === null;
  if (entry === null || entry.lastPoint === 0) {
    if (disk.committedPoint > 0) {
      return unrelated(
        `the agent committed point ${disk.committedPoint} of disk ${disk.id}, this store has none of it`,
      );
    }
    if (disk.sweep !== null && !stagedLost) {
      return { verdict: 'resume', reason: `${disk.sweep.kind} goes on at segment ${disk.sweep.nextSegment}` };
    }
    return {
      verdict: 'full',
      reason: stagedLost ? 'first copy starts again: staged layers are missing in the store' : 'first copy',
    };
  }
  if (disk.blockBytes !== entry.blockBytes) {
    return unrelated(`disk ${disk.id} has blocks of ${disk.blockBytes} bytes, its points have ${entry.blockBytes}`);
  }
  if (disk.sizeBytes < entry.sizeBytes) {
    return unrelated(
      `disk ${disk.id} shrank from ${entry.sizeBytes} to ${disk.sizeBytes} bytes; protect it anew as another disk`,
    );
  }
  const known = input.inDoubtCommitted ? entry.lastPoint : disk.committedPoint;
  if (known > entry.lastPoint) {
    return unrelated(
      `the agent committed point ${disk.committedPoint} of disk ${disk.id}, this store has points up to ${entry.lastPoint}`,
    );
  }
  const doubt = doubtReason(input, entry, known);
  if (doubt !== null) {
    // What an older agent had staged belongs to an older point.
    if (disk.sweep?.kind === 'comparison' && !stagedLost && known === entry.lastPoint) {
      return { verdict: 'resume', reason: `comparison goes on at segment ${disk.sweep.nextSegment}` };
    }
    return { verdict: 'compare', reason: doubt };
  }
  if (disk.sweep !== null) return { verdict: 'resume', reason: `sweep goes on at segment ${disk.sweep.nextSegment}` };
  if (disk.changedBlocks === 0) return { verdict: 'nothing', reason: `nothing changed since point ${entry.lastPoint}` };
  return { verdict: 'delta', reason: `changes since point ${entry.lastPoint} are tracked` };
}

const unrelated = (reason: string): DiskRefusal => ({ refused: 'unrelated', reason });

/** Why tracked changes alone would not do; null when they do. */
function doubtReason(input: VerdictInput, entry: DiskEntry, known: number): string | null {
  const { disk, stagedLayers, hashCheck = '' } = input;
  if (hashCheck !== (entry.hashCheck ?? '')) {
    if (hashCheck === '') return 'the source does not encrypt any more: its block hashes are others now';
    return entry.hashCheck === undefined
      ? 'the source encrypts from now on: its block hashes are others now'
      : 'the source encrypts with another hash key: its block hashes are others now';
  }
  if (disk.series === null) return 'this disk has no change tracking: all of it is compared';
  if (disk.series !== entry.series) return 'change tracking was interrupted since the last point';
  if (known < entry.lastPoint)
    return `the agent knows point ${known}, the store has ${entry.lastPoint}: its state is older`;
  if (stagedLayers === null) return 'staged layers are missing in the store';
  if (disk.sizeBytes !== entry.sizeBytes)
    return `the disk was resized from ${entry.sizeBytes} to ${disk.sizeBytes} bytes`;
  return null;
}
