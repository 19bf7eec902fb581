/**
 * Where two contents of a disk differ, from their hashes alone. A copy that begins with another point than the chain's newest needs it: the chain is
 * linear, so the copy's first own point must hold the whole way back to what the copy really is.
 */
import { BlockSet } from '../../shared/blocks/block-set.js';
import { segmentBlocks } from '../../shared/blocks/geometry.js';
import type { PointContent } from '../volume/content.js';
import { cancelled } from '../volume/plan-point.js';

type Open = () => Promise<PointContent>;

/** Blocks of the copy's content that are not those of the newest point. Both have the same blocks. Throws what opening and reading them throws. */
export async function differences(openCopy: Open, openNewest: Open, signal: AbortSignal): Promise<BlockSet> {
  const [copy, newest] = [await openCopy(), await openNewest()];
  const found = new BlockSet();
  for (let segment = 0; segment < copy.geometry.segmentCount; segment++) {
    if (signal.aborted) throw cancelled('comparing the points');
    const { first, count } = segmentBlocks(copy.geometry, segment);
    const [mine, theirs] = await Promise.all([copy.hashes(first, count), newest.hashes(first, count)]);
    for (let i = 0; i < count; i++) if (mine[i] !== theirs[i]) found.add(first + i);
  }
  return found;
}
