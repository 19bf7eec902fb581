/**
 * What a bench is: one measured promise, in a file of its own.
 */
import type { Figure } from './figures.js';

export interface BenchContext {
  /** A folder on a real disk, and one in memory. */
  readonly diskDir: string;
  readonly ramDir: string;
  /** Bytes of the data set of first-copy, cycle and restore. */
  readonly sizeBytes: number;
  /** How often each side is measured. */
  readonly runs: number;
  readonly report: (figure: Figure) => void;
  /** Progress, for people. */
  readonly say: (text: string) => void;
}

export interface Bench {
  readonly name: string;
  /** The promise, in a line. */
  readonly promise: string;
  readonly run: (context: BenchContext) => Promise<void>;
}

export const MIB = 2 ** 20;
export const GIB = 2 ** 30;
