/**
 * Which clusters of a disk hold anything but zeroes at a plan's point: from the layers' indexes alone, each loaded once.
 */
import { BlockSet } from '../../shared/blocks/block-set.js';
import { bytesOfBlocks } from '../../shared/blocks/geometry.js';
import { ZERO_HASH } from '../../shared/blocks/hash.js';
import { messageOf } from '../../shared/errors.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import { RESTORE_WORKERS } from '../../shared/limits.js';
import type { LayerReader } from './layer-reader.js';
import { cancelled } from './plan-point.js';
import type { Progress } from './progress.js';
import type { PlanUnit, ReadPlan } from './read-plan.js';
import { runsOf, workOf } from './unit-work.js';

/** What a target may ask before it is laid out. */
export interface LayOutContext {
  readonly reader: LayerReader;
  readonly plan: ReadPlan;
  readonly progress: Progress;
  readonly signal: AbortSignal;
}

/** `clusterBytes`: a multiple of the block size. */
export async function dataClusters(context: LayOutContext, clusterBytes: number): Promise<BlockSet> {
  const { reader, plan, progress, signal } = context;
  const blocksPerCluster = clusterBytes / plan.geometry.blockBytes;
  const clusters = new BlockSet();
  const queue = plan.units.values();
  let failure: Error | undefined;
  const worker = async (): Promise<void> => {
    for (const unit of queue) {
      if (failure !== undefined) return;
      if (signal.aborted) throw cancelled('restore');
      if (unit.kind !== 'zero') addData(clusters, await reader.index(unit.layer), plan, unit, blocksPerCluster);
      for (const [first, count] of runsOf(plan, unit)) progress.add(bytesOfBlocks(plan.geometry, first, count));
    }
  };
  const run = (): Promise<void> =>
    worker().catch((error: unknown) => {
      failure ??= error instanceof Error ? error : new Error(messageOf(error));
    });
  await Promise.all(Array.from({ length: RESTORE_WORKERS }, run));
  if (failure !== undefined) throw failure;
  return clusters;
}

function addData(
  clusters: BlockSet,
  index: LayerIndex,
  plan: ReadPlan,
  unit: PlanUnit,
  blocksPerCluster: number,
): void {
  for (const piece of workOf(plan, unit, index).pieces) {
    for (let i = 0; i < piece.count; i++) {
      if (index.hashes[piece.hashAt + i] === ZERO_HASH) continue;
      clusters.add(Math.floor((piece.first + i) / blocksPerCluster));
    }
  }
}
