/**
 * What `afterimage serve` says to people: what is served where, and how to look at it. Pure.
 */
import { formatBytes } from '../../shared/units.js';

export interface ServedDisk {
  readonly disk: string;
  readonly sizeBytes: number;
  readonly uri: string;
}

export interface Served {
  readonly machine: string;
  readonly point: number;
  readonly cutAt: string;
  readonly disks: readonly ServedDisk[];
  readonly writable: boolean;
  readonly keep: boolean;
  readonly continued: boolean;
  readonly folder: string;
  readonly tls: boolean;
}

const CERTIFICATES = './certificates';

function writesText({ writable, keep, continued, folder }: Served): string {
  if (!writable) return 'read-only';
  if (!keep) return 'writable; writes are thrown away at the end';
  return `writable; writes are kept in ${folder}${continued ? ', with those of before' : ''}`;
}

export function servedText(served: Served): string {
  const count = served.disks.length === 1 ? '1 disk' : `${served.disks.length} disks`;
  const lines = [
    `${served.machine}, point ${served.point} of ${served.cutAt}: ${count}, ${writesText(served)}`,
    ...served.disks.map((d) => `  ${d.disk}  ${formatBytes(d.sizeBytes)}  ${d.uri}`),
    ...examples(served),
    'Ctrl-C ends it.',
  ];
  return lines.map((line) => `${line}\n`).join('');
}

function examples({ disks: [first], writable, tls }: Served): string[] {
  if (first === undefined) return [];
  const uri = tls ? `${first.uri}?tls-certificates=${CERTIFICATES}` : first.uri;
  return [
    'Try:',
    ...(tls ? [`  afterimage-receiver volume-certificate NAME --out ${CERTIFICATES}`] : []),
    `  nbdinfo '${uri}'`,
    `  nbdcopy '${uri}' ${first.disk}.raw`,
    ...(tls
      ? []
      : [
          `  qemu-system-x86_64 -m 2G -drive 'file=${first.uri},format=raw,if=virtio${writable ? '' : ',snapshot=on'}'`,
        ]),
  ];
}

/** At the end. */
export const keptText = (machine: string, point: number, folder: string): string =>
  `Kept in ${folder}. Go on with: afterimage serve ${machine} --point ${point} --writable --keep --state ${folder}\n`;
