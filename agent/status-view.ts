/**
 * The agent's status as people read it in a terminal. Pure text.
 */
import { formatBytes, formatDuration } from '../shared/units.js';
import type { LimitStatus, LoadStatus } from './load/work-limits.js';
import { FAILED_OVER, type AgentSnapshot, type DiskSnapshot } from './status.js';

const BAR_WIDTH = 30;

export function bar(percent: number): string {
  const full = Math.round((Math.min(100, percent) / 100) * BAR_WIDTH);
  return `[${'█'.repeat(full)}${'░'.repeat(BAR_WIDTH - full)}] ${percent.toFixed(1).padStart(5)} %`;
}

export function riskText(disk: DiskSnapshot): string {
  const { seconds, bytes } = disk.dataAtRisk;
  if (seconds === null) return 'all of it: no recovery point yet';
  return `${formatDuration(seconds * 1000)}, ${bytes === null ? 'bytes unknown without tracking' : formatBytes(bytes)}`;
}

export function statusText(s: AgentSnapshot & { problem?: string | null }): string {
  const lines = [`${s.machine.name}  ${s.state}`];
  if (s.problem != null) lines.push(`  problem:    ${s.problem}`);
  lines.push(
    s.receiver.connected
      ? `  receiver:   ${s.receiver.address}, connected`
      : `  receiver:   ${s.receiver.address}, NOT connected: ${s.receiver.reason}${s.receiver.retryInSeconds === null ? '' : ` (again in ${s.receiver.retryInSeconds} s)`}`,
  );
  const { refused } = s.receiver;
  if (refused !== null) lines.push(`  ${refused.name}: ${refused.reason}`, `              ${refused.hint}`);
  if (s.restore !== null) {
    lines.push(`  restore:    point ${s.restore.point}, ${s.restore.step}`);
    if (s.restore.percent !== null) lines.push(`              ${bar(s.restore.percent)}`);
  }
  if (s.finalCut !== null) lines.push(`  final cut:  ${s.finalCut}`);
  const p = s.lastPoint;
  if (p !== null) {
    const pace = `${p.passes} passes, cut ${p.cutMs.toFixed(0)} ms${p.freezeMs > 0 ? `, frozen ${p.freezeMs.toFixed(0)} ms` : ''}${p.heldMs > 0 ? `, held ${p.heldMs.toFixed(0)} ms` : ''}`;
    lines.push(
      `  last point: ${p.number}, ${formatDuration(p.ageSeconds * 1000)} ago, ${p.consistency}-consistent (${pace})`,
    );
    lines.push(
      `              changed ${formatBytes(p.changedBytes)}, sent ${formatBytes(p.sentBytes)}, stored ${formatBytes(p.storedBytes)}`,
    );
  }
  lines.push(...applicationLines(s.applicationPoints));
  lines.push(...loadLines(s.load));
  if (s.lastFallback !== null) lines.push(`  fallback:   ${s.lastFallback.at}: ${s.lastFallback.reason}`);
  for (const disk of s.disks) lines.push(...diskLines(disk, s.state === FAILED_OVER));
  return lines.join('\n');
}

const limitText = ({ name, limit }: LimitStatus): string => {
  if (limit === null) return 'none now';
  if (name === 'cpu') return `${Math.round(limit * 100)} % of a processor`;
  return name === 'io-requests' ? `${limit} reads/s` : `${formatBytes(limit)}/s`;
};

/** Limits that hold something up, or have; the others are in the configuration. */
export function loadLines({ limits, ioPriority, late }: LoadStatus): string[] {
  const lines = limits
    .filter(({ isHolding, heldSeconds }) => isHolding || heldSeconds >= 1)
    .map((limit) => {
      const now = limit.isHolding ? 'holds work up now' : 'holds nothing up now';
      const more =
        limit.exceededSeconds >= 1 ? `; points exceeded it by ${formatDuration(limit.exceededSeconds * 1000)}` : '';
      return `  limit:      ${limit.name} ${limitText(limit)}: ${now}, ${formatDuration(limit.heldSeconds * 1000)} in all${more}`;
    });
  if (late !== null) lines.push(`  LATE:       ${late}`);
  if (ioPriority !== 'normal') lines.push(`  priority:   reading at ${ioPriority}`);
  return lines;
}

function applicationLines(points: AgentSnapshot['applicationPoints']): string[] {
  const { schedule, nextAt, nextReason, lastPoint, lastFailure, alerts } = points;
  const lines: string[] = [];
  if (schedule !== null || lastPoint !== null) {
    const last =
      lastPoint === null ? 'none yet' : `point ${lastPoint.number}, ${formatDuration(lastPoint.ageSeconds * 1000)} ago`;
    const next = schedule === null ? '' : `; ${schedule}, next ${nextAt ?? 'never'} (${nextReason})`;
    lines.push(`  application-consistent: ${last}${next}`);
  }
  if (lastFailure !== '') lines.push(`              the last try: ${lastFailure}`);
  for (const { reason, hint } of alerts) lines.push(`  ALERT:      ${reason}`, `              ${hint}`);
  return lines;
}

function diskLines(disk: DiskSnapshot, isFailedOver: boolean): string[] {
  // What stands on a disk that was left behind is not production's data.
  if (isFailedOver) return [`  ${disk.device}  ${formatBytes(disk.sizeBytes)}  left behind: not replicated`];
  const lines = [
    `  ${disk.device}  ${formatBytes(disk.sizeBytes)}  ${disk.state}${disk.reason === '' ? '' : ` (${disk.reason})`}`,
    `    data at risk: ${riskText(disk)}`,
    `    tracker:      ${disk.tracker}${disk.trackerReason === '' ? '' : ` (${disk.trackerReason})`}`,
  ];
  if (disk.paths.length > 0) lines.push(`    paths:        ${disk.paths.join(', ')}, joined by multipath`);
  if (disk.progress !== null) {
    const { percent, bytesPerSecond, secondsLeft, readBytes, sentBytes } = disk.progress;
    const left = secondsLeft === null ? '' : `, ${formatDuration(secondsLeft * 1000)} left`;
    lines.push(`    ${bar(percent)}  ${formatBytes(bytesPerSecond)}/s${left}`);
    lines.push(`    read ${formatBytes(readBytes)}, sent ${formatBytes(sentBytes)}`);
  }
  if (disk.lastSweep !== null) {
    const { kind, reason, readBytes, sentBytes } = disk.lastSweep;
    const what = `read ${formatBytes(readBytes)}, sent ${formatBytes(sentBytes)}`;
    lines.push(`    last ${kind}: ${what} (${reason})`);
  }
  return lines;
}
