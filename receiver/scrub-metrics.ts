/**
 * Metrics of the scrub in Prometheus' form, collected when they are asked for.
 */
import { Gauge, type Registry } from 'prom-client';
import type { ScrubFigures } from './upkeep/scrub-task.js';

export function scrubMetrics(registry: Registry, figures: () => readonly ScrubFigures[]): void {
  new Gauge({
    name: 'afterimage_damaged_objects',
    help: 'Objects of the store that were found damaged, by what became of them',
    labelNames: ['machine', 'state'],
    registers: [registry],
    collect() {
      this.reset();
      for (const { machine, damaged } of figures())
        for (const [state, count] of Object.entries(damaged)) this.set({ machine, state }, count);
    },
  });
  new Gauge({
    name: 'afterimage_scrub_read_bytes',
    help: 'Bytes that the running pass of the scrub, or the last, has read',
    labelNames: ['machine'],
    registers: [registry],
    collect() {
      for (const { machine, readBytes } of figures()) this.set({ machine }, readBytes);
    },
  });
  new Gauge({
    name: 'afterimage_scrub_completed_timestamp_seconds',
    help: 'When every object of the machine had been read for the last time',
    labelNames: ['machine'],
    registers: [registry],
    collect() {
      for (const { machine, completedAtMs } of figures())
        if (completedAtMs !== null) this.set({ machine }, completedAtMs / 1000);
    },
  });
}
