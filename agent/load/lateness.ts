/**
 * Whether limits made a cycle miss the distance of points, and which of them. Pure.
 */
import type { LimitName } from './work-limits.js';

const NAMES: Readonly<Record<LimitName, string>> = {
  bandwidth: 'bandwidth',
  cpu: 'cpu',
  'io-rate': 'io.rate',
  'io-requests': 'io.requests',
};

const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;

/** What held work up between two tellings, longest first: `io.rate 7.5 s, cpu 0.2 s`; '' when nothing did. */
export function heldBetween(before: ReadonlyMap<LimitName, number>, after: ReadonlyMap<LimitName, number>): string {
  return [...after]
    .map(([name, ms]) => ({ name, ms: ms - (before.get(name) ?? 0) }))
    .filter(({ ms }) => ms >= 1)
    .sort((a, b) => b.ms - a.ms)
    .map(({ name, ms }) => `${NAMES[name]} ${seconds(ms)}`)
    .join(', ');
}

/** Null when the cycle kept its interval, or no limit held it up. */
export function lateness(
  before: ReadonlyMap<LimitName, number>,
  after: ReadonlyMap<LimitName, number>,
  durationMs: number,
  intervalMs: number,
): string | null {
  const held = heldBetween(before, after);
  if (durationMs <= intervalMs || held === '') return null;
  return `the last point took ${seconds(durationMs)} of an interval of ${seconds(intervalMs)}; limits held it up: ${held}`;
}
