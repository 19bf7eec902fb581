/**
 * Map from block number to 64-bit hash in typed arrays (24 bytes per entry, 48 just after it grew): what a running cycle has sent so far.
 * Open addressing with linear probing; keys are never removed.
 */
const EMPTY = 0xffffffff;
const START_CAPACITY = 1024;

export class BlockHashMap {
  #keys = new Uint32Array(START_CAPACITY).fill(EMPTY);
  #values = new BigUint64Array(START_CAPACITY);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  get(block: number): bigint | undefined {
    const slot = this.#slot(block);
    return this.#keys[slot] === block ? this.#values[slot] : undefined;
  }

  set(block: number, hash: bigint): void {
    let slot = this.#slot(block);
    if (this.#keys[slot] !== block) {
      if (this.#size * 2 >= this.#keys.length) {
        this.#grow();
        slot = this.#slot(block);
      }
      this.#keys[slot] = block;
      this.#size++;
    }
    this.#values[slot] = hash;
  }

  /** All entries, in no particular order. */
  entries(): { blocks: Uint32Array; hashes: BigUint64Array; length: number } {
    const blocks = new Uint32Array(this.#size);
    const hashes = new BigUint64Array(this.#size);
    let n = 0;
    for (let i = 0; i < this.#keys.length; i++) {
      const key = this.#keys[i];
      if (key === undefined || key === EMPTY) continue;
      blocks[n] = key;
      hashes[n++] = this.#values[i] ?? 0n;
    }
    return { blocks, hashes, length: n };
  }

  #slot(block: number): number {
    const mask = this.#keys.length - 1;
    let slot = Math.imul(block, 0x9e3779b1) >>> 0;
    slot = (slot ^ (slot >>> 15)) & mask;
    while (this.#keys[slot] !== EMPTY && this.#keys[slot] !== block) slot = (slot + 1) & mask;
    return slot;
  }

  #grow(): void {
    const keys = this.#keys;
    const values = this.#values;
    this.#keys = new Uint32Array(keys.length * 2).fill(EMPTY);
    this.#values = new BigUint64Array(keys.length * 2);
    for (let i = 0; i < keys.length; i++) {
      const key = keys[i];
      if (key === undefined || key === EMPTY) continue;
      const slot = this.#slot(key);
      this.#keys[slot] = key;
      this.#values[slot] = values[i] ?? 0n;
    }
  }
}
