/**
 * The decision what to read ahead: sequential clients get more and more of it, random ones nothing.
 */
import { describe, expect, it } from 'vitest';
import { GIB, KIB, MIB } from '../../shared/units.js';
import { ReadAhead, type Range } from '../../receiver/volume/read-ahead.js';
import { between, randomOf } from '../helpers/random.js';

const options = { sizeBytes: 10 * GIB, windowBytesMin: 256 * KIB, windowBytesMax: 4 * MIB, streamsMax: 4 };

/** Reads [from, to) in steps and returns what was to be fetched ahead. */
function stream(ahead: ReadAhead, from: number, to: number, step: number): Range[] {
  const found: Range[] = [];
  for (let at = from; at < to; at += step) {
    const range = ahead.next(at, step);
    if (range !== null) found.push(range);
  }
  return found;
}

describe('a sequential stream', () => {
  it('gets nothing for its first request and a window for its second', () => {
    const ahead = new ReadAhead(options);
    expect(ahead.next(MIB, 4 * KIB)).toBeNull();
    expect(ahead.next(MIB + 4 * KIB, 4 * KIB)).toEqual({ offset: MIB + 8 * KIB, lengthBytes: 256 * KIB });
  });

  it('is always ahead of the client, without gaps or overlaps, in windows that double to the limit', () => {
    const ahead = new ReadAhead(options);
    let fetched = 0;
    let largest = 0;
    for (let at = 0; at < 100 * MIB; at += 64 * KIB) {
      const range = ahead.next(at, 64 * KIB);
      if (at > 64 * KIB) expect(fetched).toBeGreaterThanOrEqual(at + 64 * KIB);
      if (range === null) continue;
      expect(range.offset).toBe(Math.max(fetched, at + 64 * KIB));
      fetched = range.offset + range.lengthBytes;
      largest = Math.max(largest, fetched - (at + 64 * KIB));
    }
    expect(largest).toBe(4 * MIB);
  });

  it('asks seldom once it runs: at most twice per window', () => {
    const ahead = new ReadAhead(options);
    stream(ahead, 0, 20 * MIB, 4 * KIB);
    expect(stream(ahead, 20 * MIB, 60 * MIB, 4 * KIB).length).toBeLessThanOrEqual(21);
  });

  it('goes on when a few requests in flight change places', () => {
    const ahead = new ReadAhead(options);
    let fetched = 0;
    for (let at = 0; at < 32 * MIB; at += 256 * KIB) {
      for (const i of [1, 0, 3, 2]) {
        const range = ahead.next(at + i * 64 * KIB, 64 * KIB);
        if (range !== null) fetched += range.lengthBytes;
      }
    }
    expect(fetched).toBeGreaterThan(30 * MIB);
    expect(fetched).toBeLessThan(37 * MIB);
  });

  it('ends with the disk', () => {
    const ahead = new ReadAhead({ ...options, sizeBytes: 3 * MIB + 512 });
    const ranges = stream(ahead, 0, 3 * MIB, 64 * KIB);
    expect(Math.max(...ranges.map((r) => r.offset + r.lengthBytes))).toBe(3 * MIB + 512);
    expect(ahead.next(3 * MIB, 512)).toBeNull();
  });

  it('is not begun by the same place again and again', () => {
    const ahead = new ReadAhead(options);
    for (let i = 0; i < 100; i++) expect(ahead.next(5 * MIB, 4 * KIB)).toBeNull();
  });
});

it('random reads get next to nothing', () => {
  const ahead = new ReadAhead(options);
  const random = randomOf(7);
  let fetched = 0;
  for (let i = 0; i < 10_000; i++) fetched += ahead.next(between(random, 0, 2 ** 21) * 4096, 4096)?.lengthBytes ?? 0;
  // 10,000 reads of 4 KiB on 8 GiB: chance lets a few follow each other.
  expect(fetched).toBeLessThan(20_000 * 4 * KIB);
});

it('streams that take turns don’t disturb each other, nor do random reads between them', () => {
  const ahead = new ReadAhead(options);
  const random = randomOf(11);
  const fetched = [0, 0, 0];
  for (let i = 0; i < 500; i++) {
    for (let s = 0; s < 3; s++) {
      const range = ahead.next(s * GIB + i * 64 * KIB, 64 * KIB);
      if (range === null) continue;
      expect(Math.floor(range.offset / GIB)).toBe(s);
      fetched[s] = (fetched[s] ?? 0) + range.lengthBytes;
    }
    if (i % 4 === 0) ahead.next(4 * GIB + between(random, 0, 2 ** 20) * 4096, 4096);
  }
  for (const bytes of fetched) expect(bytes).toBeGreaterThan(30 * MIB);
});
