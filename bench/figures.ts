/**
 * What a bench finds: figures with their spread, printed for people or as one JSON line each. Pure, but for the printing.
 */

export interface Figure {
  readonly figure: string;
  readonly value: number;
  readonly unit: string;
  /** The same figure of a peer in the same run; null where there is none. */
  readonly peer: { readonly name: string; readonly value: number } | null;
  /** What is promised, in words; null for a figure that only explains. */
  readonly goal: string | null;
  /** Whether the goal was met in this run; null without a goal. */
  readonly met: boolean | null;
  readonly runs: number;
  /** Smallest and largest of the runs. */
  readonly spread: readonly [number, number];
}

export const sorted = (values: readonly number[]): number[] => [...values].sort((a, b) => a - b);

export function quantile(values: readonly number[], q: number): number {
  const ascending = sorted(values);
  if (ascending.length === 0) return NaN;
  const at = (ascending.length - 1) * q;
  const low = ascending[Math.floor(at)] ?? NaN;
  const high = ascending[Math.ceil(at)] ?? NaN;
  return low + (high - low) * (at - Math.floor(at));
}

export const median = (values: readonly number[]): number => quantile(values, 0.5);
export const spreadOf = (values: readonly number[]): readonly [number, number] => [
  Math.min(...values),
  Math.max(...values),
];

/** The median of some runs as a figure. */
export function figureOf(
  figure: string,
  unit: string,
  values: readonly number[],
  more: Partial<Pick<Figure, 'peer' | 'goal' | 'met' | 'value'>> = {},
): Figure {
  return {
    figure,
    value: median(values),
    unit,
    peer: null,
    goal: null,
    met: null,
    ...more,
    runs: values.length,
    spread: spreadOf(values),
  };
}

/** Slope of a line through the points (least squares), per unit of x. */
export function slope(points: readonly (readonly [number, number])[]): number {
  const n = points.length;
  const meanX = points.reduce((s, [x]) => s + x, 0) / n;
  const meanY = points.reduce((s, [, y]) => s + y, 0) / n;
  const over = points.reduce((s, [x, y]) => s + (x - meanX) * (y - meanY), 0);
  const under = points.reduce((s, [x]) => s + (x - meanX) ** 2, 0);
  return under === 0 ? 0 : over / under;
}

const short = (value: number): string =>
  Number.isInteger(value) && Math.abs(value) < 1e6 ? String(value) : value.toPrecision(4);

const HEAD = ['figure', 'value', 'unit', 'spread', 'runs', 'peer', 'goal', 'met'] as const;

function cells(f: Figure): string[] {
  return [
    f.figure,
    short(f.value),
    f.unit,
    `${short(f.spread[0])} … ${short(f.spread[1])}`,
    String(f.runs),
    f.peer === null ? '' : `${f.peer.name} ${short(f.peer.value)}`,
    f.goal ?? '',
    f.met === null ? '' : f.met ? 'yes' : 'NO',
  ];
}

export function table(figures: readonly Figure[]): string {
  const rows = [[...HEAD], ...figures.map(cells)];
  const widths = HEAD.map((_, column) => Math.max(...rows.map((row) => (row[column] ?? '').length)));
  return rows
    .map((row) =>
      row
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
