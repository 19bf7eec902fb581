/**
 * Seeds that every test run goes through, in a shortened world: chosen so that together they have each kind of fault, with and without upkeep and readers.
 */
export const SEEDS: readonly number[] = [3, 5, 103, 104, 111, 117, 124];

/** Virtual time with faults in these. */
export const FAULTY_MS = 40_000;
