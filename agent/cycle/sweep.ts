/**
 * A sweep reads a disk segment by segment and sends what the receiver doesn't have: the first copy (it has nothing), the comparison after
 * tracking was lost, and the bulk part of a very large change. Each segment becomes durable at the receiver by itself ("staged"); its hashes
 * go into the hash store then, so that a sweep resumes at the segment after any crash. No point is made here: a cycle follows.
 */
import type { BlockSet, Extent } from '../../shared/blocks/block-set.js';
import { segmentBlocks } from '../../shared/blocks/geometry.js';
import { isZero, ZERO_HASH } from '../../shared/blocks/hash.js';
import { failpoint } from '../../shared/failpoints.js';
import { SEGMENT_BYTES, SWEEP_SEGMENTS_IN_FLIGHT } from '../../shared/limits.js';
import type { Pace } from '../load/pace.js';
import type { SegmentNumber } from '../../shared/units.js';
import type { ReceiverSession } from '../session/session.js';
import { ChunkSender, type MessagePool } from './chunk-sender.js';
import { knownSegment } from './known-hashes.js';
import type { ProtectedDisk } from './protected-disk.js';
import type { OnBlocks } from './reader.js';

/** No block has it but by a chance of one in 2⁶⁴. */
const NO_HASH = 0xffff_ffff_ffff_ffffn;

export interface SweepContext {
  readonly session: ReceiverSession;
  readonly pool: MessagePool;
  /** Asked before each segment: true interrupts the sweep there (a cycle of other disks is due, or the agent stops). */
  readonly shouldPause: () => boolean;
  /** How fast disks may be read; absent: as fast as they can be. */
  readonly pace?: Pace;
  /** A segment became durable at the receiver. */
  readonly onStaged?: () => void;
}

export interface SweepPlan {
  readonly kind: 'first-copy' | 'comparison' | 'bulk';
  /** Only these blocks; null for all of the disk. */
  readonly only: BlockSet | null;
  readonly firstSegment: SegmentNumber;
}

export type SweepResult = { readonly kind: 'done' } | { readonly kind: 'paused'; readonly nextSegment: SegmentNumber };

export async function sweep(disk: ProtectedDisk, plan: SweepPlan, context: SweepContext): Promise<SweepResult> {
  const target = plan.kind === 'first-copy' ? 'sweep-base' : 'sweep-delta';
  // Each settles after the one before it: segments are staged in order.
  const staging: Promise<void>[] = [];
  const stage = (segment: SegmentNumber, sequence: number, hashes: BigUint64Array, madeLayer: boolean): void => {
    const before = staging[staging.length - 1];
    const staged = (async () => {
      await before;
      await context.session.whenStaged(sequence);
      await disk.store.stageSegment(segment, hashes, madeLayer);
      context.onStaged?.();
      failpoint('agent.sweep.segment-staged');
    })();
    staged.catch(() => undefined);
    staging.push(staged);
  };
  try {
    for (let segment = plan.firstSegment; segment < disk.geometry.segmentCount; segment++) {
      // Here a cycle may come in between: debts are paid before a segment, not amid it.
      await context.pace?.settled();
      if (context.shouldPause()) return { kind: 'paused', nextSegment: segment };
      const extents = extentsOf(disk, plan, segment);
      if (disk.progress !== null)
        disk.progress.processedBytes = Math.min(segment * SEGMENT_BYTES, disk.progress.totalBytes);
      if (extents.length === 0) continue;
      const isCompared = plan.kind !== 'first-copy';
      const known = isCompared ? await knownSegment(disk, context.session, segment) : null;
      const { hashes, chunks } =
        isCompared && known === null
          ? await sendSegment(disk, context, target, segment, [wholeOf(disk, segment)], unlikeAny(disk, segment))
          : await sendSegment(disk, context, target, segment, extents, known);
      failpoint('agent.sweep.segment-read');
      const sequence = await context.session.endSegment(disk.id, segment, target);
      failpoint('agent.sweep.segment-sent');
      stage(segment, sequence, hashes, chunks > 0);
      const oldest = staging[staging.length - SWEEP_SEGMENTS_IN_FLIGHT];
      if (oldest !== undefined) await oldest;
    }
    return { kind: 'done' };
  } finally {
    await Promise.all(staging);
  }
}

function wholeOf(disk: ProtectedDisk, segment: SegmentNumber): Extent {
  const { first, count } = segmentBlocks(disk.geometry, segment);
  return { first, count };
}

/** What nobody knows differs from whatever the disk has. All of them are replaced. */
const unlikeAny = (disk: ProtectedDisk, segment: SegmentNumber): BigUint64Array =>
  new BigUint64Array(wholeOf(disk, segment).count).fill(NO_HASH);

function extentsOf(disk: ProtectedDisk, plan: SweepPlan, segment: SegmentNumber): Extent[] {
  const { first, count } = segmentBlocks(disk.geometry, segment);
  if (plan.only === null) return [{ first, count }];
  const extents: { first: number; count: number }[] = [];
  for (const block of plan.only.blocksIn(first, count)) {
    const last = extents[extents.length - 1];
    if (last !== undefined && last.first + last.count === block) last.count++;
    else extents.push({ first: block, count: 1 });
  }
  return extents;
}

async function sendSegment(
  disk: ProtectedDisk,
  context: SweepContext,
  target: 'sweep-base' | 'sweep-delta',
  segment: SegmentNumber,
  extents: readonly Extent[],
  known: BigUint64Array | null,
): Promise<{ hashes: BigUint64Array; chunks: number }> {
  const { first: segmentFirst, count: segmentCount } = segmentBlocks(disk.geometry, segment);
  const { blockBytes } = disk.geometry;
  const hashes = known ?? new BigUint64Array(segmentCount);
  const sender = new ChunkSender(
    context.session,
    context.pool,
    { index: disk.index, blockBytes, counters: disk.counters, plain: disk, cipher: disk.cipher },
    target,
    segment,
  );
  const onBlocks: OnBlocks = async (buffer, first, count) => {
    // Runs of zeroes are the rule on a half-empty disk: one comparison for the whole read.
    if (known === null && isZero(buffer, 0, count * blockBytes)) return;
    for (let i = 0; i < count; i++) {
      const start = i * blockBytes;
      const block = first + i;
      const at = block - segmentFirst;
      const hash = disk.cipher.hash(buffer, start, blockBytes, block);
      if (hash === (known === null ? ZERO_HASH : hashes[at]) && !(known !== null && disk.resend.has(block))) continue;
      hashes[at] = hash;
      const wait = hash === ZERO_HASH ? sender.addZero(block, 1) : sender.addBlock(block, buffer, start, hash);
      if (wait !== undefined) await wait;
    }
  };
  const totals = await disk.reader.readRuns(
    extents,
    onBlocks,
    context.pace === undefined ? {} : { pace: context.pace },
  );
  disk.counters.readBytes += totals.bytesRead;
  await sender.flush();
  return { hashes, chunks: sender.chunks };
}
