/**
 * A profile as people read it in a terminal. Pure text.
 */
import { formatBytes, formatDuration } from '../../shared/units.js';
import { sparkline } from './chart.js';
import type { Recommendation } from './recommend.js';
import type { Profile, Spread } from './report.js';

const CHART_WIDTH = 60;

const size = (bytes: number): string => formatBytes(Math.round(bytes));
const percent = (share: number): string => `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`;
const spreadText = (s: Spread, unit: string): string =>
  `mean ${size(s.mean)}${unit}, median ${size(s.p50)}${unit}, 95 % ${size(s.p95)}${unit}, 99 % ${size(s.p99)}${unit}, peak ${size(s.peak)}${unit}`;

export function profileText(profile: Profile, recommendation: Recommendation): string {
  const { measuredMs, everyMs, isInterrupted, disks, windows, samples } = profile;
  const lines = [
    `Measured for ${formatDuration(measuredMs)}, a sample every ${formatDuration(everyMs)}${isInterrupted ? ' (interrupted)' : ''}`,
  ];
  for (const d of disks) {
    const { hot } = d;
    lines.push(
      `  ${d.device}  ${size(d.sizeBytes)}  by ${d.method}${d.methodReason === '' ? '' : ` (${d.methodReason})`}`,
      `    written:    ${size(d.writtenBytes)}; ${spreadText(d.writeRate, '/s')}`,
      `    changed:    ${size(hot.distinctBytes)}; ${percent(hot.overwrittenShare)} of the changes overwrote earlier ones; 90 % of them fell on ${size(hot.hotBytes)} of the disk`,
      `    compressed: ${d.compressedShare === null ? 'nothing was sampled' : `to ${percent(d.compressedShare)}`}`,
      ...d.doubts.map((doubt) => `    doubt:      ${doubt}`),
    );
  }
  const written = samples.map((s) => s.writtenBytes);
  const changed = samples.map((s) => s.changedBytes);
  lines.push(
    `  written per sample  ${sparkline(written, CHART_WIDTH)}  up to ${size(Math.max(0, ...written))}`,
    `  changed per sample  ${sparkline(changed, CHART_WIDTH)}  up to ${size(Math.max(0, ...changed))}`,
    '  what a point would hold, by its interval (overwritten blocks count once):',
    ...windows.map(
      (w) => `    ${formatDuration(w.lengthMs).padStart(8)}  ${spreadText(w.bytes, '')}  (${w.windows} seen)`,
    ),
    ...recommendationLines(recommendation),
  );
  return lines.join('\n');
}

function recommendationLines({ interval, bandwidth, storage, needs, notes }: Recommendation): string[] {
  const lines = ['Recommended'];
  if (interval === null || bandwidth === null || storage === null) {
    const longest = needs.at(-1);
    lines.push(
      longest === undefined
        ? '  nothing: not even one window was measured'
        : `  no interval: even points of ${formatDuration(longest.intervalMs)} need ${size(longest.bandwidth)}/s`,
    );
  } else {
    lines.push(
      `  interval:   ${formatDuration(interval.ms)} (${interval.reason})`,
      `  bandwidth:  ${size(bandwidth.bytesPerSecond)}/s, at peak ${size(bandwidth.atPeak)}/s (${bandwidth.reason})`,
      `  storage:    ${size(storage.bytes)}: ${size(storage.imageBytes)} for the disks, ${size(storage.historyBytes)} for their history (${storage.reason})`,
    );
  }
  return [...lines, ...notes.map((note) => `  - ${note}`)];
}
