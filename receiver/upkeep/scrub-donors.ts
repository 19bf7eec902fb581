/**
 * Where else the store has a block that a damaged layer had: any later layer, or a base of the same segment, whose index has the same hash for the
 * same block. Among them are the blocks that an agent sent once more. Reads indexes only.
 */
import type { LayerRef } from '../catalog/manifest.js';
import { ZERO_HASH } from '../../shared/blocks/hash.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import type { LayerReader } from '../volume/layer-reader.js';
import { compareLayers } from '../volume/read-plan.js';
import { workOfRuns } from '../volume/unit-work.js';
import { indexOrNull } from './scrub-concern.js';
import type { Salvaged } from './scrub-salvage.js';
import type { Winner } from './winners.js';

/** Block to hash. */
export type Wanted = Map<number, bigint>;

/** Blocks of bad chunks, with the hashes that prove them. */
export function wantedOf(index: LayerIndex, { badChunks }: Pick<Salvaged, 'badChunks'>): Wanted {
  const wanted: Wanted = new Map();
  for (let i = 0; i < index.first.length; i++) {
    if (index.zero[i] === 1 || !badChunks.has(index.chunk[i] ?? 0)) continue;
    for (let b = 0; b < (index.count[i] ?? 0); b++) {
      wanted.set((index.first[i] ?? 0) + b, index.hashes[(index.hashAt[i] ?? 0) + b] ?? 0n);
    }
  }
  return wanted;
}

export interface Donors {
  readonly winners: readonly Winner[];
  /** What no layer has. */
  readonly missing: Wanted;
}

/** `isBad`: layers that are known to be damaged themselves give nothing. */
export async function findDonors(
  reader: LayerReader,
  layers: readonly LayerRef[],
  of: { readonly layer: LayerRef; readonly index: LayerIndex },
  wanted: Wanted,
  isBad: (layer: LayerRef) => boolean,
): Promise<Donors> {
  const missing = new Map(wanted);
  const winners: Winner[] = [];
  // A block of zeroes needs nobody who has it.
  const zeroes = [...missing].filter(([, hash]) => hash === ZERO_HASH).map(([block]) => [block, 1] as const);
  for (const [block] of zeroes) missing.delete(block);
  if (zeroes.length > 0) winners.push({ ...of, work: { pieces: [], zeroes } });
  const later = layers.filter((layer) => compareLayers(layer, of.layer) > 0).sort((a, b) => compareLayers(b, a));
  const earlier = layers.filter((layer) => compareLayers(layer, of.layer) < 0).sort((a, b) => compareLayers(b, a));
  for (const layer of [...later, ...earlier]) {
    if (missing.size === 0) break;
    if (isBad(layer)) continue;
    const index = await indexOrNull(reader, layer);
    if (index === null) continue;
    const runs = sameBlocks(index, missing);
    if (runs.length === 0) continue;
    for (const [first, count] of runs) for (let b = 0; b < count; b++) missing.delete(first + b);
    winners.push({ layer, index, work: workOfRuns(index, runs) });
  }
  return { winners, missing };
}

/** Runs of blocks that an index has with the hash that is wanted. */
function sameBlocks(index: LayerIndex, wanted: Wanted): [number, number][] {
  const runs: [number, number][] = [];
  for (let i = 0; i < index.first.length; i++) {
    if (index.zero[i] === 1) continue;
    for (let b = 0; b < (index.count[i] ?? 0); b++) {
      const block = (index.first[i] ?? 0) + b;
      if (wanted.get(block) !== index.hashes[(index.hashAt[i] ?? 0) + b]) continue;
      const last = runs.at(-1);
      if (last !== undefined && last[0] + last[1] === block) last[1]++;
      else runs.push([block, 1]);
    }
  }
  return runs;
}
