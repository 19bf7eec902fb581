/** What the model remembers of one machine. */
import type { DiskId } from '../../shared/units.js';
import type { SimDisk } from './disk.js';
import { Rights } from './rights.js';
import type { Flip } from './tracker.js';

export interface CopyCut {
  readonly disk: SimDisk;
  readonly order: number;
}

export class Known {
  /** The flip that each cycle's commit names as its cut. */
  readonly cuts = new Map<string, Flip>();
  /** Of cycles that a copy has committed, the disks of that copy and the instant of each one's cut. */
  readonly copyCuts = new Map<string, ReadonlyMap<DiskId, CopyCut>>();
  /** By process, the last cut of each disk of its copy: the next commit of a copy by it is of these. */
  readonly lastCuts = new Map<string, Map<DiskId, CopyCut>>();
  readonly rights = new Rights();
  /** How often its agent was told that the machine is failed over. */
  refusals = 0;
  /** Points that an agent was told of, with their cycle. */
  readonly acknowledged = new Map<number, string>();
  /** The cycle that each number stands for, once a manifest has listed it. */
  readonly cycles = new Map<number, string>();
  /** By the head. */
  listed: readonly number[] = [];
  readonly dropped = new Set<number>();
  /** Points that somebody was told are kept, by the name that holds them. */
  readonly held = new Map<string, number>();
  headNumber = 0;
  /** The process that wrote each epoch. */
  readonly writers = new Map<number, string>();
  /** Objects that are not what they were. */
  readonly rotted = new Set<string>();
  /** Of these, what a scrub says was mended, and what can't be had any more. */
  readonly mended = new Set<string>();
  readonly lost = new Set<string>();
  readonly numbers = new Map<number, string>();
}
