/**
 * Which point a copy begins with: found by the operator's word, and proven to be readable as far as that can be had in seconds.
 */
import { AfterimageError } from '../../shared/errors.js';
import type { MachineId } from '../../shared/units.js';
import type { RecoveryPoint } from '../catalog/manifest.js';
import { parsePointSelector } from '../catalog/point-selector.js';
import { MachineReader } from '../catalog/reader.js';
import { lackingDisks } from '../catalog/whole-machine.js';
import type { FailoverParts } from './parts.js';

export interface ChosenPoint {
  readonly view: MachineReader;
  readonly point: RecoveryPoint;
}

/** The operator's words. */
export interface PointWords {
  readonly point: string;
  /** Disks that it may lack. */
  readonly withoutDisks?: readonly string[] | undefined;
}

/** Opens each disk of the point, which reads and checks what its layers' indexes need. Changes nothing. */
export async function choosePoint(
  parts: FailoverParts,
  machine: MachineId,
  words: PointWords,
  signal: AbortSignal,
): Promise<ChosenPoint> {
  const view = await MachineReader.open(parts.store, machine);
  const point = await view.findWhole(parsePointSelector(words.point), words.withoutDisks ?? []);
  for (const disk of point.disks) await parts.openContent(view, point, disk, signal);
  return { view, point };
}

/** Words that mean "as new as possible": they may be answered again as long as newer points come. */
export const isNewest = (word: string): boolean => parsePointSelector(word).by === 'latest';

/**
 * A copy that replicates goes on with the chain: its disks must be those that the chain has now. Of a disk that the newest point lacks, the chain ends with
 * the last point that has it. A point of other disks or sizes can be tested and restored, but nothing can be added to the chain from it.
 */
export async function checkContinues(view: MachineReader, point: RecoveryPoint): Promise<void> {
  const newest = view.manifest.tail.points.at(-1) ?? point;
  const text = (disks: RecoveryPoint['disks']): string =>
    disks
      .map((d) => `${d.disk} of ${d.sizeBytes} bytes in blocks of ${d.blockBytes}`)
      .sort()
      .join(', ');
  const ends = [...newest.disks];
  for (const { id } of lackingDisks(view.manifest, newest)) {
    const end = point.disks.some(({ disk }) => disk === id) ? await view.endOf(id) : null;
    if (end !== null) ends.push(end.at);
  }
  if (text(point.disks) === text(ends)) return;
  throw new AfterimageError(
    `point ${point.number} has other disks (${text(point.disks)}) than the newest point ${newest.number} (${text(ends)})`,
    {
      code: 'point-geometry',
      kind: 'refused',
      hint: 'Choose a newer point, or use this one by `test-failover`, `restore` or `materialise`.',
    },
  );
}
