/**
 * Makes a read plan from what the store holds: loads the indexes that the planner needs, newest first, a few ahead.
 */
import { geometryOf } from '../../shared/blocks/geometry.js';
import { checksum64, digestToText } from '../../shared/blocks/hash.js';
import { AfterimageError } from '../../shared/errors.js';
import { INDEX_PREFETCH } from '../../shared/limits.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import type { PointDisk } from '../catalog/reader.js';
import type { LayerReader } from './layer-reader.js';
import { ReadPlanner, type PointLayers, type ReadPlan } from './read-plan.js';

export async function planPoint(
  reader: LayerReader,
  disk: PointDisk,
  layers: PointLayers,
  signal?: AbortSignal,
): Promise<ReadPlan> {
  const planner = new ReadPlanner(geometryOf(disk.sizeBytes, disk.blockBytes), layers.bases);
  const deltas = planner.relevant(layers.deltas);
  const loading: Promise<LayerIndex>[] = [];
  const load = (i: number): void => {
    const delta = deltas[i];
    if (delta === undefined) return;
    const index = reader.index(delta);
    // Awaited in its turn below; until then a failure must not count as unhandled.
    index.catch(() => undefined);
    loading.push(index);
  };
  for (let i = 0; i < INDEX_PREFETCH; i++) load(i);
  for (const [i, delta] of deltas.entries()) {
    if (signal?.aborted) throw cancelled('planning');
    const index = await (loading.shift() ?? reader.index(delta));
    load(i + INDEX_PREFETCH);
    planner.addDelta(delta, index);
  }
  return planner.finish();
}

/** Two plans with the same fingerprint have the same units in the same order. */
export function planFingerprint(reader: LayerReader, plan: ReadPlan): string {
  let hash = checksum64(Buffer.from(`${plan.geometry.sizeBytes} ${plan.geometry.blockBytes}`));
  for (const unit of plan.units) {
    const of =
      unit.kind === 'zero' ? `zero ${unit.segment}` : `${reader.nameOf(unit.layer)} ${unit.layer.indexChecksum}`;
    hash = checksum64(Buffer.from(`${of} ${unit.blocks}`), hash);
  }
  return digestToText(hash);
}

export const cancelled = (what: string, hint?: string): AfterimageError =>
  new AfterimageError(`${what} was cancelled`, {
    code: 'cancelled',
    kind: 'cancelled',
    ...(hint === undefined ? {} : { hint }),
  });
