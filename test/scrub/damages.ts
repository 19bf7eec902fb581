/** What can happen to an object of a store: each way, at each place. */

export type Objects = Map<string, Buffer>;

/** Does it to the object, or by `where` to another that has the same bytes, if that is there. */
export type Damaging = (objects: Objects, where?: (name: string) => string) => void;

const flipped = (bytes: Buffer, at: number): Buffer => {
  const copy = Buffer.from(bytes);
  copy[at] = (copy[at] ?? 0) ^ 0x04;
  return copy;
};

/** First, last, and some between: header, chunks, index and footer of a layer, line and seal of the rest. */
const positions = (length: number): number[] => [
  ...new Set([0, 30, 70, Math.floor(length / 3), Math.floor(length / 2), length - 40, length - 20, length - 1]),
];

/** `few`: a flip in the middle and one in the seal are enough. */
export function* damages(
  whole: ReadonlyMap<string, Buffer>,
  name: string,
  few = false,
): Generator<readonly [string, Damaging]> {
  const bytes = whole.get(name) ?? Buffer.alloc(0);
  const set =
    (to: Buffer): Damaging =>
    (objects, where = (same) => same) => {
      if (objects.has(where(name))) objects.set(where(name), to);
    };
  const places = few ? [Math.floor(bytes.length / 2), bytes.length - 10] : positions(bytes.length);
  for (const at of places.filter((p) => p >= 0 && p < bytes.length))
    yield [`byte ${at} flipped`, set(flipped(bytes, at))];
  for (const length of few ? [0] : [0, Math.floor(bytes.length / 2), bytes.length - 1])
    yield [`truncated to ${length}`, set(bytes.subarray(0, length))];
  yield ['removed', (objects, where = (same) => same) => void objects.delete(where(name))];
  for (const other of partners(whole, name)) {
    // Two that were written in the same millisecond may be the same: nothing is damaged then.
    if (whole.get(other)?.equals(bytes) === true) continue;
    const swap: Damaging = (objects, where = (same) => same) => {
      if (!objects.has(where(name)) || !objects.has(where(other))) return;
      objects.set(where(name), whole.get(other) ?? Buffer.alloc(0));
      objects.set(where(other), bytes);
    };
    yield [`swapped with ${other}`, swap];
  }
}

/** The next of its own kind, the same of the other machine, and something else altogether. */
function partners(whole: ReadonlyMap<string, Buffer>, name: string): string[] {
  const all = [...whole.keys()].filter((other) => !isCopy(other)).sort();
  const kind = kindOf(name);
  const same = all.filter((other) => kindOf(other) === kind && other !== name);
  const next = same.find((other) => other > name) ?? same[0];
  const elsewhere = same.find((other) => other.slice(0, 45) !== name.slice(0, 45));
  const other = all.find((o) => kindOf(o) !== kind && o !== 'format');
  return [...new Set([next, elsewhere, other])].filter((o) => o !== undefined);
}

const isCopy = (name: string): boolean => /^(machines\/[^/]+\/)?copies\//.test(name);

/** Its folder: of the machine, or of the store. */
export const kindOf = (name: string): string => name.split('/')[name.startsWith('machines/') ? 2 : 0] ?? '';

export const namesOfKind = (whole: ReadonlyMap<string, Buffer>, kind: string): string[] =>
  [...whole.keys()].filter((name) => kindOf(name) === kind && !isCopy(name));
