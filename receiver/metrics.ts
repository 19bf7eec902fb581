/**
 * Metrics of the receiver in Prometheus' form, collected from the sessions' status when they are asked for.
 */
import { Gauge, Registry } from 'prom-client';
import type { MachineStatus } from './session/status.js';

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

export function receiverMetrics(machines: () => readonly MachineStatus[], rssBytes: () => number): Registry {
  const registry = new Registry();
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
