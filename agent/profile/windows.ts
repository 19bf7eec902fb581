/**
 * Distinct changed blocks over windows of several lengths: a block that is written again within a window counts once in it. Pure.
 */
import { BlockSet } from '../../shared/blocks/block-set.js';

/** What one disk did in one sample. */
export interface Changed {
  readonly blocks: BlockSet;
  /** Written, where changed blocks can't be told: each byte counts. */
  readonly uncountedBytes: number;
}

/** Samples that a window of this length has; null where samples so far apart can't tell it. */
export const samplesOf = (lengthMs: number, everyMs: number): number | null =>
  lengthMs < everyMs ? null : Math.round(lengthMs / everyMs);

/** One length: windows follow each other without gaps; the last one counts when it is whole. */
export class DistinctWindows {
  readonly #samples: number;
  readonly #blockBytes: readonly number[];
  readonly #blocks: readonly BlockSet[];
  #inWindow = 0;
  #uncountedBytes = 0;
  /** Distinct bytes changed on all disks, for each whole window. */
  readonly wholeBytes: number[] = [];

  /** `blockBytes`: of each disk. */
  constructor(samples: number, blockBytes: readonly number[]) {
    this.#samples = samples;
    this.#blockBytes = blockBytes;
    this.#blocks = blockBytes.map(() => new BlockSet());
  }

  /** The next sample, of all disks. */
  add(disks: readonly Changed[]): void {
    disks.forEach(({ blocks, uncountedBytes }, i) => {
      this.#blocks[i]?.addAll(blocks);
      this.#uncountedBytes += uncountedBytes;
    });
    if (++this.#inWindow < this.#samples) return;
    const counted = this.#blocks.reduce((sum, set, i) => sum + set.size * (this.#blockBytes[i] ?? 0), 0);
    this.wholeBytes.push(counted + this.#uncountedBytes);
    for (const set of this.#blocks) set.clear();
    this.#inWindow = 0;
    this.#uncountedBytes = 0;
  }
}
