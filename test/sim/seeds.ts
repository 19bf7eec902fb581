/**
 * Seeds that every test run goes through, in a shortened world. Chosen from many by what they came through (`--seen`): each next one adds the most that
 * the ones before hadn't, for the time that it takes. The last four have what the others lack: objects that rot and are mended or named as lost,
 * machines that receivers or sources encrypt, new keys.
 */
export const SEEDS: readonly number[] = [702, 705, 708, 710, 713, 715, 723, 727, 732, 908, 922, 970, 1010];

/** ... in which receivers share machines, chosen likewise: between them they have all faults, take-overs for upkeep, agents that can't get to where they
 * belong, and machines that are failed over and come home. */
export const FLEET_SEEDS: readonly number[] = [2011, 2019, 2022, 2034, 3011, 3065, 3071, 3082];

/** ... in which machines are failed over and brought home by plan, and tested. */
export const HOME_SEEDS: readonly number[] = [4, 9, 10, 15];

/** Virtual time with faults in these. */
export const FAULTY_MS = 40_000;
