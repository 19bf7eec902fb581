/** Which chunks of a layer are one run of blocks of the disk, from their first byte to their last: they can be decompressed where they belong. Pure. */
import type { Extent } from '../../shared/blocks/block-set.js';
import type { LayerIndex } from '../../shared/layer/layer.js';

/** Chunks by number; those that are several runs are left out. Blocks of zeroes that are stored as data count as any other. */
export function wholeRuns(index: LayerIndex): Map<number, Extent> {
  const runs = new Map<number, Extent>();
  const several = new Set<number>();
  for (let entry = 0; entry < index.first.length; entry++) {
    if (index.zero[entry] === 1) continue;
    const chunk = index.chunk[entry] ?? 0;
    const [first, count] = [index.first[entry] ?? 0, index.count[entry] ?? 0];
    const position = index.position[entry] ?? 0;
    const known = runs.get(chunk);
    if (known === undefined && position === 0) runs.set(chunk, { first, count });
    else if (known !== undefined && first - known.first === position && known.count === position)
      runs.set(chunk, { first: known.first, count: known.count + count });
    else several.add(chunk);
  }
  for (const chunk of several) runs.delete(chunk);
  return runs;
}
