/**
 * A set of block numbers: a sparse bitmap whose pages are made on demand, so that memory follows what is in it
 * (4 KiB per touched run of 32,768 blocks) and a full set of 2^29 blocks costs 64 MiB.
 */
import type { BlockNumber } from '../units.js';

/** A run of blocks. */
export interface Extent {
  readonly first: BlockNumber;
  readonly count: number;
}

const PAGE_SHIFT = 15;
const PAGE_BLOCKS = 1 << PAGE_SHIFT;
const PAGE_MASK = PAGE_BLOCKS - 1;
const PAGE_WORDS = PAGE_BLOCKS >>> 5;

export function popcount32(value: number): number {
  let v = value - ((value >>> 1) & 0x55555555);
  v = (v & 0x33333333) + ((v >>> 2) & 0x33333333);
  return (((v + (v >>> 4)) & 0x0f0f0f0f) * 0x01010101) >>> 24;
}

export class BlockSet {
  readonly #pages = new Map<number, Uint32Array>();
  #count = 0;

  static of(blocks: Iterable<BlockNumber>): BlockSet {
    const set = new BlockSet();
    for (const block of blocks) set.add(block);
    return set;
  }

  /** Number of blocks in the set. */
  get size(): number {
    return this.#count;
  }

  get isEmpty(): boolean {
    return this.#count === 0;
  }

  has(block: BlockNumber): boolean {
    const page = this.#pages.get(block >>> PAGE_SHIFT);
    if (page === undefined) return false;
    const bit = block & PAGE_MASK;
    return ((page[bit >>> 5] ?? 0) & (1 << (bit & 31))) !== 0;
  }

  add(block: BlockNumber): void {
    this.addWord(block >>> 5, 1 << (block & 31));
  }

  /** Adds the blocks of a 32-bit word: block = word × 32 + bit. The trackers' fast way in. */
  addWord(word: number, bits: number): void {
    if (bits === 0) return;
    const pageNumber = word >>> (PAGE_SHIFT - 5);
    let page = this.#pages.get(pageNumber);
    if (page === undefined) {
      page = new Uint32Array(PAGE_WORDS);
      this.#pages.set(pageNumber, page);
    }
    const index = word & (PAGE_WORDS - 1);
    const before = page[index] ?? 0;
    const after = (before | bits) >>> 0;
    if (after === before) return;
    page[index] = after;
    this.#count += popcount32(after) - popcount32(before);
  }

  addRange(first: BlockNumber, count: number): void {
    let block = first;
    const end = first + count;
    while (block < end) {
      const bit = block & 31;
      const n = Math.min(32 - bit, end - block);
      const mask = n === 32 ? 0xffffffff : ((1 << n) - 1) << bit;
      this.addWord(Math.floor(block / 32), mask);
      block += n;
    }
  }

  addAll(other: BlockSet): void {
    for (const [pageNumber, words] of other.#pages) {
      for (let i = 0; i < PAGE_WORDS; i++) {
        const bits = words[i] ?? 0;
        if (bits !== 0) this.addWord((pageNumber << (PAGE_SHIFT - 5)) + i, bits);
      }
    }
  }

  delete(block: BlockNumber): void {
    const page = this.#pages.get(block >>> PAGE_SHIFT);
    if (page === undefined) return;
    const index = (block & PAGE_MASK) >>> 5;
    const before = page[index] ?? 0;
    const after = (before & ~(1 << (block & 31))) >>> 0;
    if (after === before) return;
    page[index] = after;
    this.#count--;
  }

  clear(): void {
    this.#pages.clear();
    this.#count = 0;
  }

  clone(): BlockSet {
    const copy = new BlockSet();
    copy.addAll(this);
    return copy;
  }

  /** Blocks, ascending. */
  *blocks(): Generator<BlockNumber> {
    for (const pageNumber of [...this.#pages.keys()].sort((a, b) => a - b)) {
      const page = this.#pages.get(pageNumber);
      if (page === undefined) continue;
      for (let i = 0; i < PAGE_WORDS; i++) {
        let bits = page[i] ?? 0;
        while (bits !== 0) {
          const bit = 31 - Math.clz32(bits & -bits);
          bits &= bits - 1;
          yield pageNumber * PAGE_BLOCKS + i * 32 + bit;
        }
      }
    }
  }

  /** How many blocks of [first, first + count) are in the set. */
  countIn(first: BlockNumber, count: number): number {
    const end = first + count;
    let found = 0;
    for (let block = first; block < end;) {
      const page = this.#pages.get(block >>> PAGE_SHIFT);
      if (page === undefined) {
        block = ((block >>> PAGE_SHIFT) + 1) * PAGE_BLOCKS;
        continue;
      }
      const bit = block & 31;
      const n = Math.min(32 - bit, end - block);
      const mask = n === 32 ? 0xffffffff : ((1 << n) - 1) << bit;
      found += popcount32((page[(block & PAGE_MASK) >>> 5] ?? 0) & mask);
      block += n;
    }
    return found;
  }

  /** Blocks within [first, first + count), ascending, as a plain array (hot paths). */
  blocksIn(first: BlockNumber, count: number): BlockNumber[] {
    const found: BlockNumber[] = [];
    const end = first + count;
    let block = first;
    while (block < end) {
      const page = this.#pages.get(block >>> PAGE_SHIFT);
      if (page === undefined) {
        block = ((block >>> PAGE_SHIFT) + 1) * PAGE_BLOCKS;
        continue;
      }
      const word = (block & PAGE_MASK) >>> 5;
      let bits = (page[word] ?? 0) & (0xffffffff << (block & 31));
      const base = block - (block & 31);
      while (bits !== 0) {
        const bit = 31 - Math.clz32(bits & -bits);
        bits &= bits - 1;
        if (base + bit >= end) return found;
        found.push(base + bit);
      }
      block = base + 32;
    }
    return found;
  }

  /** Runs of blocks, ascending. */
  *extents(): Generator<Extent> {
    let first = -1;
    let next = -1;
    for (const block of this.blocks()) {
      if (block === next) {
        next++;
        continue;
      }
      if (first >= 0) yield { first, count: next - first };
      first = block;
      next = block + 1;
    }
    if (first >= 0) yield { first, count: next - first };
  }
}
