/**
 * Makes a read plan from what the store holds: loads the indexes that the planner needs, newest first, a few ahead.
 */
import { geometryOf } from '../../shared/blocks/geometry.js';
import { checksum64, digestToText } from '../../shared/blocks/hash.js';
import { AfterimageError } from '../../shared/errors.js';
import type { PointDisk } from '../catalog/reader.js';
import type { LayerReader } from './layer-reader.js';
import { loadIndexes } from './load-indexes.js';
import { ReadPlanner, type PointLayers, type ReadPlan } from './read-plan.js';

export async function planPoint(
  reader: LayerReader,
  disk: PointDisk,
  layers: PointLayers,
  signal?: AbortSignal,
): Promise<ReadPlan> {
  const planner = new ReadPlanner(geometryOf(disk.sizeBytes, disk.blockBytes), layers.bases);
  const deltas = planner.relevant(layers.deltas);
  for await (const [delta, index] of loadIndexes(reader, deltas)) {
    if (signal?.aborted) throw cancelled('planning');
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
