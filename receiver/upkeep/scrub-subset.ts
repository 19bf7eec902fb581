/**
 * Which of some numbers XOR to a sum. Pure. With n numbers of 64 bits that have nothing to do with each other, a wrong answer is found once in 2^(64 - n)
 * times: callers keep n small.
 */

/** Places of the numbers that XOR to `sum`; null when there are none, or more ways than one. */
export function subsetWithXor(numbers: readonly bigint[], sum: bigint): number[] | null {
  // Rows in echelon form by their highest bit, each with the numbers that it is made of.
  const rows = new Map<number, { readonly value: bigint; readonly of: bigint }>();
  const reduce = (value: bigint, of: bigint): { readonly value: bigint; readonly of: bigint } => {
    while (value !== 0n) {
      const row = rows.get(highestBit(value));
      if (row === undefined) break;
      value ^= row.value;
      of ^= row.of;
    }
    return { value, of };
  };
  for (const [i, number] of numbers.entries()) {
    const row = reduce(number, 1n << BigInt(i));
    if (row.value === 0n) return null;
    rows.set(highestBit(row.value), row);
  }
  const { value, of } = reduce(sum, 0n);
  if (value !== 0n) return null;
  return numbers.map((_, i) => i).filter((i) => ((of >> BigInt(i)) & 1n) === 1n);
}

const highestBit = (value: bigint): number => value.toString(2).length - 1;
