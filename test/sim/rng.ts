/**
 * Randomness of the simulation: everything that happens by chance is drawn from one seed. Each actor has a stream of its own, so that a fault more
 * or less doesn't change what another actor does.
 */
import { Random } from '../hash-store/random.js';

function hashOf(text: string, seed: number): number {
  let hash = (0x811c9dc5 ^ seed) >>> 0;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193) >>> 0;
  return hash;
}

export class Rng extends Random {
  readonly #seed: number;

  constructor(seed: number) {
    super(seed);
    this.#seed = seed >>> 0;
  }

  /** A stream of its own, the same for the same name whatever was drawn before. */
  fork(name: string): Rng {
    return new Rng(hashOf(name, this.#seed));
  }

  /** In [0, 1). */
  readonly unit = (): number => this.below(2 ** 32) / 2 ** 32;

  /** In [from, to). */
  between(from: number, to: number): number {
    return from + this.unit() * (to - from);
  }

  /** Whole number in [from, to]. */
  whole(from: number, to: number): number {
    return from + this.below(to - from + 1);
  }

  /** Mostly short, now and then long. */
  wait(meanMs: number): number {
    return -Math.log(1 - this.unit()) * meanMs;
  }

  /** Not for keeping secrets: for keys of a world that is the same each time. */
  bytes(length: number): Buffer {
    return Buffer.from(Array.from({ length }, () => this.below(256)));
  }

  pick<T>(items: readonly T[]): T {
    const item = items[this.below(items.length)];
    if (item === undefined) throw new Error('nothing to pick from');
    return item;
  }
}
