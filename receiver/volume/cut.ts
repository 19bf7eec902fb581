/**
 * A writable volume as replication sees it: a tracker that misses nothing, since every write goes through it, and whose cuts can be read while the
 * guest goes on writing. A cut of several volumes is taken while all of them are held, so that it is one instant for the whole machine.
 */
import type { BlockSet } from '../../shared/blocks/block-set.js';
import type { Geometry } from '../../shared/blocks/geometry.js';
import type { DiskId } from '../../shared/units.js';

export interface CutSource {
  readonly disk: DiskId;
  readonly geometry: Geometry;
  /** Blocks written since the last cut, for status and for finding out whether there is anything to do. */
  readonly changedBlocks: number;
  /** All of it can be read here, whatever becomes of the recovery point that it stands on. */
  readonly isComplete: boolean;
  /** Those of these blocks that can be. */
  held(blocks: BlockSet): BlockSet;
  /** These count as changed for the next cut, though nobody wrote them. */
  markChanged(blocks: BlockSet): void;
  /** New writes wait from now on; resolves when none is in flight. Followed by resume() in any case, which may come before it resolves. */
  hold(): Promise<void>;
  /** Only while held. There is at most one open cut per volume. */
  cut(): VolumeCut;
  resume(): void;
}

export interface VolumeCut {
  /** Blocks that changed between the last committed cut and this one. */
  readonly changed: BlockSet;
  /**
   * Blocks as they were at the cut; all of [first, first + count) are in `changed`. The last block of a disk is padded with zeroes. What it gives out
   * is durable in the volume. Each block is to be read once: after that the guest may overwrite it without a copy, and reading it again then fails.
   */
  read(first: number, count: number, into: Buffer): Promise<void>;
  /** The view is given back. `committed`: a point holds these changes; `given-up`: they belong to the next cut again. */
  end(outcome: 'committed' | 'given-up'): void;
}
