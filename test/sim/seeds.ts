/**
 * Seeds that every test run goes through, in a shortened world. Chosen from many by what they came through (`--seen`): each next one adds the most that
 * the ones before hadn't, for the time that it takes.
 */
export const SEEDS: readonly number[] = [702, 705, 708, 710, 713, 715, 723, 727, 732];

/** Virtual time with faults in these. */
export const FAULTY_MS = 40_000;
