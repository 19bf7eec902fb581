/**
 * One bit per block over memory that somebody else owns (a shared mapping), with counts and with the pages that changed. Knows nothing of files.
 */
import { popcount32 } from '../../../shared/blocks/block-set.js';

export const MAP_PAGE_BYTES = 4096;
export const MAP_PAGE_BLOCKS = MAP_PAGE_BYTES * 8;
const WORDS_PER_PAGE = MAP_PAGE_BYTES / 4;

export const mapPages = (blockCount: number): number => Math.ceil(blockCount / MAP_PAGE_BLOCKS);

const maskOf = (bit: number, count: number): number => (count === 32 ? 0xffffffff : ((1 << count) - 1) << bit) >>> 0;

export class BlockBits {
  #words: Uint32Array;
  /** 1: the page changed since takeChangedPages() last gave it out. */
  readonly #changedPages: Uint8Array;
  #count = 0;

  /** `isEmpty`: no bit is set, so none has to be counted; for a large disk that is a pass over tens of MiB. */
  constructor(words: Uint32Array, isEmpty = false) {
    this.#words = words;
    this.#changedPages = new Uint8Array(words.length / WORDS_PER_PAGE);
    if (isEmpty) return;
    for (let i = 0; i < words.length; i++) {
      const word = words[i];
      if (word !== undefined && word !== 0) this.#count += popcount32(word);
    }
  }

  /** Number of bits that are set. */
  get count(): number {
    return this.#count;
  }

  has(block: number): boolean {
    return ((this.#words[block >>> 5] ?? 0) & (1 << (block & 31))) !== 0;
  }

  hasAll(first: number, count: number): boolean {
    if (count === 1) return this.has(first);
    return this.has(first) && this.runEnd(first, first + count) === first + count;
  }

  /** End of the run of equal bits that begins at `from`; at most `end`. */
  runEnd(from: number, end: number): number {
    // Bits that differ from the first one show as ones.
    const flip = this.has(from) ? 0xffffffff : 0;
    let word = from >>> 5;
    let differ = ((this.#words[word] ?? 0) ^ flip) & (0xffffffff << (from & 31));
    const last = (end - 1) >>> 5;
    while (differ === 0) {
      if (++word > last) return end;
      differ = (this.#words[word] ?? 0) ^ flip;
    }
    return Math.min(end, word * 32 + (31 - Math.clz32(differ & -differ)));
  }

  /** Runs of equal bits that together are [first, first + count). */
  *runs(first: number, count: number): Generator<{ first: number; count: number; set: boolean }> {
    const end = first + count;
    for (let at = first; at < end;) {
      const next = this.runEnd(at, end);
      yield { first: at, count: next - at, set: this.has(at) };
      at = next;
    }
  }

  set(first: number, count: number): void {
    this.#change(first, count, (word, mask) => (word | mask) >>> 0);
  }

  clear(first: number, count: number): void {
    this.#change(first, count, (word, mask) => (word & ~mask) >>> 0);
  }

  /** Adds all bits of another map of the same size. */
  addAll(other: BlockBits): void {
    for (let word = 0; word < this.#words.length; word++) {
      const bits = other.#words[word] ?? 0;
      if (bits !== 0) this.#put(word, ((this.#words[word] ?? 0) | bits) >>> 0);
    }
  }

  markPageChanged(page: number): void {
    this.#changedPages[page] = 1;
  }

  /** Copies of at most `pagesMax` pages that changed, which count as unchanged from now on. */
  takeChangedPages(pagesMax: number): { page: number; bytes: Uint8Array }[] {
    const taken: { page: number; bytes: Uint8Array }[] = [];
    for (let page = this.#changedPages.indexOf(1); page >= 0; page = this.#changedPages.indexOf(1, page + 1)) {
      if (taken.length === pagesMax) break;
      this.#changedPages[page] = 0;
      const words = this.#words.slice(page * WORDS_PER_PAGE, (page + 1) * WORDS_PER_PAGE);
      taken.push({ page, bytes: new Uint8Array(words.buffer) });
    }
    return taken;
  }

  /** The memory is about to go away: from now on there is nothing in here, and nothing is touched. */
  release(): void {
    this.#words = new Uint32Array(0);
  }

  #change(first: number, count: number, change: (word: number, mask: number) => number): void {
    const end = first + count;
    for (let at = first; at < end;) {
      const bit = at & 31;
      const n = Math.min(32 - bit, end - at);
      const word = at >>> 5;
      this.#put(word, change(this.#words[word] ?? 0, maskOf(bit, n)));
      at += n;
    }
  }

  #put(word: number, after: number): void {
    const before = this.#words[word];
    if (before === undefined || before === after) return;
    this.#words[word] = after;
    this.#count += popcount32(after) - popcount32(before);
    this.#changedPages[Math.floor(word / WORDS_PER_PAGE)] = 1;
  }
}
