/**
 * Finds and reads the traces of a device's use.
 */
import { createHash } from 'node:crypto';
import { TRACE_BYTES_MAX } from '../../shared/limits-service.js';
import { SECTOR_BYTES } from '../../shared/units.js';
import type { Sysfs } from '../disks/sysfs.js';
import type { ReadAt } from './layout/bytes.js';
import { traceOf, type Partition, type Range, type Trace } from './layout/trace.js';

export function findTrace(sysfs: Sysfs, name: string, read: ReadAt): Trace {
  const device = sysfs.device(name);
  if (device === null) return { doubt: 'nothing: it is gone' };
  const partitions = device.partitions.flatMap((partition): Partition[] => {
    const found = sysfs.device(partition);
    if (found === null) return [];
    return [{ name: partition, offset: found.startSector * SECTOR_BYTES, sizeBytes: found.sectorCount * SECTOR_BYTES }];
  });
  const trace = traceOf(read, device.sectorCount * SECTOR_BYTES, partitions);
  if ('doubt' in trace) return trace;
  const bytes = trace.ranges.reduce((sum, { length }) => sum + length, 0);
  return bytes > TRACE_BYTES_MAX ? { doubt: 'too many volumes to look at each at boot' } : trace;
}

export function hashTrace(read: ReadAt, ranges: readonly Range[]): string {
  const hash = createHash('sha256');
  for (const { offset, length } of ranges) hash.update(read(offset, length));
  return hash.digest('hex');
}
