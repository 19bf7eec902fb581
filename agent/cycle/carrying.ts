/**
 * A take empties the marks of all disks at once. Those of disks that take no part in the cycle (amid their first copy, or failed) are carried over to
 * the cycle in which they do: without this, what is written to them behind a sweep would be in no point.
 */
import type { MarkTracker, Take } from '../tracker/tracker.js';
import type { ProtectedDisk } from './protected-disk.js';

export type CycleTracker = Pick<MarkTracker, 'take' | 'audit' | 'committed' | 'markedCount'>;

export function carrying(tracker: MarkTracker, bystanders: readonly ProtectedDisk[]): CycleTracker {
  return {
    take: (): Take => {
      const take = tracker.take();
      for (const disk of bystanders) {
        const marked = take.disks.get(disk.id)?.marked;
        if (marked !== undefined) disk.carry.addAll(marked);
      }
      return take;
    },
    markedCount: (id) => tracker.markedCount(id),
    audit: (id) => tracker.audit(id),
    committed: (id, carried) => tracker.committed(id, carried),
  };
}
