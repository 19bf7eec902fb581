/**
 * Carries out a merge: reads the indexes of its inputs, writes the newest copy of each block into new layers, and proves that these hold exactly that:
 * the XOR of the hashes, the number of data blocks and of zero blocks, from the outputs' indexes read back from the store, equal those of the inputs.
 * Changes nothing but to write objects that no manifest names yet: on a crash they are orphans.
 */
import { corrupt, AfterimageError } from '../../shared/errors.js';
import type { LayerIdentity } from '../../shared/layer/layer.js';
import { MERGE_INDEX_BYTES_MAX } from '../../shared/limits-upkeep.js';
import type { DiskId } from '../../shared/units.js';
import type { LayerRef } from '../catalog/manifest.js';
import type { OwnedMachine } from '../catalog/owned-machine.js';
import type { ObjectStore } from '../store/store.js';
import { IndexCache, indexBytes } from '../volume/index-cache.js';
import { LayerReader } from '../volume/layer-reader.js';
import { loadIndexes } from '../volume/load-indexes.js';
import { copyBlocks, type CopyResult } from './copy-blocks.js';
import { LayerSink } from './layer-sink.js';
import type { Pace } from './pace.js';
import { sameSum, sumOfIndexes, sumOfWinners, type IndexedLayer, type Winner } from './winners.js';

export interface MergeDeps {
  readonly store: ObjectStore;
  readonly owned: OwnedMachine;
  /** Numbers for the names of new objects, the owner's unless somebody keeps account of them. */
  readonly nextSequence?: () => number;
  readonly pace: Pace;
  readonly signal: AbortSignal;
  readonly sortBytes?: number;
}

export interface LayersToWrite {
  readonly disk: DiskId;
  readonly blockBytes: number;
  readonly kind: 'delta' | 'base';
  readonly segment: number | null;
  readonly firstPoint: number;
  readonly lastPoint: number;
}

export interface Written extends CopyResult {
  readonly layers: readonly LayerRef[];
  readonly writtenBytes: number;
}

export const readerOf = (
  { store, owned }: Pick<MergeDeps, 'store' | 'owned'>,
  disk: DiskId,
  blockBytes: number,
): LayerReader => new LayerReader(store, { machine: owned.manifest.machine.id, disk, blockBytes }, new IndexCache(0));

/** The indexes of layers, oldest first. Throws when they take more memory than a merge may. */
export async function indexesOf(reader: LayerReader, layers: readonly LayerRef[]): Promise<IndexedLayer[]> {
  const found: IndexedLayer[] = [];
  let bytes = 0;
  for await (const [layer, index] of loadIndexes(reader, layers)) {
    bytes += indexBytes(index);
    if (bytes > MERGE_INDEX_BYTES_MAX) throw tooLarge(layers.length);
    found.push({ layer, index });
  }
  return found;
}

export async function writeWinners(
  deps: MergeDeps,
  reader: LayerReader,
  winners: readonly Winner[],
  what: LayersToWrite,
): Promise<Written> {
  const { owned, store, pace, signal, nextSequence = owned.nextSequence } = deps;
  const identity = (): LayerIdentity => ({
    kind: what.kind,
    blockBytes: what.blockBytes,
    segment: what.segment,
    firstPoint: what.firstPoint,
    lastPoint: what.lastPoint,
    epoch: owned.epoch,
    sequence: nextSequence(),
    machineId: owned.manifest.machine.id,
    diskId: what.disk,
    seriesId: '',
  });
  const sink = new LayerSink(store, what.blockBytes, identity, deps.sortBytes);
  let copied: CopyResult;
  let layers: LayerRef[];
  try {
    copied = await copyBlocks(reader, winners, sink, pace, signal);
    // An empty base says that its segment is zero, whatever older layers hold.
    layers = await sink.finish(what.kind === 'base');
  } catch (error) {
    await sink.abort();
    throw error;
  }
  await prove(reader, winners, layers);
  const writtenBytes = layers.reduce((sum, layer) => sum + layer.sizeBytes, 0);
  await pace.take(writtenBytes);
  return { ...copied, layers, writtenBytes };
}

async function prove(reader: LayerReader, winners: readonly Winner[], layers: readonly LayerRef[]): Promise<void> {
  const made = (await indexesOf(reader, layers)).map(({ index }) => index);
  const [wanted, found] = [sumOfWinners(winners), sumOfIndexes(made)];
  if (sameSum(wanted, found)) return;
  throw corrupt(
    'merge-mismatch',
    `merged layers hold ${found.dataBlocks} data and ${found.zeroBlocks} zero blocks, their inputs ${wanted.dataBlocks} and ${wanted.zeroBlocks}, or others`,
    'The inputs stay. This is an error of the program: please report it.',
  );
}

const tooLarge = (layers: number): AfterimageError =>
  new AfterimageError(`the indexes of ${layers} layers take more memory than a merge may`, {
    code: 'merge-too-large',
    kind: 'refused',
    hint: 'They stay as they are.',
  });
