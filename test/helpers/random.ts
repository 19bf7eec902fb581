/** Random numbers from a seed: a failing test names its seed and can be run again. (mulberry32) */
export type Random = () => number;

export function randomOf(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Whole number in [from, to). */
export const between = (random: Random, from: number, to: number): number => from + Math.floor(random() * (to - from));
