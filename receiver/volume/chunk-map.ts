/**
 * From a chunk to the blocks in it that count at a point. A layer's index is ordered by block; this orders its entries by chunk, once per
 * decoded index (4 bytes per entry and per chunk) and only for layers that are read at random. Goes with the index, by the garbage collector.
 */
import type { LayerIndex } from '../../shared/layer/layer.js';
import type { PointMap } from './point-map.js';
import type { Piece } from './unit-work.js';

interface ByChunk {
  /** Entries of chunk c: `entries` from starts[c] to starts[c + 1], ascending by block. */
  readonly starts: Uint32Array;
  readonly entries: Uint32Array;
}

const known = new WeakMap<LayerIndex, ByChunk>();

function byChunkOf(index: LayerIndex): ByChunk {
  const found = known.get(index);
  if (found !== undefined) return found;
  const starts = new Uint32Array(index.chunks.length + 1);
  for (const chunk of index.chunk) starts[chunk + 1] = (starts[chunk + 1] ?? 0) + 1;
  for (let c = 0; c < index.chunks.length; c++) starts[c + 1] = (starts[c + 1] ?? 0) + (starts[c] ?? 0);
  const entries = new Uint32Array(index.chunk.length);
  const next = starts.slice();
  for (const [entry, chunk] of index.chunk.entries()) {
    const at = next[chunk] ?? 0;
    entries[at] = entry;
    next[chunk] = at + 1;
  }
  const made = { starts, entries };
  known.set(index, made);
  return made;
}

/** The data blocks of a chunk that no other layer hides at the map's point. */
export function winningPieces(map: PointMap, layer: number, index: LayerIndex, chunk: number): Piece[] {
  const { starts, entries } = byChunkOf(index);
  const pieces: Piece[] = [];
  for (let i = starts[chunk] ?? 0; i < (starts[chunk + 1] ?? 0); i++) {
    const entry = entries[i] ?? 0;
    const start = index.first[entry] ?? 0;
    if (index.zero[entry] === 1 || start >= map.geometry.blockCount) continue;
    const count = Math.min(index.count[entry] ?? 0, map.geometry.blockCount - start);
    for (const run of map.runs(start, count)) {
      if (run.layer !== layer) continue;
      const skip = run.first - start;
      pieces.push({
        chunk,
        first: run.first,
        count: run.count,
        position: (index.position[entry] ?? 0) + skip,
        hashAt: (index.hashAt[entry] ?? 0) + skip,
      });
    }
  }
  return pieces;
}
