/**
 * What a restore of one segment at the newest point has to read, against what it would read from one fresh base. Pure, and an estimate: by a sample of the
 * blocks, newest layer first, as a read plan would be made of all of them. Of a layer that has the newest copy of any block there, all bytes
 * in the segment count: the blocks that count lie among the others in the same chunks.
 */
import type { LayerRef } from '../catalog/manifest.js';
import { isSampled, lowerBound, type LayerShape } from './layer-stats.js';

export interface SegmentRead {
  readonly readBytes: number;
  /** What a base built now would have, about. */
  readonly freshBytes: number;
  /** Parts of which no block counts, by their place among the parts. */
  readonly hidden: readonly number[];
}

export interface LayerPart {
  readonly shape: LayerShape;
  /** Its stored bytes in the segment. */
  readonly bytes: number;
}

/** `parts`: of the deltas over the base, newest first. `base`: null without one; its shape null: not known, taken to have a copy of every block. */
export function segmentRead(
  segment: number,
  blocksPerSegment: number,
  parts: readonly LayerPart[],
  base: { readonly layer: LayerRef; readonly shape: LayerShape | null } | null,
): SegmentRead {
  const first = segment * blocksPerSegment;
  const claimed = new Uint8Array(blocksPerSegment);
  let readBytes = 0;
  let freshBytes = 0;
  const take = (bytes: number, live: number, all: number): boolean => {
    // What has no block in the sample can't be told: it counts as needed.
    const share = all === 0 ? 1 : live / all;
    if (share > 0) readBytes += bytes;
    freshBytes += bytes * share;
    return share > 0;
  };
  const hidden: number[] = [];
  for (const [i, { shape, bytes }] of parts.entries()) {
    const { live, all } = claim(claimed, first, blocksPerSegment, shape.sample);
    if (!take(bytes, live, all)) hidden.push(i);
    clear(claimed, first, blocksPerSegment, shape.zeroes);
  }
  if (base === null) return { readBytes, freshBytes, hidden };
  const { shape } = base;
  const { live, all } =
    shape === null ? unclaimed(claimed, first) : claim(claimed, first, blocksPerSegment, shape.sample);
  take(base.layer.sizeBytes, live, all);
  return { readBytes, freshBytes, hidden };
}

/** Claims a layer's sampled blocks of a segment; returns how many there are, and how many nobody had claimed. */
function claim(
  claimed: Uint8Array,
  first: number,
  count: number,
  sample: Uint32Array,
): { readonly live: number; readonly all: number } {
  let live = 0;
  let all = 0;
  for (let i = lowerBound(sample, first); i < sample.length; i++) {
    const at = (sample[i] ?? 0) - first;
    if (at >= count) break;
    all++;
    if (claimed[at] !== 0) continue;
    claimed[at] = 1;
    live++;
  }
  return { live, all };
}

function unclaimed(claimed: Uint8Array, first: number): { readonly live: number; readonly all: number } {
  let live = 0;
  let all = 0;
  claimed.forEach((value, at) => {
    if (!isSampled(first + at, claimed.length)) return;
    all++;
    if (value === 0) live++;
  });
  return { live, all };
}

/** Zero runs hide what is older, and cost nothing themselves. */
function clear(claimed: Uint8Array, first: number, count: number, zeroes: Uint32Array): void {
  // The run before the first that begins in the segment may reach into it.
  for (let i = Math.max(0, lowerBound(zeroes, first, 2) - 1); i * 2 < zeroes.length; i++) {
    const from = (zeroes[i * 2] ?? 0) - first;
    if (from >= count) break;
    const end = Math.min(count, from + (zeroes[i * 2 + 1] ?? 0));
    if (end > 0) claimed.fill(1, Math.max(0, from), end);
  }
}
