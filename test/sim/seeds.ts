/**
 * Seeds that every test run goes through: chosen so that together they have each fault often, and those that once failed, with what they found.
 */
export interface KnownSeed {
  readonly seed: number;
  readonly why: string;
}

export const SEEDS: readonly KnownSeed[] = [
  { seed: 3, why: 'no room for the hash store while a welcome is worked on: it was never opened again' },
  { seed: 5, why: 'all was called safe while a cycle was under way' },
  { seed: 101, why: 'stalls, crashes of the receiver, clocks that jump' },
  { seed: 103, why: 'power cuts and several receivers' },
  { seed: 104, why: 'many kinds of faults at once' },
  { seed: 111, why: 'partitions and stalls' },
  { seed: 117, why: 'a store and a state folder that are full again and again' },
  { seed: 124, why: 'lost, late and repeated requests with takeovers' },
];
