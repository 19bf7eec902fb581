/**
 * Metrics of the receiver in Prometheus' form, collected from the sessions' status when they are asked for.
 */
import { Gauge, Registry } from 'prom-client';
import type { FailoverFigures } from './failover/engine.js';
import type { MachineStatus } from './session/status.js';
import { upkeepMetrics } from './upkeep-metrics.js';
import type { MachineUpkeepStatus } from './upkeep/upkeep-status.js';

interface Metric {
  readonly name: string;
  readonly help: string;
  readonly of: (machine: MachineStatus) => number | null;
}

const METRICS: readonly Metric[] = [
  { name: 'connected', help: '1 while the agent is connected', of: (m) => (m.connected ? 1 : 0) },
  { name: 'last_point', help: 'Number of the last recovery point', of: (m) => m.lastPoint?.number ?? null },
  {
    name: 'last_point_cut_timestamp_seconds',
    help: 'Wall time of the last cut',
    of: (m) => (m.lastPoint === null ? null : m.lastPoint.cutAtMs / 1000),
  },
  { name: 'points_committed_total', help: 'Recovery points committed since the start', of: (m) => m.pointsCommitted },
  { name: 'received_bytes_total', help: 'Bytes of data messages taken in', of: (m) => m.receivedBytes },
  { name: 'stored_bytes_total', help: 'Bytes of layers stored', of: (m) => m.storedBytes },
  { name: 'queued_bytes', help: 'Bytes in memory between socket and store', of: (m) => m.queuedBytes },
  { name: 'epoch', help: 'Epoch under which this receiver writes', of: (m) => m.epoch },
];

interface CopyMetric {
  readonly name: string;
  readonly help: string;
  readonly of: (copy: FailoverFigures['copies'][number]) => number | null;
}

const COPY_METRICS: readonly CopyMetric[] = [
  {
    name: 'data_at_risk_seconds',
    help: 'Age of what would be lost if this host died now',
    of: (copy) => copy.view().dataAtRisk?.seconds ?? null,
  },
  {
    name: 'data_at_risk_bytes',
    help: 'What would be lost if this host died now',
    of: (copy) => copy.view().dataAtRisk?.bytes ?? null,
  },
  {
    name: 'points_committed_total',
    help: 'Recovery points made of the copy since the start',
    of: (copy) => (copy.instance.kind === 'test' ? null : copy.pointsCommitted),
  },
  {
    name: 'hydrated_percent',
    help: 'What of its least hydrated disk is on this host',
    of: (copy) => {
      const parts = copy.view().disks.map((disk) => disk.hydratedPercent ?? 0);
      return parts.length === 0 ? null : Math.min(...parts);
    },
  },
  {
    name: 'problem',
    help: '1 while the copy is not replicated as it should be',
    of: (copy) => (copy.view().problem === null ? 0 : 1),
  },
];

function failoverMetrics(registry: Registry, figures: () => FailoverFigures): void {
  for (const metric of COPY_METRICS) {
    new Gauge({
      name: `afterimage_receiver_copy_${metric.name}`,
      help: metric.help,
      labelNames: ['machine', 'name', 'instance', 'kind'],
      registers: [registry],
      collect() {
        this.reset();
        for (const copy of figures().copies) {
          const { id: machine, name } = copy.spec.machine;
          const { id: instance, kind } = copy.instance;
          const value = metric.of(copy);
          if (value !== null) this.set({ machine, name, instance, kind }, value);
        }
      },
    });
  }
  new Gauge({
    name: 'afterimage_receiver_jobs',
    help: 'Failover jobs by state: those that run, and those that ended since the start',
    labelNames: ['state'],
    registers: [registry],
    collect() {
      for (const [state, count] of Object.entries(figures().jobs)) this.set({ state }, count);
    },
  });
}

export function receiverMetrics(
  machines: () => readonly MachineStatus[],
  rssBytes: () => number,
  failover: () => FailoverFigures,
  upkeep: () => readonly MachineUpkeepStatus[] = () => [],
): Registry {
  const registry = new Registry();
  upkeepMetrics(registry, upkeep);
  failoverMetrics(registry, failover);
  for (const metric of METRICS) {
    new Gauge({
      name: `afterimage_receiver_${metric.name}`,
      help: metric.help,
      labelNames: ['machine', 'name'],
      registers: [registry],
      collect() {
        for (const m of machines()) {
          const value = metric.of(m);
          if (value !== null) this.set({ machine: m.machine, name: m.name }, value);
        }
      },
    });
  }
  new Gauge({
    name: 'afterimage_receiver_data_at_risk_bytes',
    help: 'What would be lost if the source died now, as its agent last said',
    labelNames: ['machine', 'disk'],
    registers: [registry],
    collect() {
      for (const m of machines())
        for (const d of m.disks) this.set({ machine: m.machine, disk: d.disk }, d.dataAtRiskBytes);
    },
  });
  new Gauge({
    name: 'afterimage_receiver_resident_bytes',
    help: 'Resident memory of the receiver',
    registers: [registry],
    collect() {
      this.set(rssBytes());
    },
  });
  return registry;
}
