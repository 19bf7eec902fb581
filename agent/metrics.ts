/**
 * Metrics of the agent in Prometheus' form, collected from the status when they are asked for.
 */
import { Gauge, Registry } from 'prom-client';
import type { LimitStatus } from './load/work-limits.js';
import { FAILED_OVER, type AgentSnapshot, type DiskSnapshot } from './status.js';

interface Metric<T> {
  readonly name: string;
  readonly help: string;
  readonly of: (from: T) => number | null | undefined;
}

const MACHINE: readonly Metric<AgentSnapshot>[] = [
  { name: 'connected', help: '1 while connected to the receiver', of: (s) => (s.receiver.connected ? 1 : 0) },
  {
    name: 'failed_over',
    help: '1 while the receiver refuses this machine because it was failed over',
    of: (s) => (s.state === FAILED_OVER ? 1 : 0),
  },
  {
    name: 'restoring',
    help: '1 while this machine’s disks are being restored',
    of: (s) => (s.receiver.mode === 'restore' ? 1 : 0),
  },
  { name: 'restore_ratio', help: 'Progress of the step of a restore', of: (s) => (s.restore?.percent ?? 0) / 100 },
  {
    name: 'workload_stopped',
    help: '1 while a planned failover has shut the workload down',
    of: (s) => (s.finalCut === null ? 0 : 1),
  },
  { name: 'last_point', help: 'Number of the last recovery point', of: (s) => s.lastPoint?.number },
  { name: 'last_point_age_seconds', help: 'Age of the last cut', of: (s) => s.lastPoint?.ageSeconds },
  {
    name: 'last_point_consistency',
    help: '1 crash, 2 filesystem, 3 application',
    of: (s) =>
      s.lastPoint === null ? null : ['crash', 'filesystem', 'application'].indexOf(s.lastPoint.consistency) + 1,
  },
  { name: 'cut_passes', help: 'Passes of the last cut', of: (s) => s.lastPoint?.passes },
  {
    name: 'cut_seconds',
    help: 'Duration of the last cut',
    of: (s) => (s.lastPoint === null ? null : s.lastPoint.cutMs / 1000),
  },
  {
    name: 'freeze_seconds',
    help: 'How long the last point froze filesystems',
    of: (s) => (s.lastPoint === null ? null : s.lastPoint.freezeMs / 1000),
  },
  {
    name: 'cycle_seconds',
    help: 'Duration of the last cycle',
    of: (s) => (s.lastPoint === null ? null : s.lastPoint.durationMs / 1000),
  },
  {
    name: 'held_seconds',
    help: 'How long the last point held commits of applications back',
    of: (s) => (s.lastPoint === null ? null : s.lastPoint.heldMs / 1000),
  },
  {
    name: 'application_point_age_seconds',
    help: 'Age of the newest application-consistent point',
    of: (s) => s.applicationPoints.lastPoint?.ageSeconds,
  },
  {
    name: 'application_failures_in_a_row',
    help: 'Scheduled application-consistent points that failed in a row',
    of: (s) => s.applicationPoints.failuresInARow,
  },
  { name: 'alerts', help: 'Alerts that stand; /status says which', of: (s) => s.applicationPoints.alerts.length },
  { name: 'points_committed_total', help: 'Recovery points since the start', of: (s) => s.pointsCommitted },
  { name: 'points_skipped_total', help: 'Points that were not made, or fell back', of: (s) => s.pointsSkipped },
  { name: 'freezes_total', help: 'Points that froze filesystems', of: (s) => s.freezes },
  {
    name: 'late_by_limits',
    help: '1 when limits of load made the last point late; /status says which',
    of: (s) => (s.load.late === null ? 0 : 1),
  },
  { name: 'resident_bytes', help: 'Resident memory of the agent', of: (s) => s.memory.residentBytes },
];

const LIMIT: readonly Metric<LimitStatus>[] = [
  { name: 'value', help: 'Limit in force, per second; absent while there is none', of: (l) => l.limit },
  { name: 'holding', help: '1 while work waits for it', of: (l) => (l.isHolding ? 1 : 0) },
  { name: 'held_seconds_total', help: 'For how long work has waited for it', of: (l) => l.heldSeconds },
  { name: 'exceeded_seconds_total', help: 'Debts of points that were forgiven', of: (l) => l.exceededSeconds },
];

const DISK: readonly Metric<DiskSnapshot>[] = [
  { name: 'protected', help: '1 while the disk is Protected', of: (d) => (d.state === 'Protected' ? 1 : 0) },
  { name: 'size_bytes', help: 'Size of the disk', of: (d) => d.sizeBytes },
  {
    name: 'data_at_risk_bytes',
    help: 'Bytes that would be lost if the source died now',
    of: (d) => d.dataAtRisk.bytes,
  },
  {
    name: 'data_at_risk_seconds',
    help: 'Seconds that would be lost if the source died now',
    of: (d) => d.dataAtRisk.seconds,
  },
  {
    name: 'progress_ratio',
    help: 'Progress of a first copy or comparison',
    of: (d) => (d.progress === null ? null : d.progress.percent / 100),
  },
  {
    name: 'progress_bytes_per_second',
    help: 'Rate of a first copy or comparison',
    of: (d) => d.progress?.bytesPerSecond,
  },
  {
    name: 'progress_seconds_left',
    help: 'Time left of a first copy or comparison',
    of: (d) => d.progress?.secondsLeft,
  },
  { name: 'read_bytes_total', help: 'Bytes read from the disk', of: (d) => d.counters.readBytes },
  { name: 'sent_bytes_total', help: 'Bytes of data messages sent', of: (d) => d.counters.sentBytes },
  { name: 'changed_bytes_total', help: 'Plain bytes of blocks that were sent', of: (d) => d.counters.changedBytes },
  { name: 'stored_bytes_total', help: 'Bytes that the receiver stored for points', of: (d) => d.counters.storedBytes },
  {
    name: 'clean_samples_total',
    help: 'Blocks claimed clean that were read and checked',
    of: (d) => d.counters.cleanSamples,
  },
  { name: 'clean_mismatches_total', help: 'Of these, how many were not', of: (d) => d.counters.cleanMismatches },
  { name: 'tracking_submitted_sectors', help: 'Sectors seen at submission', of: (d) => d.tracking?.submittedSectors },
  { name: 'tracking_completed_sectors', help: 'Sectors seen at completion', of: (d) => d.tracking?.completedSectors },
  { name: 'tracking_kernel_sectors', help: "Sectors in the kernel's own count", of: (d) => d.tracking?.kernelSectors },
  { name: 'tracking_opaque_writes', help: 'Passthrough writes seen', of: (d) => d.tracking?.opaqueWrites },
  {
    name: 'tracking_recursion_misses',
    help: 'Program runs that the kernel dropped',
    of: (d) => d.tracking?.recursionMisses,
  },
  { name: 'tracking_audits_balanced', help: 'Audits that balanced', of: (d) => d.tracking?.auditsBalanced },
  {
    name: 'tracking_audits_recopied',
    help: 'Audits that made blocks be read again',
    of: (d) => d.tracking?.auditsRecopied,
  },
];

export function agentMetrics(snapshot: () => AgentSnapshot): Registry {
  const registry = new Registry();
  for (const metric of MACHINE) {
    new Gauge({
      name: `afterimage_agent_${metric.name}`,
      help: metric.help,
      registers: [registry],
      collect() {
        const value = metric.of(snapshot());
        if (value != null) this.set(value);
      },
    });
  }
  for (const metric of LIMIT) {
    new Gauge({
      name: `afterimage_agent_limit_${metric.name}`,
      help: metric.help,
      labelNames: ['limit'],
      registers: [registry],
      collect() {
        this.reset();
        for (const limit of snapshot().load.limits) {
          const value = metric.of(limit);
          if (value != null) this.set({ limit: limit.name }, value);
        }
      },
    });
  }
  for (const metric of DISK) {
    new Gauge({
      name: `afterimage_agent_disk_${metric.name}`,
      help: metric.help,
      labelNames: ['disk', 'device'],
      registers: [registry],
      collect() {
        this.reset();
        for (const disk of snapshot().disks) {
          const value = metric.of(disk);
          if (value != null) this.set({ disk: disk.id, device: disk.device }, value);
        }
      },
    });
  }
  return registry;
}
