/**
 * A mapped bitmap with one bit per group of 64 blocks that only the agent writes (`pending`, `suspects`). It is pinned, so
 * what was set stands after a crash. Bits are only ever taken away by `replace`, whose every intermediate state holds all
 * that the new image holds.
 */
import type { BlockSet } from '../../../../shared/blocks/block-set.js';
import { GROUP_BLOCKS } from './layout.js';
import { forEachBit, forEachDirtyPage } from './scan.js';

/** Blocks that are asked of a set at once, as a plain array. */
const WINDOW_BLOCKS = 32_768;

/** Beyond this share of a disk, most groups show by their first block already. */
const DENSE_SHARE = 1 / 8;

/** Image of a set of blocks as a bitmap of groups. */
export function groupImage(blocks: BlockSet, blockCount: number, bytes: number): Buffer {
  const image = Buffer.alloc(bytes);
  const dense = blocks.size > blockCount * DENSE_SHARE;
  let left = blocks.size;
  for (let first = 0; left > 0 && first < blockCount; first += WINDOW_BLOCKS) {
    if (dense && firstBlocksSayAll(blocks, first, image)) continue;
    const found = blocks.blocksIn(first, WINDOW_BLOCKS);
    left -= found.length;
    for (const block of found) setBit(image, Math.floor(block / GROUP_BLOCKS));
  }
  return image;
}

/** Sets the groups of a window whose first block is in the set; true when these are all of them. */
function firstBlocksSayAll(blocks: BlockSet, first: number, image: Buffer): boolean {
  let all = true;
  for (let block = first; block < first + WINDOW_BLOCKS; block += GROUP_BLOCKS) {
    if (blocks.has(block)) setBit(image, block / GROUP_BLOCKS);
    else all = false;
  }
  return all;
}

export function setBit(image: Buffer, bit: number): void {
  const index = bit >>> 3;
  image[index] = (image[index] ?? 0) | (1 << (bit & 7));
}

/** Adds all blocks of `count` groups from number `group` on, as far as they exist. */
export function addGroups(into: BlockSet, group: number, count: number, blockCount: number): void {
  const first = group * GROUP_BLOCKS;
  into.addRange(first, Math.max(0, Math.min(count * GROUP_BLOCKS, blockCount - first)));
}

export class GroupBitmap {
  readonly #bytes: Buffer;
  readonly #words: Int32Array;

  constructor(memory: ArrayBuffer, lengthBytes: number) {
    this.#bytes = Buffer.from(memory, 0, lengthBytes);
    this.#words = new Int32Array(memory, 0, lengthBytes >>> 2);
  }

  get lengthBytes(): number {
    return this.#bytes.length;
  }

  /** Sets bits of a 32-bit word. */
  orWord(word: number, bits: number): void {
    this.#words[word] = (this.#words[word] ?? 0) | bits;
  }

  orImage(image: Buffer): void {
    forEachDirtyPage(image, (first, end) => {
      for (let i = first; i < end; i++) this.orWord(i, image.readInt32LE(i * 4));
    });
  }

  /** Becomes `image`, which is normally part of what stands: so at no time is a bit missing that is in both. */
  replace(image: Buffer): void {
    image.copy(this.#bytes);
  }

  forEachGroup(visit: (group: number) => void): void {
    forEachDirtyPage(this.#bytes, (first, end) => {
      for (let i = first; i < end; i++) forEachBit(this.#words[i] ?? 0, (bit) => visit(i * 32 + bit));
    });
  }

  addTo(blocks: BlockSet, blockCount: number): void {
    this.forEachGroup((group) => addGroups(blocks, group, 1, blockCount));
  }
}
