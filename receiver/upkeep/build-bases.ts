/**
 * Builds bases: all of a segment at one point, from the base before and the layers over it, each proven as merges are. Writes layers and the list that names
 * them; the caller commits. On a crash they are orphans.
 */
import type { DiskId } from '../../shared/units.js';
import type { LayerRef, ListRef } from '../catalog/manifest.js';
import { writeLayerList } from '../catalog/manifest-io.js';
import { layerListName } from '../catalog/names.js';
import { compareLayers } from '../volume/read-plan.js';
import type { BasePlan, BaseStep } from './base-plan.js';
import type { DiskHistory } from './history.js';
import { basesAt } from './layer-stats.js';
import { indexesOf, readerOf, writeWinners, type MergeDeps } from './merge-layers.js';
import { blocksPerSegment } from './disk-loads.js';
import { winnersOf, type IndexedLayer, type Winner } from './winners.js';

export interface BuiltBases {
  readonly before: ListRef | null;
  readonly after: ListRef;
  readonly built: readonly LayerRef[];
  readonly readBytes: number;
  readonly writtenBytes: number;
}

export async function buildBases(
  deps: MergeDeps,
  disk: DiskId,
  history: DiskHistory,
  plan: BasePlan,
): Promise<BuiltBases> {
  const { entry } = history;
  const reader = readerOf(deps, disk, entry.blockBytes);
  const built: LayerRef[] = [];
  let readBytes = 0;
  let writtenBytes = 0;
  for (const point of new Set(plan.steps.map((step) => step.point))) {
    const steps = plan.steps.filter((step) => step.point === point);
    const layers = history.deltas.filter((layer) => layer.lastPoint <= point && touches(layer, steps));
    const indexed = await indexesOf(reader, layers);
    const bases = basesAt(history.bases, point);
    for (const { segment } of steps) {
      const base = bases.get(segment);
      const under = base === undefined ? [] : await indexesOf(reader, [base]);
      const winners = winnersIn(segment, entry.blockBytes, under, indexed);
      const made = await writeWinners(deps, reader, winners, {
        disk,
        blockBytes: entry.blockBytes,
        kind: 'base',
        segment,
        firstPoint: point,
        lastPoint: point,
      });
      built.push(...made.layers);
      readBytes += made.readBytes;
      writtenBytes += made.writtenBytes;
    }
  }
  const retired = new Set(plan.retired);
  const layers = [...history.listedBases.filter((base) => !retired.has(base)), ...built];
  const { owned, store, nextSequence = owned.nextSequence } = deps;
  const name = layerListName(owned.manifest.machine.id, disk, owned.epoch, nextSequence());
  const after = await writeLayerList(store, name, layers.sort(compareLayers));
  return { before: entry.bases, after, built, readBytes, writtenBytes };
}

/** A layer of a cycle may hold blocks of any segment. */
const touches = (layer: LayerRef, steps: readonly BaseStep[]): boolean =>
  layer.segment === null || steps.some((step) => step.segment === layer.segment);

function winnersIn(
  segment: number,
  blockBytes: number,
  under: readonly IndexedLayer[],
  over: readonly IndexedLayer[],
): Winner[] {
  const count = blocksPerSegment(blockBytes);
  const [base] = under;
  const layers = base === undefined ? over : over.filter(({ layer }) => compareLayers(layer, base.layer) > 0);
  const winners = winnersOf([...under, ...layers], { within: { first: segment * count, count } });
  // What a base lacks is zero: runs that say so are of no use in it.
  return winners
    .map((winner) => ({ ...winner, work: { pieces: winner.work.pieces, zeroes: [] } }))
    .filter((winner) => winner.work.pieces.length > 0);
}
