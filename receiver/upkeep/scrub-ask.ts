/**
 * Asks a machine's agent for blocks once more, in orders of a bounded size. What can be asked for is what the newest point needs: nothing else is on
 * the source any more.
 */
import type { BlockSet } from '../../shared/blocks/block-set.js';
import { RESEND_BLOCKS_MAX, RESEND_EXTENTS_MAX } from '../../shared/limits-scrub.js';
import type { DiskId } from '../../shared/units.js';
import type { RepairDeps } from './scrub-repair.js';

/** Resolves to the last point that holds some of them. Throws code `home-absent` when the agent is not there. */
export async function askFor({ ask, log }: RepairDeps, disk: DiskId, blocks: BlockSet): Promise<number | null> {
  log.info({ disk, blocks: blocks.size }, 'damaged blocks are asked of the agent');
  let point: number | null = null;
  for (const part of partsOf(blocks)) point = (await ask(disk, part)).point;
  return point;
}

function* partsOf(blocks: BlockSet): Generator<[number, number][]> {
  let part: [number, number][] = [];
  let size = 0;
  for (const { first, count } of blocks.extents()) {
    for (let at = first; at < first + count;) {
      const n = Math.min(first + count - at, RESEND_BLOCKS_MAX - size);
      part.push([at, n]);
      size += n;
      at += n;
      if (size < RESEND_BLOCKS_MAX && part.length < RESEND_EXTENTS_MAX) continue;
      yield part;
      part = [];
      size = 0;
    }
  }
  if (part.length > 0) yield part;
}
