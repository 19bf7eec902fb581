/**
 * The hash of any block of a disk at the newest point of its chain, while points are added: from the content of an earlier point for blocks that
 * no point since has changed, else from a map of what was committed since.
 *
 * Memory is bounded: when the map would pass its bound, it is dropped, and the newest point's content is opened before the next cycle. That costs
 * one read of indexes for each REPLICATED_HASHES_MAX blocks that changed; to look each block up in the chain would cost more for every cycle,
 * since the small deltas that were just written are where most changed blocks are found, and to keep it all would grow without end.
 *
 * Layers of the point whose content was opened may be merged and deleted meanwhile: the newest point has the same hashes where nothing is known here, and is
 * opened in its place.
 *
 * Blocks whose layers are damaged are told as unknown: a copy that has all of itself can go on without them (replicate.ts).
 *
 * What a cycle notes counts from committed() on; dropped() forgets it. Nothing is kept on disk: after a crash the chain says it all.
 */
import { AfterimageError } from '../../shared/errors.js';
import { BlockHashMap } from '../../shared/blocks/hash-map.js';
import { REPLICATED_HASH_GAP_BLOCKS } from '../../shared/limits.js';
import type { BlockNumber } from '../../shared/units.js';
import type { PointContent } from './content.js';

/** Hashes of blocks in the order in which they were asked for; 0 for zero. Of `unknown` ones nothing can be told. */
export interface HashesBefore {
  readonly hashes: BigUint64Array;
  readonly unknown: ReadonlySet<BlockNumber>;
}

export class OldHashes {
  /** Null: it can't be read. */
  #reference: PointContent | null;
  /** The newest point of the chain, as of the cycle under way. */
  #newest = 0;
  readonly #reopen: (point: number) => Promise<PointContent>;
  readonly #entriesMax: number;
  #known = new BlockHashMap();
  #noted = new BlockHashMap();
  /** The running cycle noted more than the bound: its hashes are no longer kept. */
  #overflow = false;
  /** The reference is older than what is known here, or can't be read. */
  #stale = false;

  constructor(reference: PointContent | null, reopen: (point: number) => Promise<PointContent>, entriesMax: number) {
    this.#reference = reference;
    this.#stale = reference === null;
    this.#reopen = reopen;
    this.#entriesMax = entriesMax;
  }

  /** Before a cycle; `point` is the newest of the chain. May be tried again after a failure. */
  async prepare(point: number): Promise<void> {
    this.#newest = point;
    if (!this.#stale) return;
    this.#reference = await unlessCorrupt(() => this.#reopen(point));
    this.#stale = this.#reference === null;
  }

  /** Of these blocks (ascending). */
  async of(blocks: readonly BlockNumber[]): Promise<HashesBefore> {
    const hashes = new BigUint64Array(blocks.length);
    const untold = new Set<BlockNumber>();
    const unknown: number[] = [];
    for (const [i, block] of blocks.entries()) {
      const hash = this.#known.get(block);
      if (hash === undefined) unknown.push(i);
      else hashes[i] = hash;
    }
    for (let from = 0; from < unknown.length;) {
      const first = blocks[unknown[from] ?? 0] ?? 0;
      let to = from;
      let last = first;
      for (; to < unknown.length; to++) {
        const block = blocks[unknown[to] ?? 0] ?? 0;
        if (block - last > REPLICATED_HASH_GAP_BLOCKS) break;
        last = block;
      }
      const found = await this.#referenceHashes(first, last - first + 1);
      for (; from < to; from++) {
        const i = unknown[from] ?? 0;
        if (found === null) untold.add(blocks[i] ?? 0);
        else hashes[i] = found[(blocks[i] ?? 0) - first] ?? 0n;
      }
    }
    return { hashes, unknown: untold };
  }

  /** Null: they can't be told, as what says so is damaged. */
  async #referenceHashes(first: number, count: number): Promise<BigUint64Array | null> {
    const tried = this.#reference;
    if (tried === null) return null;
    try {
      return await tried.hashes(first, count);
    } catch (error) {
      // Until it can be read, the next cycle begins with another try.
      this.#stale = true;
      if (!isCorrupt(error)) throw error;
    }
    await this.prepare(this.#newest);
    const now = this.#reference;
    const found = now === null ? null : await unlessCorrupt(() => now.hashes(first, count));
    this.#stale ||= found === null;
    return found;
  }

  /** The running cycle gives a block another hash. */
  note(block: BlockNumber, hash: bigint): void {
    if (this.#overflow) return;
    this.#noted.set(block, hash);
    if (this.#noted.size <= this.#entriesMax) return;
    this.#overflow = true;
    this.#noted = new BlockHashMap();
  }

  /** What was noted is in a point now. */
  committed(): void {
    if (this.#overflow || this.#known.size + this.#noted.size > this.#entriesMax) {
      this.#stale = true;
      this.#known = new BlockHashMap();
    } else {
      const { blocks, hashes, length } = this.#noted.entries();
      for (let i = 0; i < length; i++) this.#known.set(blocks[i] ?? 0, hashes[i] ?? 0n);
    }
    this.dropped();
  }

  /** What was noted is not. */
  dropped(): void {
    this.#noted = new BlockHashMap();
    this.#overflow = false;
  }
}

const isCorrupt = (error: unknown): boolean => error instanceof AfterimageError && error.kind === 'corrupt';

async function unlessCorrupt<T>(work: () => Promise<T>): Promise<T | null> {
  try {
    return await work();
  } catch (error) {
    if (isCorrupt(error)) return null;
    throw error;
  }
}
