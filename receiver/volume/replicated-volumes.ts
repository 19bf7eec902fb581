/**
 * Whether volumes are the disks of a machine's newest point, and of those that it lacks: only then can a point be made of them that is the whole machine. Pure.
 */
import type { Geometry } from '../../shared/blocks/geometry.js';
import { AfterimageError } from '../../shared/errors.js';
import type { Manifest, RecoveryPoint } from '../catalog/manifest.js';
import type { PointDisk } from '../catalog/reader.js';
import type { PointContent } from './content.js';
import type { CutSource } from './cut.js';

export interface CheckedVolume {
  readonly source: CutSource;
  readonly reference: PointContent | null;
  readonly device: string;
  /** The disk's entry where its chain ends. */
  readonly end?: PointDisk;
}

const sameGeometry = (a: Pick<Geometry, 'sizeBytes' | 'blockBytes'>, b: Pick<Geometry, 'sizeBytes' | 'blockBytes'>) =>
  a.sizeBytes === b.sizeBytes && a.blockBytes === b.blockBytes;

/** The newest point. Throws kind `refused`, code `volumes-differ`, when the volumes are not its disks. */
export function checkVolumes(manifest: Manifest, volumes: readonly CheckedVolume[]): RecoveryPoint {
  const { name } = manifest.machine;
  const refuse = (what: string): never => {
    throw new AfterimageError(`the running copy of machine ${name} can't be replicated: ${what}`, {
      code: 'volumes-differ',
      kind: 'refused',
      hint: 'A point is always the whole machine: open a volume for each disk of its newest point.',
    });
  };
  const point = manifest.tail.points.at(-1);
  if (point === undefined || point.number !== manifest.lastPoint) return refuse('its newest point is not known');
  for (const { disk } of point.disks) {
    const count = volumes.filter((v) => v.source.disk === disk).length;
    if (count !== 1) refuse(`${count} volumes for disk ${disk} of point ${point.number}`);
  }
  for (const { source, reference, device, end } of volumes) {
    const lacked = point.without?.includes(source.disk) === true ? end : undefined;
    const at = point.disks.find((d) => d.disk === source.disk) ?? lacked;
    if (at === undefined) return refuse(`point ${point.number} has no disk ${source.disk} (${device})`);
    if (!sameGeometry(source.geometry, at) || !sameGeometry(reference?.geometry ?? at, at)) {
      refuse(
        `disk ${source.disk} (${device}) has another size, or blocks of another size, than at point ${point.number}`,
      );
    }
  }
  return point;
}
