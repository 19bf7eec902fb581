/**
 * Whether a recovery point is the whole machine, and what follows when it isn't. Pure.
 *
 * A point that was made while a protected disk was away, or unreadable, lacks that disk: a machine that is started from it misses the disk. Nobody gets such
 * a point for asking for the latest, or for one of a time: by its number, or by naming the disk that may be missing. A disk that was given up
 * (`unprotect`) is not lacking.
 */
import { AfterimageError, usageError } from '../../shared/errors.js';
import type { DiskId } from '../../shared/units.js';
import type { Manifest, RecoveryPoint } from './manifest.js';
import type { PointSelector } from './point-selector.js';

export interface LackingDisk {
  readonly id: DiskId;
  readonly device: string;
  /** The last point that has it. */
  readonly lastPoint: number;
}

type Disks = Pick<Manifest, 'disks'>;

/** Disks that the point lacks; one that no point has yet can't be missed. */
export function lackingDisks({ disks }: Disks, point: Pick<RecoveryPoint, 'without'>): LackingDisk[] {
  return disks
    .filter(({ id, lastPoint }) => lastPoint > 0 && point.without?.includes(id) === true)
    .map(({ id, device, lastPoint }) => ({ id, device, lastPoint }));
}

/** Disks that no point has: their first copy isn't complete, or they were given up before it was. */
export const unpointedDisks = ({ disks }: Disks): LackingDisk[] =>
  disks.filter(({ lastPoint }) => lastPoint === 0).map(({ id, device, lastPoint }) => ({ id, device, lastPoint }));

export const lackingText = (disks: readonly LackingDisk[]): string =>
  `${disks.length === 1 ? 'disk' : 'disks'} ${disks.map(({ id, device }) => `${device} (${id})`).join(', ')}`;

/** Ids of the disks that may be missing; words are ids, or devices as the receiver shows them. Throws kind `usage` for others. */
export function disksNamed({ disks }: Disks, words: readonly string[]): DiskId[] {
  return words.map((word) => {
    const found = disks.find(({ id, device }) => id === word || device === word);
    if (found !== undefined) return found.id;
    throw usageError(`the machine has no disk ${word}`, `Its disks: ${disks.map(({ id }) => id).join(', ')}.`);
  });
}

/** Disks for which a point that was found by this selector must not be taken; empty: take it. */
export function missing(
  manifest: Disks,
  point: Pick<RecoveryPoint, 'without'>,
  selector: PointSelector,
  mayLack: readonly DiskId[],
): LackingDisk[] {
  if (selector.by === 'number') return [];
  return lackingDisks(manifest, point).filter(({ id }) => !mayLack.includes(id));
}

/** Whether a point has what another lacks, and lacks nothing itself. */
export const hasAll = (
  manifest: Disks,
  point: Pick<RecoveryPoint, 'without' | 'disks'>,
  disks: readonly LackingDisk[],
): boolean =>
  lackingDisks(manifest, point).length === 0 && disks.every(({ id }) => point.disks.some(({ disk }) => disk === id));

/** `complete`: the newest point of the kind that lacks nothing. */
export function lacksDisks(
  point: Pick<RecoveryPoint, 'number' | 'reason'>,
  disks: readonly LackingDisk[],
  complete: number | null,
): AfterimageError {
  const older = complete === null ? 'no older point has all disks' : `the newest point with all disks is ${complete}`;
  const byNumber =
    complete === null ? `${point.number} for this one` : `${complete} for that one, ${point.number} for this one`;
  return new AfterimageError(`point ${point.number} lacks ${lackingText(disks)}; ${older} (${point.reason})`, {
    code: 'point-lacks-disk',
    kind: 'usage',
    hint: `Name the point by its number (${byNumber}), or say that it may be missing: ${disks.map(({ id }) => `--without-disk ${id}`).join(' ')}.`,
  });
}
