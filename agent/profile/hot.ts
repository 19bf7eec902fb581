/**
 * Where changes fall: how much of the disk holds most of them, and how much is overwritten again. Owns one counter per region.
 */
import { BlockSet } from '../../shared/blocks/block-set.js';
import { PROFILE_REGION_BYTES } from '../../shared/limits-profile.js';

export interface HotPlaces {
  /** Share of the changes, sample by sample, that fell on blocks which an earlier sample had changed already. */
  readonly overwrittenShare: number;
  /** Bytes of the regions that hold nine tenths of the changes. */
  readonly hotBytes: number;
  /** Distinct bytes changed all in all. */
  readonly distinctBytes: number;
}

const HOT_SHARE = 0.9;

export class HotCounter {
  readonly #blockBytes: number;
  readonly #blocksPerRegion: number;
  readonly #regions: Uint32Array;
  readonly #all = new BlockSet();
  #changes = 0;

  constructor(sizeBytes: number, blockBytes: number) {
    this.#blockBytes = blockBytes;
    this.#blocksPerRegion = PROFILE_REGION_BYTES / blockBytes;
    this.#regions = new Uint32Array(Math.ceil(sizeBytes / PROFILE_REGION_BYTES));
  }

  add(changed: BlockSet): void {
    for (const block of changed.blocks()) {
      const region = Math.floor(block / this.#blocksPerRegion);
      this.#regions[region] = (this.#regions[region] ?? 0) + 1;
    }
    this.#changes += changed.size;
    this.#all.addAll(changed);
  }

  places(): HotPlaces {
    const wanted = this.#changes * HOT_SHARE;
    const fullest = this.#regions.filter((count) => count > 0).sort((a, b) => b - a);
    let [held, regions] = [0, 0];
    while (held < wanted) held += fullest[regions++] ?? wanted;
    return {
      overwrittenShare: this.#changes === 0 ? 0 : 1 - this.#all.size / this.#changes,
      hotBytes: regions * PROFILE_REGION_BYTES,
      distinctBytes: this.#all.size * this.#blockBytes,
    };
  }
}
