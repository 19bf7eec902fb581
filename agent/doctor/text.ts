/**
 * The checks as people read them: a line each, what to do below it. Pure.
 */
import { isFine, type Check } from './check.js';

export function doctorText(checks: readonly Check[]): string {
  const width = Math.max(...checks.map(({ name }) => name.length));
  const lines = checks.flatMap(({ name, verdict, message, todo }) => [
    `${verdict.padEnd(4)}  ${name.padEnd(width)}  ${message}`,
    ...(todo === null ? [] : [`${' '.repeat(width + 8)}→ ${todo}`]),
  ]);
  const count = (verdict: Check['verdict']): number => checks.filter((check) => check.verdict === verdict).length;
  const sum = isFine(checks) ? 'Nothing fails' : `${count('fail')} of ${checks.length} checks fail`;
  const warnings = count('warn');
  const noticed = warnings === 0 ? '' : `; ${warnings} ${warnings === 1 ? 'deserves' : 'deserve'} attention`;
  return [...lines, '', `${sum}${noticed}.`].join('\n');
}
