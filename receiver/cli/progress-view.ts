/**
 * Progress on stderr: a bar on a terminal, else a line every few seconds (a log of a job must stay readable).
 */
import { formatBytes, formatDuration } from '../../shared/units.js';
import type { OnProgress, ProgressReport } from '../volume/progress.js';
import type { CliIo } from './io.js';

const LINE_INTERVAL_MS = 5_000;

export interface ProgressView {
  readonly onProgress: OnProgress;
  /** Leaves the terminal as it was. */
  stop(): void;
}

const describe = (r: ProgressReport): string =>
  `${formatBytes(r.bytesDone)} of ${formatBytes(r.bytesTotal)}, ${formatBytes(r.bytesPerSecond)}/s, ${formatDuration(r.timeLeftMs)} left`;

async function barView(io: CliIo, title: string): Promise<ProgressView> {
  // Loaded only where there is a terminal.
  const { Presets, SingleBar } = await import('cli-progress');
  const bar = new SingleBar(
    {
      stream: io.err,
      format: `${title} {phase} [{bar}] {percentage}% | {text}`,
      hideCursor: true,
      clearOnComplete: false,
    },
    Presets.legacy,
  );
  let started = false;
  return {
    onProgress: (report) => {
      const payload = { phase: report.phase, text: describe(report) };
      if (started) bar.update(report.bytesDone, payload);
      else bar.start(report.bytesTotal, report.bytesDone, payload);
      started = true;
    },
    stop: () => {
      if (started) bar.stop();
    },
  };
}

function lineView(io: CliIo, title: string): ProgressView {
  let lastMs = io.clock.monotonicMs();
  return {
    onProgress: (report) => {
      const now = io.clock.monotonicMs();
      if (now - lastMs < LINE_INTERVAL_MS) return;
      lastMs = now;
      const percent = Math.floor((report.bytesDone / report.bytesTotal) * 100);
      io.err.write(`${title}: ${report.phase} ${percent} %, ${describe(report)}\n`);
    },
    stop: () => undefined,
  };
}

export const progressView = async (io: CliIo, title: string): Promise<ProgressView> =>
  io.err.isTTY === true ? barView(io, title) : lineView(io, title);
