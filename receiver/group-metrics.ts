/**
 * Metrics of groups in Prometheus' form, collected when they are asked for: what this receiver made of them since it was started.
 */
import { Gauge, type Registry } from 'prom-client';
import type { GroupFigures } from './groups/group-service.js';

interface Metric {
  readonly name: string;
  readonly help: string;
  readonly of: (figures: GroupFigures) => number | null;
}

const METRICS: readonly Metric[] = [
  { name: 'points_made_total', help: 'Points of the group that all members committed', of: ({ made }) => made },
  {
    name: 'points_absent_total',
    help: 'Attempts at a point of the group that came to nothing',
    of: ({ absent }) => absent,
  },
  {
    name: 'failing',
    help: '1 while the last attempt at a point of the group came to nothing',
    of: ({ lastFailure }) => (lastFailure === '' ? 0 : 1),
  },
  {
    name: 'failures_in_a_row',
    help: 'Scheduled attempts at a point of the group that came to nothing since the last that did not',
    of: ({ failuresInARow }) => failuresInARow,
  },
  {
    name: 'last_point_cut_timestamp_seconds',
    help: 'Wall time of the cut of the last point of the group',
    of: ({ lastPoint }) => (lastPoint === null ? null : lastPoint.cutFromMs / 1000),
  },
  {
    name: 'last_point_skew_seconds',
    help: 'Bound of the distance of the cuts of its members in the last point of the group',
    of: ({ lastPoint }) => (lastPoint === null ? null : lastPoint.skewMs / 1000),
  },
];

export function groupMetrics(registry: Registry, figures: () => readonly GroupFigures[]): void {
  for (const { name, help, of } of METRICS) {
    new Gauge({
      name: `afterimage_receiver_group_${name}`,
      help,
      labelNames: ['group'],
      registers: [registry],
      collect() {
        this.reset();
        for (const group of figures()) {
          const value = of(group);
          if (value !== null) this.set({ group: group.name }, value);
        }
      },
    });
  }
}
