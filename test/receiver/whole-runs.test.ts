import { describe, expect, it } from 'vitest';
import { wholeRuns } from '../../receiver/volume/whole-runs.js';
import type { LayerIndex } from '../../shared/layer/layer.js';

/** Entries as a layer's index has them, ascending by block. */
function indexOf(entries: readonly { first: number; count: number; chunk: number; position: number; zero?: true }[]) {
  return {
    first: Uint32Array.from(entries, (e) => e.first),
    count: Uint32Array.from(entries, (e) => e.count),
    chunk: Uint32Array.from(entries, (e) => e.chunk),
    position: Uint32Array.from(entries, (e) => e.position),
    zero: Uint8Array.from(entries, (e) => (e.zero === true ? 1 : 0)),
  } as unknown as LayerIndex;
}

describe('chunks that are one run of the disk', () => {
  it('are those whose entries follow each other without a gap', () => {
    const runs = wholeRuns(
      indexOf([
        { first: 10, count: 4, chunk: 0, position: 0 },
        { first: 14, count: 6, chunk: 0, position: 4 },
        { first: 30, count: 2, chunk: 1, position: 0 },
        { first: 33, count: 2, chunk: 1, position: 2 },
        { first: 40, count: 8, chunk: 2, position: 0 },
      ]),
    );
    expect([...runs]).toEqual([
      [0, { first: 10, count: 10 }],
      [2, { first: 40, count: 8 }],
    ]);
  });

  it('are not those with other blocks before the first, or between', () => {
    const entries = [
      { first: 5, count: 2, chunk: 0, position: 3 },
      { first: 20, count: 2, chunk: 1, position: 0 },
      { first: 22, count: 2, chunk: 1, position: 3 },
      { first: 24, count: 2, chunk: 1, position: 2 },
    ];
    expect(wholeRuns(indexOf(entries)).size).toBe(0);
  });

  it('do not count runs of zeroes, which are in no chunk', () => {
    const entries = [
      { first: 5, count: 2, chunk: 0, position: 0, zero: true as const },
      { first: 8, count: 2, chunk: 0, position: 0 },
    ];
    expect([...wholeRuns(indexOf(entries))]).toEqual([[0, { first: 8, count: 2 }]]);
  });
});
