/**
 * Loads the indexes of many layers in a given order, as many ahead as memory allows: hides the store's latency. Keeps nothing itself.
 */
import type { LayerIndex } from '../../shared/layer/layer.js';
import { INDEX_PREFETCH, INDEX_PREFETCH_BYTES_MAX, LAYER_INDEX_BYTES_MAX } from '../../shared/limits.js';
import type { LayerRef } from '../catalog/manifest.js';
import type { LayerReader } from './layer-reader.js';

/** What an index can take at most, known before it is read. */
const indexBytesMax = (layer: LayerRef): number => Math.min(layer.sizeBytes, LAYER_INDEX_BYTES_MAX);

/** Each layer's index, in the order of the layers. */
export async function* loadIndexes(
  reader: LayerReader,
  layers: readonly LayerRef[],
): AsyncGenerator<readonly [LayerRef, LayerIndex]> {
  const ahead: { layer: LayerRef; index: Promise<LayerIndex> }[] = [];
  let aheadBytes = 0;
  let next = 0;
  for (;;) {
    for (; next < layers.length; next++) {
      const layer = layers[next] as LayerRef;
      const fits = ahead.length < INDEX_PREFETCH && aheadBytes + indexBytesMax(layer) <= INDEX_PREFETCH_BYTES_MAX;
      if (ahead.length > 0 && !fits) break;
      const index = reader.index(layer);
      // Awaited in its turn below; until then a failure must not count as unhandled.
      index.catch(() => undefined);
      ahead.push({ layer, index });
      aheadBytes += indexBytesMax(layer);
    }
    const first = ahead.shift();
    if (first === undefined) return;
    aheadBytes -= indexBytesMax(first.layer);
    yield [first.layer, await first.index];
  }
}
