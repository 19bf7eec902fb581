/** Random hashes, ids and choices from a seed. */
import { randomOf, type Random as Source } from '../helpers/random.js';

export class Random {
  readonly #next: Source;

  constructor(seed: number) {
    this.#next = randomOf(seed);
  }

  below(n: number): number {
    return Math.floor(this.#next() * n);
  }

  chance(p: number): boolean {
    return this.#next() < p;
  }

  /** A block's hash: a zero block now and then. */
  hash(): bigint {
    return this.chance(0.2) ? 0n : (BigInt(this.below(2 ** 32)) << 32n) | BigInt(this.below(2 ** 32)) | 1n;
  }

  hashes(count: number): BigUint64Array {
    return BigUint64Array.from({ length: count }, () => this.hash());
  }

  uuid(): string {
    const part = (): string =>
      this.below(2 ** 32)
        .toString(16)
        .padStart(8, '0');
    const hex = part() + part() + part() + part();
    return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
  }
}
