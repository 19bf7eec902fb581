/**
 * What was measured, as numbers: rates, percentiles, changes per window. Pure.
 */
import type { HotPlaces } from './hot.js';

export interface Spread {
  readonly mean: number;
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
  readonly peak: number;
}

/** Of values in any order; all 0 when there are none. Percentiles by the nearest rank. */
export function spreadOf(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  const rank = (share: number): number => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0;
  const mean = sorted.length === 0 ? 0 : sorted.reduce((sum, v) => sum + v, 0) / sorted.length;
  return { mean, p50: rank(0.5), p95: rank(0.95), p99: rank(0.99), peak: sorted.at(-1) ?? 0 };
}

export interface DiskReport {
  readonly device: string;
  readonly id: string;
  readonly sizeBytes: number;
  /** How changed blocks were found, or why they weren't. */
  readonly method: 'ebpf' | 'scan' | 'writes-only';
  readonly methodReason: string;
  /** Bytes that programs wrote, per second. */
  readonly writeRate: Spread;
  readonly writtenBytes: number;
  readonly hot: HotPlaces;
  /** Compressed size of sampled changed blocks, as a share of their own; null: nothing was sampled. */
  readonly compressedShare: number | null;
  /** What makes these numbers less than certain. */
  readonly doubts: readonly string[];
}

/** Changes of all disks within windows of one length. */
export interface WindowReport {
  readonly lengthMs: number;
  /** Whole windows that were seen. */
  readonly windows: number;
  /** Distinct bytes changed in a window. */
  readonly bytes: Spread;
}

export interface Profile {
  readonly startedAt: string;
  readonly measuredMs: number;
  readonly everyMs: number;
  readonly isInterrupted: boolean;
  readonly disks: readonly DiskReport[];
  readonly windows: readonly WindowReport[];
  /** Lengths of which no whole window was seen. */
  readonly notMeasuredMs: readonly number[];
  readonly compressedShare: number | null;
  /** Per sample: time since the start, bytes written, distinct bytes changed, of all disks. */
  readonly samples: readonly { readonly atMs: number; readonly writtenBytes: number; readonly changedBytes: number }[];
}
