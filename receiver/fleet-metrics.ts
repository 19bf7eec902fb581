/**
 * Metrics of several receivers on one store in Prometheus' form, collected when they are asked for.
 */
import { Counter, Gauge, type Registry } from 'prom-client';
import type { FleetFigures } from './fleet/fleet-status.js';

interface Metric {
  readonly name: string;
  readonly help: string;
  readonly of: (figures: FleetFigures) => number | null;
}

const GAUGES: readonly Metric[] = [
  {
    name: 'machines_owned',
    help: 'Machines that are written here: by their agent or by their copy',
    of: (f) => f.owned,
  },
  { name: 'machines_to_move', help: 'Machines here that belong to another receiver', of: (f) => f.toMove },
  {
    name: 'last_look_timestamp_seconds',
    help: 'Wall time of the last look at the other receivers that succeeded',
    of: (f) => (f.lookedAtMs === null ? null : f.lookedAtMs / 1000),
  },
  {
    name: 'problem',
    help: '1 while this receiver can not show that it lives, see the others, or has its id alone',
    of: (f) => (f.hasProblem ? 1 : 0),
  },
];

const COUNTERS: readonly Metric[] = [
  { name: 'redirects_total', help: 'Agents sent to another receiver since the start', of: (f) => f.counters.redirects },
  {
    name: 'takeovers_total',
    help: 'Machines taken over since the start whose agent came from another receiver',
    of: (f) => f.counters.takeovers,
  },
  {
    name: 'called_away_total',
    help: 'Agents sent away since the start because another receiver called for them',
    of: (f) => f.counters.calledAway,
  },
];

export function fleetMetrics(registry: Registry, figures: () => FleetFigures): void {
  const nameOf = (metric: Metric): string => `afterimage_receiver_fleet_${metric.name}`;
  for (const metric of GAUGES) {
    new Gauge({
      ...{ name: nameOf(metric), help: metric.help, registers: [registry] },
      collect() {
        const value = metric.of(figures());
        if (value !== null) this.set(value);
      },
    });
  }
  for (const metric of COUNTERS) {
    new Counter({
      ...{ name: nameOf(metric), help: metric.help, registers: [registry] },
      collect() {
        this.reset();
        this.inc(metric.of(figures()) ?? 0);
      },
    });
  }
  new Gauge({
    name: 'afterimage_receiver_fleet_receivers',
    help: 'Receivers on this store, this one among them, by whether they live',
    labelNames: ['liveness'],
    registers: [registry],
    collect() {
      for (const [liveness, count] of Object.entries(figures().receivers)) this.set({ liveness }, count);
    },
  });
}
