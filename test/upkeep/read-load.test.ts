/** What a restore reads of a segment, estimated from samples, against what it is. */
import { describe, expect, it } from 'vitest';
import { MIB } from '../../shared/units.js';
import type { LayerIndex } from '../../shared/layer/layer.js';
import type { LayerRef } from '../../receiver/catalog/manifest.js';
import { isSampled, shapeOf, type LayerShape } from '../../receiver/upkeep/layer-stats.js';
import { segmentRead } from '../../receiver/upkeep/read-load.js';

const PER_SEGMENT = 16384;
/** Stored bytes of a block. */
const BYTES = 1000;

interface Run {
  readonly first: number;
  readonly count: number;
  readonly zero?: boolean;
}

/** A layer with these runs, `perChunk` of them in a chunk each, and its shape. */
function shaped(runs: readonly Run[], perChunk = 1): { readonly layer: LayerRef; readonly shape: LayerShape } {
  const blocks = runs.reduce((sum, run) => sum + (run.zero === true ? 0 : run.count), 0);
  const index = {
    chunks: Array.from({ length: Math.ceil(runs.length / perChunk) }, (_, i) => ({
      offset: 0,
      lengthBytes: runs
        .slice(i * perChunk, (i + 1) * perChunk)
        .reduce((sum, run) => sum + (run.zero === true ? 0 : run.count * BYTES), 0),
    })),
    first: Uint32Array.from(runs, (run) => run.first),
    count: Uint32Array.from(runs, (run) => run.count),
    zero: Uint8Array.from(runs, (run) => (run.zero === true ? 1 : 0)),
    chunk: Uint32Array.from(runs, (_, i) => Math.floor(i / perChunk)),
    position: new Uint32Array(runs.length),
    hashAt: new Uint32Array(runs.length),
    hashes: new BigUint64Array(blocks),
  } satisfies LayerIndex;
  const layer = { sizeBytes: blocks * BYTES } as LayerRef;
  return { layer, shape: shapeOf(layer, index, PER_SEGMENT) };
}

const part = (...runs: Run[]): { shape: LayerShape; bytes: number } => {
  const { layer, shape } = shaped(runs);
  return { shape, bytes: layer.sizeBytes };
};
const whole = { first: 0, count: PER_SEGMENT };
const imageBytes = PER_SEGMENT * BYTES;
const about = (value: number, wanted: number): void => {
  expect(value).toBeGreaterThan(wanted * 0.9);
  expect(value).toBeLessThan(wanted * 1.1 + MIB / 100);
};

it('samples as many blocks as it says, the same ones in each layer, also of a pattern', () => {
  for (const stride of [1, 2, 3, 8, 64]) {
    let sampled = 0;
    for (let i = 0; i < 2 ** 16; i++) if (isSampled(i * stride, PER_SEGMENT)) sampled++;
    about(sampled, 2 ** 16 / 32);
  }
  expect([0, 1, 2, 3].every((block) => isSampled(block, 512))).toBe(true);
});

describe('of a segment', () => {
  it('blocks that were written over are read, and are not in a fresh base', () => {
    const half = part({ first: 0, count: PER_SEGMENT / 2 });
    const read = segmentRead(0, PER_SEGMENT, [half], shaped([whole]));
    about(read.readBytes, 1.5 * imageBytes);
    about(read.freshBytes, imageBytes);
  });

  it('new blocks are in a fresh base as well: nothing to gain', () => {
    const base = shaped([{ first: 0, count: PER_SEGMENT / 2 }]);
    const read = segmentRead(0, PER_SEGMENT, [part({ first: PER_SEGMENT / 2, count: PER_SEGMENT / 2 })], base);
    about(read.readBytes, imageBytes);
    about(read.freshBytes, imageBytes);
  });

  it('layers that newer ones hide are not read, be it with zeroes', () => {
    const read = segmentRead(0, PER_SEGMENT, [part(whole), part(whole), part(whole)], shaped([whole]));
    about(read.readBytes, imageBytes);
    expect(read.hidden).toEqual([1, 2]);
    const discarded = segmentRead(
      1,
      PER_SEGMENT,
      [part({ first: 10, count: 3 * PER_SEGMENT, zero: true })],
      shaped([{ first: PER_SEGMENT, count: PER_SEGMENT }]),
    );
    expect(discarded).toMatchObject({ readBytes: 0, freshBytes: 0 });
  });

  it('without the base’s index it is taken to have every block', () => {
    const { layer } = shaped([whole]);
    const read = segmentRead(0, PER_SEGMENT, [part({ first: 0, count: PER_SEGMENT / 2 })], { layer, shape: null });
    about(read.freshBytes, imageBytes);
    expect(segmentRead(0, PER_SEGMENT, [part(whole)], null)).toMatchObject({ readBytes: imageBytes });
  });

  it('other segments are left out', () => {
    const { shape } = shaped([{ first: PER_SEGMENT - 100, count: 300 }]);
    expect([...shape.segments]).toEqual([0, 1]);
    expect([...shape.bytes]).toEqual([100 * BYTES, 200 * BYTES]);
    const read = segmentRead(0, PER_SEGMENT, [{ shape, bytes: 100 * BYTES }], shaped([whole]));
    about(read.readBytes, imageBytes + 100 * BYTES);
  });

  it('chunks are told with the segments that they reach over', () => {
    const { shape } = shaped(
      [
        { first: 0, count: 1 },
        { first: PER_SEGMENT * 2, count: 1 },
        { first: PER_SEGMENT * 3, count: 5 },
        { first: PER_SEGMENT * 3 + 9, count: 5 },
      ],
      2,
    );
    expect([...shape.spans.first]).toEqual([0, 3]);
    expect([...shape.spans.last]).toEqual([2, 3]);
    expect([...shape.spans.bytes]).toEqual([2 * BYTES, 10 * BYTES]);
  });
});
