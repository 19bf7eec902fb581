/** What the model remembers of one machine. */
import type { Flip } from './tracker.js';

export class Known {
  /** The flip that each cycle's commit names as its cut. */
  readonly cuts = new Map<string, Flip>();
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
