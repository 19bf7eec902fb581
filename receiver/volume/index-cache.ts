/**
 * Decoded layer indexes, kept while memory allows: least recently used goes first. One cache may serve many disks.
 * Layers are immutable, so nothing here ever goes stale. Two callers that want the same index wait for one load.
 */
import { INDEX_CACHE_BYTES_MAX } from '../../shared/limits.js';
import type { LayerIndex } from '../../shared/layer/layer.js';

/** Memory of an index: typed arrays exactly, chunk references as V8 lays them out. */
export const indexBytes = (index: LayerIndex): number =>
  index.first.byteLength * 5 + index.zero.byteLength + index.hashes.byteLength + index.chunks.length * 48;

interface Slot {
  readonly index: Promise<LayerIndex>;
  /** 0 while loading. */
  bytes: number;
}

export class IndexCache {
  readonly #bytesMax: number;
  /** In order of use, oldest first. */
  readonly #slots = new Map<string, Slot>();
  #bytes = 0;

  constructor(bytesMax = INDEX_CACHE_BYTES_MAX) {
    this.#bytesMax = bytesMax;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get(name: string, load: () => Promise<LayerIndex>): Promise<LayerIndex> {
    const found = this.#slots.get(name);
    if (found !== undefined) {
      this.#slots.delete(name);
      this.#slots.set(name, found);
      return found.index;
    }
    const slot: Slot = { index: load(), bytes: 0 };
    this.#slots.set(name, slot);
    slot.index.then(
      (index) => {
        slot.bytes = indexBytes(index);
        this.#bytes += slot.bytes;
        this.#shrink();
      },
      // A failed load isn't remembered: the next caller tries again (the caller of this one sees the error).
      () => this.#slots.delete(name),
    );
    return slot.index;
  }

  #shrink(): void {
    for (const [name, slot] of this.#slots) {
      if (this.#bytes <= this.#bytesMax) return;
      if (slot.bytes === 0) continue;
      this.#slots.delete(name);
      this.#bytes -= slot.bytes;
    }
  }
}
