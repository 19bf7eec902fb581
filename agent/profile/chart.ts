/**
 * A row of values as block characters. Pure text.
 */
const LEVELS = '▁▂▃▄▅▆▇█';

/** At most `width` columns: where there are more values, each column shows the largest of its own. Zero is blank. */
export function sparkline(values: readonly number[], width: number): string {
  const columns = Math.min(width, values.length);
  const peak = Math.max(0, ...values);
  return Array.from({ length: columns }, (_, i) => {
    const from = Math.floor((i * values.length) / columns);
    const to = Math.floor(((i + 1) * values.length) / columns);
    const value = Math.max(...values.slice(from, to));
    if (value <= 0 || peak <= 0) return ' ';
    return LEVELS[Math.min(LEVELS.length - 1, Math.floor((value / peak) * LEVELS.length))] ?? '';
  }).join('');
}
