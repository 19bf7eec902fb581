import { describe, expect, it } from 'vitest';
import { Suspects } from '../../agent/tracker/ebpf/suspects.js';
import { BlockSet } from '../../shared/blocks/block-set.js';

const BLOCKS = 10_000_000;
const list = (suspects: Suspects): number[] => [...suspects.union(BLOCKS).blocks()];

function take(suspects: Suspects, blocks: number[], nowMs: number): void {
  suspects.add(BlockSet.of(blocks), BlockSet.of(blocks.map((block) => block >>> 6)), nowMs);
}

describe('suspects', () => {
  it('stay until writes have landed and an audit after that balanced', () => {
    const suspects = new Suspects();
    take(suspects, [1, 2], 0);
    expect(suspects.balanced(10)).toBe(false);
    suspects.quietSeen();
    expect(list(suspects)).toEqual([1, 2]);
    take(suspects, [3], 20);
    expect(suspects.balanced(30)).toBe(true);
    // Block 3 was taken after the quiet instant.
    expect(list(suspects)).toEqual([3]);
    expect(suspects.awaitsQuiet).toBe(true);
  });

  it('go after a minute on a disk that is never quiet', () => {
    const suspects = new Suspects();
    take(suspects, [1], 0);
    take(suspects, [2], 30_000);
    suspects.balanced(59_999);
    expect(list(suspects)).toEqual([1, 2]);
    suspects.balanced(60_000);
    expect(list(suspects)).toEqual([2]);
  });

  it('are few buckets, however long it takes, and none is lost', () => {
    const suspects = new Suspects();
    for (let i = 0; i < 1000; i++) take(suspects, [i * 64], i * 1000);
    expect(suspects.bucketCount).toBeLessThanOrEqual(8);
    expect(list(suspects).length).toBe(1000);
  });

  it('merge to what is known of both', () => {
    const suspects = new Suspects();
    take(suspects, [1], 0);
    suspects.quietSeen();
    for (let i = 1; i <= 8; i++) take(suspects, [i * 100], i * 8000);
    suspects.balanced(60_000);
    // Block 1 had landed, but shares a bucket with block 100 now, which was taken at 8 s.
    expect(list(suspects)).toContain(1);
    suspects.balanced(68_000);
    expect(list(suspects)).not.toContain(1);
  });

  it('become groups of blocks when there are many', () => {
    const suspects = new Suspects();
    const many = new BlockSet();
    many.addRange(1, 100_000);
    const groups = new BlockSet();
    groups.addRange(0, 1563);
    suspects.add(many, groups, 0);
    take(suspects, [9_999_990], 1);
    const union = suspects.union(9_999_991);
    expect([union.has(0), union.has(100_031), union.has(100_032), union.has(9_999_990)]).toEqual([
      true,
      true,
      false,
      true,
    ]);
    const image = suspects.image(32_768);
    expect([image[0], image[1562 >>> 3], image[9_999_990 >>> 9]]).toEqual([255, 0b111, 1 << ((9_999_990 >>> 6) & 7)]);
  });
});
