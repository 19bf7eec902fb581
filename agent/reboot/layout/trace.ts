/**
 * Where on a disk a trace must be left by whoever uses it: superblocks, heads of logs, tables, in all that lies on it. When something lies there
 * whose use leaves no trace at a known place, there is doubt. Reads the disk, changes nothing.
 */
import { MIB } from '../../../shared/units.js';
import { shifted, type ReadAt } from './bytes.js';
import { lvmLayout } from './lvm.js';
import { SIGNATURE_BYTES, signatureOf, type Signature } from './signature.js';
import { xfsLogRanges, type Range } from './xfs-log.js';

export type { Range };
export type Trace = { readonly ranges: readonly Range[] } | { readonly doubt: string };

/** Tables of partitions, labels and metadata of volume groups lie within these ends of a disk. */
const END_BYTES = MIB;
const EXT_SUPERBLOCK: Range = { offset: 0, length: 4096 };
const XFS_SUPERBLOCK: Range = { offset: 0, length: 4096 };

export interface Partition {
  readonly name: string;
  readonly offset: number;
  readonly sizeBytes: number;
}

/** `partitions`: those that the kernel shows of this very device. */
export function traceOf(read: ReadAt, sizeBytes: number, partitions: readonly Partition[]): Trace {
  const ends: Range[] = [
    { offset: 0, length: Math.min(END_BYTES, sizeBytes) },
    { offset: Math.max(0, sizeBytes - END_BYTES), length: Math.min(END_BYTES, sizeBytes) },
  ];
  const inside = traceWithin(read, partitions);
  return 'doubt' in inside ? inside : { ranges: [...ends, ...inside.ranges] };
}

function traceWithin(read: ReadAt, partitions: readonly Partition[]): Trace {
  const signature = signatureOf(read(0, SIGNATURE_BYTES));
  if (signature.kind !== 'table') return contentTrace(read, signature);
  if (partitions.length === 0) return { doubt: 'a table of partitions that this kernel does not show' };
  return all(partitions, ({ name, offset }) => {
    const within = shifted(read, offset);
    const trace = contentTrace(within, signatureOf(within(0, SIGNATURE_BYTES)));
    return 'doubt' in trace ? { doubt: `${name}: ${trace.doubt}` } : moved(trace.ranges, offset);
  });
}

function contentTrace(read: ReadAt, signature: Signature): Trace {
  switch (signature.kind) {
    case 'ext':
      return signature.isClean ? { ranges: [EXT_SUPERBLOCK] } : { doubt: 'an ext filesystem that was not unmounted' };
    case 'btrfs':
      // A mount elsewhere that changed nothing left its superblock as it was (seen): it tells too little.
      return { doubt: 'a btrfs filesystem' };
    case 'xfs': {
      const log = xfsLogRanges(read);
      return log === null
        ? { doubt: 'an XFS filesystem with its log elsewhere' }
        : { ranges: [XFS_SUPERBLOCK, ...log] };
    }
    case 'lvm':
      return volumesTrace(read);
    case 'table':
      return { doubt: 'a table of partitions within another' };
    case 'other':
      return { doubt: signature.what };
  }
}

function volumesTrace(read: ReadAt): Trace {
  const layout = lvmLayout(read);
  if ('doubt' in layout) return layout;
  if (layout.volumes.length === 0) return { doubt: 'a physical volume without logical volumes' };
  return all(layout.volumes, ({ name, offset, length }) => {
    const within = shifted(read, offset);
    const signature = signatureOf(within(0, Math.min(length, SIGNATURE_BYTES)));
    if (signature.kind === 'lvm') return { doubt: `${name}: volumes within a volume` };
    const trace = contentTrace(within, signature);
    if ('doubt' in trace) return { doubt: `${name}: ${trace.doubt}` };
    // Beyond its first piece a volume goes on somewhere else.
    if (trace.ranges.some((range) => range.offset + range.length > length)) {
      return { doubt: `${name}: what is to be looked at does not lie in one piece` };
    }
    return moved(trace.ranges, offset);
  });
}

const moved = (ranges: readonly Range[], by: number): Trace => ({
  ranges: ranges.map(({ offset, length }) => ({ offset: offset + by, length })),
});

function all<T>(items: readonly T[], traceOfItem: (item: T) => Trace): Trace {
  const ranges: Range[] = [];
  for (const item of items) {
    const trace = traceOfItem(item);
    if ('doubt' in trace) return trace;
    ranges.push(...trace.ranges);
  }
  return { ranges };
}
