/**
 * Layout of the maps that programs and agent share, in one place for both sides. Pure arithmetic.
 *
 * Per disk, sizes for 1 TiB at 4 KiB:
 *   marks     1 bit per block (M)                                                    32 MiB
 *   summary   1 bit per 64-bit word of marks ("group"): which words to look at       512 KiB
 *   coarse    1 bit per group: all 64 blocks of it marked, by huge ranges            512 KiB, then a word "not empty"
 *   pending   1 bit per group: taken and not committed; programs don't know it       512 KiB
 *   suspects  1 bit per group: taken, may have been in flight; neither               512 KiB
 *   filter    per epoch: submitted blocks modulo 2^k, 1 bit each (S); then a word "everything" per epoch
 *   slots     a line for rare events, then a line of counters per CPU
 *   identity  what this set of objects is (JSON), and the state of the audit; pinned last
 * All disks share `control`, whose first word is the epoch.
 */
import type { Geometry } from '../../../../shared/blocks/geometry.js';

/** Raised whenever maps or programs change, so that an agent never resumes on objects of another version. */
export const LAYOUT_VERSION = 1;

export const GROUP_BLOCKS = 64;
const WORD_BYTES = 8;
const WORD_BITS = 64;

/** Twice a cache line: neighbours are prefetched in pairs. */
export const LINE_BYTES = 128;
export const CONTROL_BYTES = 4096;
export const CONTROL_EPOCH_OFFSET = 0;

/** Bits of the filter per epoch, as a power of two; smaller disks get one bit per block, and no false hits. */
const FILTER_BITS_LOG2_MAX = 20;
const FILTER_BITS_LOG2_MIN = 12;

/** Offsets in a CPU's line. Pairs are writes and discards; all are sectors. */
export const SLOT = {
  submitEnterWrite: 0,
  submitExitWrite: 8,
  submitEnterDiscard: 16,
  submitExitDiscard: 24,
  requestWrite: 32,
  requestDiscard: 40,
  bioWrite: 48,
  bioDiscard: 56,
} as const;

/** Offsets in the first line of `slots`. Shared by all CPUs: these events are rare, and each ends the series. */
export const RARE = { opaque: 0, tooBig: 8 } as const;

/** Ranges of more blocks than this are marked in `coarse`. */
export const FINE_BLOCKS_MAX = 4096;

export const IDENTITY_BYTES = 8192;
/** Where the audit's numbers stand in `identity`, behind the JSON. */
export const IDENTITY_STATE_OFFSET = 4096;

export const MAP_NAMES = ['marks', 'summary', 'coarse', 'pending', 'suspects', 'filter', 'slots', 'identity'] as const;
export type MapName = (typeof MAP_NAMES)[number];

export interface MapSizes {
  readonly markWords: number;
  /** Power of two, so that programs can bound an index by a mask, which any verifier understands. */
  readonly groupWords: number;
  /** Per epoch; a power of two. */
  readonly filterWords: number;
  /** Power of two that is not less than the number of possible CPUs. */
  readonly cpuSlots: number;
}

const powerOfTwoAtLeast = (value: number): number => 2 ** Math.ceil(Math.log2(Math.max(1, value)));

export function mapSizes(geometry: Geometry, possibleCpus: number): MapSizes {
  const markWords = Math.ceil(geometry.blockCount / WORD_BITS);
  const filterBitsLog2 = Math.min(
    FILTER_BITS_LOG2_MAX,
    Math.max(FILTER_BITS_LOG2_MIN, Math.ceil(Math.log2(geometry.blockCount))),
  );
  return {
    markWords,
    groupWords: powerOfTwoAtLeast(Math.ceil(markWords / WORD_BITS)),
    filterWords: 2 ** filterBitsLog2 / WORD_BITS,
    cpuSlots: powerOfTwoAtLeast(possibleCpus),
  };
}

export interface MapShape {
  readonly entries: number;
  readonly valueBytes: number;
}

/** `marks` has an entry per word, as old kernels bound the size of one value; all others are one value. */
export function mapShape(name: MapName, sizes: MapSizes): MapShape {
  const groupBytes = sizes.groupWords * WORD_BYTES;
  switch (name) {
    case 'marks':
      return { entries: sizes.markWords, valueBytes: WORD_BYTES };
    case 'summary':
    case 'pending':
    case 'suspects':
      return { entries: 1, valueBytes: groupBytes };
    case 'coarse':
      return { entries: 1, valueBytes: groupBytes + WORD_BYTES };
    case 'filter':
      return { entries: 1, valueBytes: 2 * sizes.filterWords * WORD_BYTES + 2 * WORD_BYTES };
    case 'slots':
      return { entries: 1, valueBytes: LINE_BYTES * (1 + sizes.cpuSlots) };
    case 'identity':
      return { entries: 1, valueBytes: IDENTITY_BYTES };
  }
}

export const mapBytes = (shape: MapShape): number => shape.entries * shape.valueBytes;
